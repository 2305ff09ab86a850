"""CUDA graphs of blocks: a step is hundreds of small kernels a subnet, and launching them is what takes time.

A block at one choice and one shape of input is captured once, forward and backward, and replayed from then on. Subnets
share blocks, so a few hundred captures serve all subnets of a space.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

import torch
from timm.layers import DropPath
from torch import nn
from torch.autograd.function import once_differentiable

CAPTURE_AT = 3  # uses; before that a block runs as it is, which also warms up its kernels
MEMORY_SHARE = 0.4  # of the device's memory; beyond it nothing more is captured


def run_block(block: nn.Module, x: torch.Tensor, *choice) -> torch.Tensor:
    """The block as it is, on x (N, C, H, W)."""
    return block(x, *choice)


class BlockGraphs:
    """Runs blocks like `run_block`, on a CUDA device by replaying graphs.

    The captures of one block share memory, as one of them at a time is between its forward and its backward pass; a
    block that is called again before its backward pass runs as it is, and so does one with dropout. Parameters must
    stay where they are (no `.to()`), and learn in the mode, training or not, in which they were captured.
    """

    def __init__(self):
        self._uses: Counter[Hashable] = Counter()
        self._graphs: dict[Hashable, _Graph] = {}
        self._pools: dict[nn.Module, tuple] = {}
        self._random: dict[nn.Module, bool] = {}
        self._live: set[nn.Module] = set()  # between forward and backward
        self._bytes = 0

    def __len__(self) -> int:
        """Captures so far."""
        return len(self._graphs)

    def __call__(self, block: nn.Module, x: torch.Tensor, *choice) -> torch.Tensor:
        if x.device.type != 'cuda' or self._is_random(block) or block in self._live:
            return block(x, *choice)
        with_backward = torch.is_grad_enabled()
        autocast = torch.get_autocast_dtype('cuda') if torch.is_autocast_enabled('cuda') else None
        key = (block, choice, x.shape, x.stride(), x.dtype, x.requires_grad, autocast, with_backward, block.training)
        graph = self._graphs.get(key)
        if graph is None:
            self._uses[key] += 1
            if self._uses[key] < CAPTURE_AT or self._bytes > MEMORY_SHARE * torch.cuda.mem_get_info(x.device)[1]:
                return block(x, *choice)
            graph = self._graphs[key] = self._capture(block, x, choice, autocast, with_backward)
        if with_backward:
            return _Replay.apply(graph, self._live, x, *graph.parameters)
        return graph.forward(x).clone()

    def _is_random(self, block: nn.Module) -> bool:
        if block not in self._random:
            self._random[block] = any(
                (isinstance(m, DropPath) and m.drop_prob) or (isinstance(m, nn.Dropout) and m.p)
                for m in block.modules())
        return self._random[block]

    def _capture(self, block: nn.Module, x: torch.Tensor, choice: tuple, autocast: torch.dtype | None,
                 with_backward: bool) -> _Graph:
        if block not in self._pools:
            self._pools[block] = torch.cuda.graph_pool_handle()
        before = torch.cuda.memory_reserved(x.device)
        graph = _Graph(block, x, choice, autocast, with_backward, self._pools[block])
        self._bytes += torch.cuda.memory_reserved(x.device) - before
        return graph


class _Graph:
    """One block at one choice: static input and output, and the captures between them."""

    def __init__(self, block: nn.Module, x: torch.Tensor, choice: tuple, autocast: torch.dtype | None,
                 with_backward: bool, pool: tuple):
        self.block = block
        self.x = x.detach().clone().requires_grad_(x.requires_grad)
        parameters = [p for p in block.parameters() if p.requires_grad]
        buffers = [(buffer, buffer.clone()) for buffer in block.buffers()]

        def run() -> torch.Tensor:
            with torch.autocast('cuda', autocast, enabled=autocast is not None, cache_enabled=False):
                return block(self.x, *choice)

        def differentiate(y: torch.Tensor, grad_y: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
            inputs = ([self.x] if x.requires_grad else []) + parameters
            return torch.autograd.grad(y, inputs, grad_y, allow_unused=True)
        stream = torch.cuda.Stream(x.device)
        stream.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(stream):  # warm up on the side stream, as captures need
            y = run()
            if with_backward:
                differentiate(y, torch.zeros_like(y))
            del y
        torch.cuda.current_stream(x.device).wait_stream(stream)
        self._forward, self._backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with _captured(self._forward, pool, stream):
            self.y = run()
        self.parameters: list[nn.Parameter] = []
        if with_backward:
            self.grad_y = torch.empty_like(self.y)
            with _captured(self._backward, pool, stream):
                grads = differentiate(self.y, self.grad_y)
            self.grad_x, *grads = grads if x.requires_grad else (None, *grads)
            used = [(p, grad) for p, grad in zip(parameters, grads) if grad is not None]
            self.parameters, self.grads = [p for p, _ in used], [grad for _, grad in used]
        self.y = self.y.detach()  # nothing of the captured passes is needed any more
        for buffer, value in buffers:
            buffer.copy_(value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The static output for x, overwritten by the next replay."""
        self.x.detach().copy_(x)
        self._forward.replay()
        return self.y

    def backward(self, grad_y: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Static gradients of the input and the parameters, overwritten by the next replay."""
        self.grad_y.copy_(grad_y)
        self._backward.replay()
        return self.grad_x, *self.grads


@contextmanager
def _captured(graph: torch.cuda.CUDAGraph, pool: tuple, stream: torch.cuda.Stream) -> Iterator[None]:
    """What `torch.cuda.graph` does, without emptying the cache of memory each time; other threads, which bring images
    to the device, may go on."""
    torch.cuda.synchronize(stream.device)
    with torch.cuda.stream(stream):
        graph.capture_begin(pool=pool, capture_error_mode='thread_local')
        try:
            yield
        finally:
            graph.capture_end()


class _Replay(torch.autograd.Function):
    """The graph's parameters are arguments so that they get their gradients. These are handed over as they are: while
    `graph` refers to them as well, autograd copies them instead of adopting what the next replay overwrites."""

    @staticmethod
    def forward(ctx, graph: _Graph, live: set[nn.Module], x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        ctx.graph, ctx.live = graph, live
        live.add(graph.block)
        return graph.forward(x).detach()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y: torch.Tensor) -> tuple:
        grads = ctx.graph.backward(grad_y)
        ctx.live.discard(ctx.graph.block)
        return None, None, *grads


def graphs_for(device: torch.device, num_processes: int) -> Callable[..., torch.Tensor]:
    """How blocks are run in training: by graphs on one CUDA device alone, where no process waits for another."""
    return BlockGraphs() if device.type == 'cuda' and num_processes == 1 else run_block
