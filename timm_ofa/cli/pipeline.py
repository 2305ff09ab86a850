"""The work of `run`, stage by stage; see `running` for what it does and why."""
from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from ..accuracy import AccuracyPredictor
from ..console import say, table
from ..devices import DeviceProfile, load_profile
from ..errors import InputError
from ..fields import read
from ..files import locked, write_text
from ..hub import (
    FrontFile,
    NotWithin,
    Source,
    arch_name,
    arch_timer,
    catalog,
    check_target,
    check_token,
    predicted_ms,
    publish_family,
    save_front,
)
from ..images import Augment, Data, ImageSet, load_data, stored_side
from ..networks import load_trained, read_json, space_of, supernet_of
from ..runtimes import load_runtime
from ..searching import Candidate, Limit, refuse_infeasible, search
from ..spaces import SearchSpace
from ..training import FinetuneConfig, Phase, TrainConfig
from . import by_hand, stages
from .planning import Plan, make_plan, sides_for, usual_side
from .shared import check_folder_place, check_room_for
from .verbs import Answer

SETTINGS, PLAN, NETWORKS = 'run.json', 'plan.json', 'networks.json'
PROFILE_SECONDS = 20.0
BATCH_SIZE, LR, FINETUNE_LR, WEIGHT_DECAY = 64, 0.01, 0.004, 1e-4
SMALL_PX = 64  # smaller images are shifted, larger ones cropped
SHOWN = 8  # networks of a front
LISTED_PX = 1  # side of images that are listed only


