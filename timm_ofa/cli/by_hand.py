"""The verbs that a `run` stands for, as commands that anybody can type, in the folder where `run` was typed."""
from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pipeline import Job
    from .planning import Plan

FOLDER, SCRIPT = 'verbs', 'commands.sh'  # in the folder of all results; where the commands write, and where they are
SPACE, TRAINING, FINETUNING = 'space.json', 'supernet/train.yaml', 'finetune.yaml'  # files of `run` that they read


def commands(job: Job, plan: Plan, made: Sequence[Mapping[str, Any]]) -> list[str]:
    """The commands that make the networks of these rows again, from the first stage to the last."""
    def at(name: str) -> str:
        return str(job.out / FOLDER / name)

    seed, space = ['--seed', job.seed], ['--space', job.out / SPACE]
    images = ['--data', job.data_source, *(['--test', job.test] if job.test else []),
              *(['--skip-broken'] if job.skip_broken else []), *seed]
    profile, also = job.profile or at('profile.json'), [f'{name}={limit_ms!r}' for name, limit_ms in job.also]
    lines = [['train', '--config', job.out / TRAINING, '--output', at('supernet')]]
    if not job.profile:
        under = [word for name, value in job.conditions.items() for word in (f'--{name}', value)]
        lines.append(['profile', *space, *under, '--num-classes', job.data.num_classes, *seed, '--out', profile])
    lines.append(['collect', '--supernet', at('supernet'), *images, '--active', '--profile', profile,
                  '--num', plan.subnets, '--out', at('records.jsonl')])
    lines.append(['fit', *space, '--records', at('records.jsonl'), *seed, '--out', at('predictor.safetensors')])
    for row in made:
        front = at(f'front_{row["limit_ms"]:g}ms.jsonl')
        lines.append(['search', *space, '--predictor', at('predictor.safetensors'), '--profile', profile,
                      '--max-latency-ms', repr(row['limit_ms']), *(['--also', *also] if also else []), *seed,
                      '--out', front])
        lines.append(['specialize', '--supernet', at('supernet'), '--front', front, *images,
                      *(['--finetune', job.out / FINETUNING] if plan.finetune_epochs else []),
                      *(['--no-measure'] if job.profile else []), '--out', at(row['network'])])
    lines.append(['catalog', '--source', at('.'), '--out', at('index.html')])
    if job.publish:
        to = ['--owner', job.publish] if len(made) > 1 else ['--repo', f'{job.publish}/{made[0]["network"]}']
        lines.append(['publish', *(at(row['network']) for row in made), *to])
    return [shlex.join(['mkdir', '-p', at('.')]), *(shlex.join(['timm-ofa', *map(str, line)]) for line in lines)]
