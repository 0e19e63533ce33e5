"""What makes a program wait for its GPU, found without one.

`HostWaits` sees every operator of a step on the CPU, the backward pass included, and refuses those whose result, or whose number of
results, the host must know. `on_fake_gpu` runs code on tensors that say they are on a GPU and have no numbers: reading one raises, and so
does an operator on tensors of two devices; `Copies` then sees what crosses between host and device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU = torch.device("cuda:0")
ROOM = 2**36  # bytes of its memory
READ = {  # of torch.ops.aten: their results decide a number, a shape or a branch on the host
    "_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "nonzero_numpy", "argwhere", "masked_select", "unique_dim",
    "unique_consecutive", "unique_dim_consecutive", "_unique", "_unique2", "bincount", "repeat_interleave", "_linalg_check_errors",
    "histogram", "allclose",
}  # fmt: skip
MASKED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}  # a mask as index is `nonzero`


class HostWaits(TorchDispatchMode):
    """
    Raises:
        AssertionError: an operator makes the host wait; names it.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        assert name not in READ or "output_size" in kwargs, f"aten::{name} waits for the device"
        if name in MASKED:
            masks = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
            assert not masks, f"aten::{name} with a mask waits for the device"
        return func(*args, **kwargs)


class Copies(TorchDispatchMode):
    """Remembers what is copied between host and device, as (operator, shape); single numbers of the host are arguments, no copies."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[tuple[str, tuple[int, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if name in ("_to_copy", "copy_", "copy"):
            source = args[1] if name != "_to_copy" else args[0]
            asynchronous = kwargs.get("non_blocking", len(args) > 2 and bool(args[2]))
            if isinstance(out, Tensor) and out.device.type != source.device.type and not asynchronous:
                self.waiting.append((name, tuple(source.shape)))
        return out


@contextmanager
def on_fake_gpu() -> Iterator[FakeTensorMode]:
    """Inside, tensors of `GPU` can be made and computed with, forward only (the engine of gradients asks the driver)."""
    room = mock.patch.object(torch.cuda, "mem_get_info", lambda device=None: (ROOM, ROOM))
    with room, FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


def placed(model: nn.Module) -> nn.Module:
    """The network with its weights and buffers on `GPU`, as `model.to` would; in place."""
    for module in model.modules():
        for name, value in module._parameters.items():
            if value is not None:
                module._parameters[name] = nn.Parameter(torch.empty(value.shape, device=GPU), value.requires_grad)
        for name, value in module._buffers.items():
            if value is not None:
                module._buffers[name] = torch.empty(value.shape, dtype=value.dtype, device=GPU)
    return model


def devices(tree: Any) -> set[str]:
    """The kinds of device of all tensors."""
    return {leaf.device.type for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)}
