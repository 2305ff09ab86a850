"""The verb `env`: what a report of a fault should say of the computer."""
from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from .verbs import Answer, Verb, rows_answer

PACKAGES = (
    'torch', 'timm', 'numpy', 'scipy', 'pillow', 'datasets', 'accelerate', 'huggingface_hub', 'safetensors', 'onnx')
VARIABLES = ('OMP_NUM_THREADS', 'TIMM_OFA_PROGRESS', 'HF_HUB_OFFLINE', 'CUDA_VISIBLE_DEVICES')
ENV = Verb('env', 'Tell versions, device, threads and free memory, for a report of a fault.', '--format json')


@ENV.mode()
def tell_environment() -> Answer:
    """Versions, device, threads and free memory. Nothing of it names the user, the host or a place on the disk."""
    import torch

    from .. import __version__
    from ..devices import this_device
    from ..runtimes import runtime_names

    rows = dict(timm_ofa=__version__, python=platform.python_version(), system=platform.platform(terse=True))
    rows |= {name: _version(name) for name in PACKAGES}
    rows |= {f'runtime {name}': _runtime_version(name) for name in runtime_names()}
    rows['device'] = this_device()[1]
    rows['gpu'] = this_device('cuda')[1] if torch.cuda.is_available() else 'none'
    usable = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    rows['cores'] = f'{usable} usable of {os.cpu_count()}'
    rows['threads'] = f'{torch.get_num_threads()} of torch'
    rows['memory'] = _memory()
    rows |= {name: os.environ[name] for name in VARIABLES if name in os.environ}
    return rows_answer(['what', 'value'], [dict(what=what, value=value) for what, value in rows.items()])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return 'not installed'


def _runtime_version(name: str) -> str:
    from ..errors import InputError
    from ..runtimes import load_runtime

    try:
        return load_runtime(name).version()
    except InputError as error:
        return str(error)


def _memory() -> str:
    """Free and whole memory, where the system tells."""
    try:
        with open('/proc/meminfo', encoding='ascii') as file:
            in_bytes = {line.split(':')[0]: 1024 * int(line.split()[1]) for line in file}
    except OSError:
        return 'not known'
    return f'{in_bytes["MemAvailable"] / 1e9:.1f} GB free of {in_bytes["MemTotal"] / 1e9:.1f} GB'
