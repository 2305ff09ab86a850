"""The verb `run`: from images and a timm network to finished networks for a device, in one command.

The network is fine-tuned once, as anybody would do it. Then every subnet is repaired in seconds, so a front of them is
found without further training. Those that are chosen are fine-tuned with the whole network as their teacher.
"""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import stopped
from .shared import GO_ON, options
from .verbs import Answer, Option, Verb, positive, whole

RUN = Verb(
    'run', 'Go from images and a timm network to smaller networks that are as good, for this machine or a device.',
    '--data photos --from efficientnet_lite0 --max-latency-ms 3',
    options(
        'data test skip_broken also runtime precision threads seed',
        origin=Option('timm network with weights: a name, a folder, or hf-hub:ORG/NAME; it is trained unless '
                      'it knows these classes already', 'MODEL', flags=('--from',)),
        max_latency_ms=Option('largest latency in ms; by default 60 % of the latency of the whole network', 'MS',
                              positive),
        limits_ms=Option('several such limits; a network is made for each', 'MS', positive, many=True),
        profile=Option('device profile; by default this machine is measured', 'PROFILE'),
        resolutions=Option("resolutions in px; by default multiples of the network's stride that suit the images", 'PX',
                           whole(1), many=True),
        minutes=Option('about how long all of it may take; a run that goes on keeps its plan', 'M', positive),
        publish=Option('at the end publish the networks on the Hub', 'ORG'),
        out=Option('folder of all results; given again, finished steps are not repeated', 'DIR')))


@RUN.mode()
def run(*, data: str, origin: str, test: str | None = None, out: str = 'timm_ofa_run',
        max_latency_ms: float | None = None, limits_ms: Sequence[float] = (), also: Sequence[tuple[str, float]] = (),
        runtime: str = 'onnxruntime', precision: str = 'fp32', threads: int = 1, minutes: float = 60.0,
        resolutions: Sequence[int] | None = None, publish: str | None = None, seed: int = 0,
        skip_broken: bool = False) -> Answer:
    """For this machine, which is measured."""
    return _run(
        out, max_latency_ms, limits_ms, data_source=data, test=test, origin=origin, also=also, minutes=minutes,
        resolutions=resolutions, publish=publish, seed=seed, skip_broken=skip_broken,
        conditions=dict(runtime=runtime, precision=precision, threads=threads))


@RUN.mode('profile')
def run_for_device(*, data: str, origin: str, profile: str, test: str | None = None, out: str = 'timm_ofa_run',
                   max_latency_ms: float | None = None, limits_ms: Sequence[float] = (),
                   also: Sequence[tuple[str, float]] = (), minutes: float = 60.0,
                   resolutions: Sequence[int] | None = None, publish: str | None = None, seed: int = 0,
                   skip_broken: bool = False) -> Answer:
    """For the device of a profile; nothing is measured."""
    return _run(
        out, max_latency_ms, limits_ms, data_source=data, test=test, origin=origin, also=also, minutes=minutes,
        resolutions=resolutions, publish=publish, seed=seed, skip_broken=skip_broken, profile=profile)


def _run(out: str, max_latency_ms: float | None, limits_ms: Sequence[float], **job: Any) -> Answer:
    from .pipeline import Job

    limits = [*limits_ms, *([max_latency_ms] if max_latency_ms else [])]
    with stopped(GO_ON):
        return Job(out=Path(out), limits_ms=limits, **job).run()
