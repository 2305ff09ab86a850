"""A small training run, and what tests ask of its folder."""
import json
import os
import resource
import signal
from contextlib import contextmanager

import torch

from timm_ofa.fields import plain
from timm_ofa.images import Augment
from timm_ofa.training import Phase, TrainConfig
from timm_ofa.training.config import differing
from timm_ofa.training.loop import Loop

CONFIG = TrainConfig(
    'test', 'ofa_mbv3_tiny', 'digits', resolutions=(20, 24), batch_size=16, limit=57, drop_rate=0.1, clip_grad=10.0,
    augment=Augment(flip=False, erase=0.2), phases=(
        Phase('largest', 1, 0.05, warmup_epochs=1, kd_weight=0, depths=(3,), kernel_sizes=(5,), expand_ratios=(4,)),
        Phase('narrow', 1, 0.03, expand_ratios=(3, 4), sort_channels=True, subnets_per_step=2),
        Phase('all', 1, 0.03, sort_channels=True)))
STEPS = 4 * 3  # 51 images after the holdout, 3 batches an epoch


def events(folder, name='log.jsonl'):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


@contextmanager
def limited(what, value):
    """Set a limit of this process for a while: bytes of a file, bytes of memory."""
    before = resource.getrlimit(what)
    resource.setrlimit(what, (value, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


def stop_at(monkeypatch, step):
    """Send SIGTERM to this process once, when so many steps are done."""
    original, sent = Loop._step, []

    def step_and_stop(self, *args):
        original(self, *args)
        if args[-2].total_steps + 1 == step and not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr(Loop, '_step', step_and_stop)


def as_written(config):
    """The keys of a configuration that somebody would write."""
    return plain({**differing(config), 'space': config.space.name})
