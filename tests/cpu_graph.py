"""CUDA graphs on a CPU: what a step calls is recorded once, and replayed on the same tensors without running the step's Python again.

A recording holds addresses and numbers: whatever Python decided while it was recorded, such as a rate that is no tensor, stays so in every
replay. That is what makes a graphed step wrong, and it shows here bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


class CpuGraph(TorchDispatchMode):
    """Takes the place of `torch.cuda.CUDAGraph`."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        given = {tensor.untyped_storage().data_ptr() for tensor in _tensors((args, kwargs))}
        made = [tensor for tensor in _tensors(out) if tensor.untyped_storage().data_ptr() not in given]
        if made or func._schema.is_mutable:  # a view of a recorded tensor needs no replay
            self._calls.append((func, args, kwargs, made))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, made in self._calls:
            out = func(*args, **kwargs)
            again = [tensor for tensor in _tensors(out) if not any(tensor is given for given in _tensors((args, kwargs)))]
            if made:
                for old, new in zip(made, again, strict=True):
                    old.copy_(new)


@contextmanager
def recording(graph: CpuGraph) -> Iterator[None]:
    """Takes the place of `torch.cuda.graph`."""
    with graph:
        yield


class Stream:
    """Takes the place of `torch.cuda.Stream`; everything runs in order anyway."""

    def wait_stream(self, other: Stream) -> None:
        return None


@contextmanager
def on(stream: Stream) -> Iterator[None]:
    yield


def install(monkeypatch: Any) -> None:
    """Let `components.train.graphed` record on the CPU."""
    for name, value in {"CUDAGraph": CpuGraph, "graph": recording, "Stream": Stream, "stream": on, "current_stream": Stream}.items():
        monkeypatch.setattr(torch.cuda, name, value)