@dataclass(frozen=True)
class Job:
    """What is wanted."""
    data_source: str
    test: str | None  # other test images
    origin: str  # the network
    out: Path
    limits_ms: Sequence[float]
    also: Sequence[tuple[str, float]]  # further devices: profile, limit (ms)
    minutes: float
    resolutions: Sequence[int] | None
    publish: str | None
    seed: int
    skip_broken: bool
    profile: str | None = None  # of a device; None: this machine
    conditions: Mapping[str, Any] = field(default_factory=dict)  # of measuring this machine

    def run(self) -> Answer:
        """All stages; those that are done are not repeated. A second run into the same folder is refused meanwhile."""
        with locked(self.out, wait=False):
            return self._run()

    def _run(self) -> Answer:
        began = time.perf_counter()
        self._check()
        say(f'1/7 images: {self.data_source}')
        stages.say_remarks(self.data)
        say(f'2/7 network: {self.origin}, at {", ".join(map(str, self.space.resolutions))} px')
        if self._given:
            self._given.check_space(self.space)
        refuse_infeasible(self.space, None, self._further)
        check_room_for(9, self.out, self.space)
        plan = self._plan()
        say(f'3/7 latency of {self.profile or "this machine"}')
        profile, limits_ms = self._device()
        say(f'4/7 the whole network: {f"{plan.epochs} epochs" if plan.epochs else "trained already"}')
        source = self._source(plan)
        say(f'5/7 accuracy of {plan.subnets} of {self.space.size():,} subnets, repaired')
        predictor = stages.predicted(self.out, source, profile, plan.subnets, self.seed)
        words = [f'{", ".join(f"{ms:g}" for ms in limits_ms)} ms', *(limit.text() for limit in self._further)]
        say(f'6/7 search: most accurate under {", and ".join(words)}')
        fronts = [self._front(limit_ms, predictor, profile) for limit_ms in limits_ms]
        compared = stages.references(self.space, predictor, profile, {
            f'{self.space.name} at {r} px': self.space.max_arch(r) for r in reversed(self.space.resolutions)})
        say(_front_table(fronts[-1], compared))
        say('7/7 fine-tune, save, load again in a new process')
        rows = self._with_further(self._finish(source, profile, plan, fronts, compared))
        stages.write_summary(self.out, rows, limits_ms, time.perf_counter() - began)
        script = by_hand.commands(self, plan, rows[len(compared):])
        write_text(self.out / by_hand.SCRIPT, '\n'.join(['set -e', *script, '']))
        return Answer(rows, self._closing_words(rows), '\n'.join(
            [f'the same, verb by verb ({self.out / by_hand.SCRIPT}):', *script]))

    # ---- what is known before the work ------------------------------------------------------------------------------

    @property
    def _settings(self) -> dict[str, Any]:
        """What finished steps depend on."""
        return {'data': self.data_source, 'test': self.test, 'from': self.origin, 'profile': self.profile,
                'also': [list(pair) for pair in self.also] or None, 'seed': self.seed,
                'resolutions': list(self.resolutions) if self.resolutions else None, **self.conditions}

    def _check(self) -> None:
        """Raise `InputError` for what would fail after the work."""
        check_folder_place(str(self.out))
        stages.check_settings(self.out / SETTINGS, self._settings)
        if self.profile is None:
            load_runtime(self.conditions['runtime'], self.conditions['precision'], 'cpu')
        _ = self._given, self._others  # what cannot be read is said here
        if self.publish:
            check_token(self.publish, [])

    @cached_property
    def model(self) -> nn.Module:
        return load_trained(self.origin, '--from')

    @cached_property
    def space(self) -> SearchSpace:
        """What may vary in the network, at resolutions that suit the images."""
        own = space_of(self.model)
        if self.resolutions:
            return space_of(self.model, resolutions=tuple(sorted(set(self.resolutions))))
        train = self._listed.train
        assert isinstance(train, ImageSet)
        return space_of(self.model, resolutions=tuple(sides_for(own, usual_side(train))))

    @cached_property
    def _listed(self) -> Data:
        """The images, not decoded and of any side."""
        data = load_data(
            self.data_source, LISTED_PX, seed=self.seed, decode='always', skip_broken=self.skip_broken, test=self.test)
        if not isinstance(data.train, ImageSet):
            raise InputError(f'--data {self.data_source!r:.120} is a stream; give images that can be read again')
        return data

    @cached_property
    def data(self) -> Data:
        return self._listed.at(stored_side(self.space))

    @cached_property
    def _given(self) -> DeviceProfile | None:
        """The profile of a device; None: this machine is measured."""
        return load_profile(self.profile) if self.profile else None

    @cached_property
    def _others(self) -> list[DeviceProfile]:
        """The profiles of further devices."""
        return [load_profile(name) for name, _ in self.also]

    @property
    def _further(self) -> list[Limit]:
        """The limits on further devices."""
        return [Limit(profile, limit_ms) for profile, (_, limit_ms) in zip(self._others, self.also)]

    @property
    def _trained(self) -> bool:
        """Whether the network knows the classes of the images."""
        return vars(self.model)['num_classes'] == self.data.num_classes

    @property
    def _augment(self) -> Augment:
        if max(self.space.resolutions) < SMALL_PX:
            return Augment()
        return Augment(crop='area', scale=(0.5, 1.0))

    def _plan(self) -> Plan:
        """The plan of the folder; a new one where there is none yet."""
        file = self.out / PLAN
        if file.exists():
            plan = read(Plan, read_json(file), f'plan {str(file)!r:.120}')
            say(f'    plan as before: {plan}')
            return plan
        plan = make_plan(
            supernet_of(self.model, resolutions=self.space.resolutions), self.data, self.minutes,
            max(1, len(self.limits_ms)), self._batch_size, self._trained)
        write_text(self.out / SETTINGS, json.dumps(self._settings, indent=1))
        write_text(self.out / by_hand.SPACE, json.dumps(self.space.to_dict(), indent=1))
        write_text(file, json.dumps(asdict(plan), indent=1))
        say(f'    plan for {self.minutes:g} minutes: {plan}')
        return plan

    @property
    def _batch_size(self) -> int:
        """Smaller for few images, so that an epoch has 16 steps."""
        return max(8, min(BATCH_SIZE, len(self.data.train) // 16 // 8 * 8))

    # ---- the stages -------------------------------------------------------------------------------------------------

    def _device(self) -> tuple[DeviceProfile, list[float]]:
        """The profile, and the limits (ms), lowest first."""
        profile = self._given or stages.profiled(
            self.out / 'profile.json', self.space, self.data.num_classes, PROFILE_SECONDS, self.seed, **self.conditions)
        limits_ms = sorted(set(self.limits_ms)) or [stages.usual_limit_ms(self.space, profile)]
        refuse_infeasible(self.space, profile, [Limit(profile, limits_ms[0]), *self._further])
        return profile, limits_ms

    def _source(self, plan: Plan) -> Source:
        """The whole network, trained, as a supernet whose subnets are repaired."""
        slug, warmup = re.sub('[^a-z0-9]+', '_', self.space.name.lower()), int(plan.epochs > 1)
        config = TrainConfig(
            f'ofa_{slug}_run', self.space, self.data_source, test=self.test, phases=(
                Phase('whole', plan.epochs - warmup, LR, warmup, recipe='largest'),),
            batch_size=self._batch_size, seed=self.seed, weight_decay=WEIGHT_DECAY, augment=self._augment,
            initial_checkpoint=self.origin, skip_broken=self.skip_broken)
        folder = self.out / 'supernet'
        supernet, training = stages.trained(config, self.data, folder)
        return Source(supernet, str(folder), self.data, self._augment, training, self.seed, repairs=True)

    def _front(self, limit_ms: float, predictor: AccuracyPredictor, profile: DeviceProfile) -> FrontFile:
        """The front under a limit, and under those on further devices."""
        result = search(
            self.space, predictor, profile, max_latency_ms=limit_ms, limits=self._further, seed=self.seed)
        return save_front(
            self.out / f'front_{limit_ms:g}ms.jsonl', result, self.space, predictor, profile,
            self.profile or str(self.out / 'profile.json'), limit_ms, self.seed,
            [limit.text() for limit in self._further])

    def _finish(self, source: Source, profile: DeviceProfile, plan: Plan, fronts: Sequence[FrontFile],
                compared: Mapping[str, Candidate]) -> list[dict[str, Any]]:
        """Make a network for each limit, publish them if that is wanted; rows of the whole network and of these."""
        timer = None if self.profile else arch_timer(self.space, profile, self.data.num_classes)
        training = FinetuneConfig(
            plan.finetune_epochs, FINETUNE_LR, batch_size=self._batch_size, weight_decay=WEIGHT_DECAY,
            teacher='largest') if plan.finetune_epochs else None
        if training:
            write_text(self.out / by_hand.FINETUNING, yaml.safe_dump({'kind': 'finetune', **asdict(training)}))
        finished = stages.Finished(self.out / NETWORKS)
        rows: list[dict[str, Any]] = finished('compared', lambda: stages.compared_rows(source, compared, timer))
        made: list[dict[str, Any]] = []
        for place, found in enumerate(fronts, 1):
            try:
                row = finished(f'{"within" if self.limits_ms else "about"} {found.bound_ms:g} ms', partial(
                    self._network, source, profile, found, compared, timer, training, [row['arch'] for row in made]))
            except NotWithin as error:
                if place == len(fronts) and not made:
                    raise
                say(f'    {error}')
                continue
            if row:
                made.append(row)
        page = catalog(str(self.out), self.out / 'index.html')
        say(f'    page of the networks: {page}')
        if self.publish:
            for done in publish_family([row['folder'] for row in made], self.publish):
                say(f'    published: {done["url"]} ({done["version"]})')
        return rows + made

    def _network(self, source: Source, profile: DeviceProfile, found: FrontFile, compared: Mapping[str, Candidate],
                 timer: stages.Timer | None, training: FinetuneConfig | None, made: Sequence[str],
                 ) -> dict[str, Any] | None:
        """The row of the network of a front, which is finished and saved; None if it is one of those that are made."""
        found, chosen = stages.best_found(found, timer, bool(self.limits_ms))
        if str(chosen.candidate.arch) in made:
            say(f'    {found.bound_ms:g} ms: the same network as within less; left out')
            return None
        folder = self.out / arch_name(self.space, found.under, found.bound_ms)
        check_target(folder)
        row = stages.saved(source, chosen, found, profile, compared, folder, training)
        return {**row, 'network': folder.name, 'limit_ms': found.max_latency_ms}

    def _with_further(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows with the latencies that are predicted on further devices."""
        if not self.also:
            return list(rows)
        archs = [self.space.parse(row['arch']) for row in rows]
        found = {profile.name: profile.latency_ms(self.space, archs) for profile in self._others}
        return [{**row, 'also_ms': {name: round(float(ms[i]), 4) for name, ms in found.items()}}
                for i, row in enumerate(rows)]

    def _closing_words(self, rows: Sequence[dict[str, Any]]) -> str:
        """The table for people, and the lines that load a network."""
        return (
            f'{stages.rows_table(rows)}\n\n    import timm, timm_ofa\n'
            f"    model = timm.create_model('local-dir:{rows[-1]['folder']}', pretrained=True)")


def _front_table(found: FrontFile, compared: Mapping[str, Candidate]) -> str:
    """The front as it is predicted before anything is fine-tuned, with the networks to compare with."""
    step = max(1, len(found.front) // SHOWN)
    points = [(str(c.arch), c) for c in found.front[::-1][::step][::-1]]
    return table(['predicted before fine-tuning', 'top-1 %', 'ms'], [
        [label, round(c.top1_pct, 1), round(predicted_ms(c), 3)] for label, c in [*compared.items(), *points]])
