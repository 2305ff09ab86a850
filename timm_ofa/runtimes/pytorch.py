"""PyTorch. It is always there, but on a CPU it takes twice as long as the other runtimes, and times vary more.

On a GPU a network is captured once as a CUDA graph, and each run replays the graph. So the time is that of the GPU, not
that of Python starting one operator after the other. All graphs share the memory of their activations. 'fp32' is IEEE
arithmetic there too, not TF32.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch

from ..spaces import Row
from .layers import BN_EPS, input_shape, random_input
from .torch_export import to_torch

NAME = 'pytorch'
REQUIRES = 'torch>=2.6'
PRECISIONS = ('fp32', 'bf16', 'fp16')
PROCESSORS = ('cpu', 'cuda')
DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
CUDA_LAYOUT = torch.channels_last  # H200, fp16: 2.3 times as fast as contiguous at batch 64, 10 % slower at batch 1
WARM_UP_RUNS = 2  # before a capture, to load libraries and choose algorithms


class _Module:
    """A module on the CPU, with the input on which it is timed."""

    def __init__(self, module: torch.nn.Module, x: np.ndarray, dtype: torch.dtype, threads: int) -> None:
        self._module = module.to(dtype)
        self._dtype, self._threads = dtype, threads
        self._x = torch.from_numpy(x).to(dtype)

    @torch.inference_mode()
    def __call__(self) -> None:
        with _threads(self._threads):
            self._module(self._x)

    @torch.inference_mode()
    def predict(self, x: np.ndarray) -> np.ndarray:
        with _threads(self._threads):
            return self._module(torch.from_numpy(x).to(self._dtype)).float().numpy()


class _CudaGraph:
    """A module on the GPU, captured with the input on which it is timed: `shape`, standard normal."""

    def __init__(self, module: torch.nn.Module, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> None:
        self._dtype = dtype
        self._module = module.to('cuda', dtype).to(memory_format=CUDA_LAYOUT)
        generator = torch.Generator('cuda').manual_seed(seed)
        self._x = self._on_gpu(torch.randn(shape, generator=generator, device='cuda'))
        self._graph = self._capture()

    def _on_gpu(self, x: torch.Tensor) -> torch.Tensor:
        return x.to('cuda', self._dtype, memory_format=CUDA_LAYOUT)

    @torch.no_grad()
    def _capture(self) -> torch.cuda.CUDAGraph:
        graph, stream = torch.cuda.CUDAGraph(), _capture_stream()
        torch.cuda.synchronize()
        with _ieee(), torch.cuda.stream(stream):
            for _ in range(WARM_UP_RUNS):
                self._module(self._x)
            stream.synchronize()
            graph.capture_begin(pool=_shared_memory().pool())
            try:
                self._module(self._x)
            finally:
                graph.capture_end()
        return graph

    def __call__(self) -> None:
        self._graph.replay()
        torch.cuda.synchronize()

    @torch.inference_mode()
    def peak_memory_mb(self) -> float:
        """Memory of one run in MB (1e6 bytes): the weights, the input, and what is allocated during the run."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with _ieee():
            self._module(self._x)
        torch.cuda.synchronize()
        own = [*self._module.parameters(), *self._module.buffers(), self._x]
        held = sum(tensor.numel() * tensor.element_size() for tensor in own)
        return (held + torch.cuda.max_memory_allocated() - before) / 1e6

    @torch.inference_mode()
    def predict(self, x: np.ndarray) -> np.ndarray:
        with _ieee():
            return self._module(self._on_gpu(torch.from_numpy(x))).float().cpu().numpy()


def version() -> str:
    return str(torch.__version__)


def load(rows: Sequence[Row], *, weights: Mapping | None = None, bn_eps: float = BN_EPS, precision: str = 'fp32',
         processor: str = 'cpu', threads: int = 1, batch_size: int = 1, seed: int = 0) -> _Module | _CudaGraph:
    module, dtype = to_torch(rows, weights=weights, bn_eps=bn_eps, seed=seed), DTYPES[precision]
    if processor == 'cuda':
        return _CudaGraph(module, input_shape(rows, batch_size), dtype, seed)
    return _Module(module, random_input(rows, batch_size, seed), dtype, threads)


@cache
def _capture_stream() -> torch.cuda.Stream:
    """The stream of all captures: it must not be the default one, and memory is reused only on the same stream."""
    return torch.cuda.Stream()


@cache
def _shared_memory() -> torch.cuda.CUDAGraph:
    """A tiny graph, kept for its memory pool. All other graphs use that pool, because only one runs at a time."""
    graph, stream = torch.cuda.CUDAGraph(), _capture_stream()
    with torch.cuda.stream(stream):
        graph.capture_begin()
        torch.zeros(1, device='cuda')
        graph.capture_end()
    return graph


@contextmanager
def _ieee() -> Iterator[None]:
    """Turn TF32 off, then restore it: the switches are those of the whole process."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


@contextmanager
def _threads(threads: int) -> Iterator[None]:
    """Set torch's number of threads, then restore it: there is one number for the whole process."""
    before = torch.get_num_threads()
    if before != threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if before != threads:
            torch.set_num_threads(before)
