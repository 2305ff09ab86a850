"""Fifty networks measured on three devices, for the tests of listing and of the catalog's page."""
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from timm_ofa.hub.folder import BLOCK, CONFIG, ELSEWHERE, FORMAT, PERF
from timm_ofa.hub.metadata import evidence
from timm_ofa.hub.record import Accuracy, Measurement, Record
from timm_ofa.spaces import load_space

SPACE = load_space('ofa_mbv3_tiny')
DEVICES = {  # slug: name, how much slower than the first
    'google-pixel-1': ('Google Pixel 1', 1.0), 'samsung-note10': ('Samsung Galaxy Note10', 0.6),
    'raspberry-pi-4': ('Raspberry Pi 4 Model B', 6.0)}


def make_measured(number: int, rng: np.random.Generator) -> Record:
    """A network with figures that look like those of a search; each second one only has a prediction on the last
    device, each fifth one an int8 latency on the first one."""
    arch = SPACE.sample(rng)
    base = rng.uniform(5, 40)
    measurements = []
    for index, (device, (name, factor)) in enumerate(DEVICES.items()):
        ms = round(base * factor * rng.uniform(0.95, 1.05), 3)
        predicted = index == 2 and number % 2 == 1
        measurements.append(Measurement(
            device=device, device_name=name, runtime='tflite-xnnpack', runtime_version='2.17', precision='fp32',
            threads=1, resolution=arch.resolution, latency_ms=ms, statistic='sum' if predicted else 'median',
            p50_ms=None if predicted else ms, p90_ms=None if predicted else round(ms * 1.1, 3),
            n=None if predicted else 100, source='predicted' if predicted else 'measured', date='2026-11-20'))
    if number % 5 == 0:
        fast = measurements[0].latency_ms / 2
        measurements.append(replace(
            measurements[0], runtime='onnxruntime-cpu', precision='int8', latency_ms=fast, p50_ms=fast))
    top1 = round(80 - 160 / (base + 8) - rng.exponential(0.8), 3)
    return Record(
        name=f'ofa_mbv3_google-pixel-1_lat{number}ms', space=SPACE, arch=arch, num_classes=10, device='google-pixel-1',
        device_name='Google Pixel 1', limit_ms=30.0, measurements=tuple(measurements), top1_pct=top1,
        accuracy=Accuracy(dataset='ImageNet-1k', split='validation', n=50000, protocol='Center crop.'),
        code_version='0.1.0')


def write_record(folder: Path, record: Record) -> Path:
    """The two files that listing reads."""
    folder.mkdir(parents=True)
    data = record.to_dict()
    inside = {k: v for k, v in data.items() if k not in (*ELSEWHERE[PERF], *ELSEWHERE[CONFIG])}
    config = {'num_classes': record.num_classes, BLOCK: {'format': FORMAT, **inside}}
    perf = {'format': FORMAT, 'name': record.name, **{k: data[k] for k in ELSEWHERE[PERF]}}
    (folder / CONFIG).write_text(json.dumps(config))
    (folder / PERF).write_text(json.dumps(perf))
    return folder


def fill_folder(folder: Path, number: int) -> list[Record]:
    rng = np.random.default_rng(0)
    records = [make_measured(i, rng) for i in range(number)]
    for record in records:
        write_record(folder / record.name, record)
    return records


def latency_of(record: Record, device: str) -> Measurement:
    return evidence(record, device)[0]


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])
