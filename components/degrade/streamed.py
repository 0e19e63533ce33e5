"""Training crops or images that do not fit in the device's memory: each batch's are read from the disk while the one before is computed.

The batches are those of a store in the device's memory, bit for bit; only the place of the pixels differs.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from components.base.files import size_in_words
from components.degrade.shard import Stored

S = TypeVar("S", bound=Stored)
RESIDENT_SHARE = 0.7  # of the device's free memory that pixels may take; the rest is for the network


class Place(Generic[S]):
    """Where a shard's training pixels lie: in the device's memory, or on the disk with a thread that fetches the next batch's.

    Args:
        store: memory-mapped, on the CPU.
        what: "crops" or "images", for the log.
    """

    def __init__(self, store: S, device: torch.device, what: str) -> None:
        self.device, self._store, self._pinned = device, store, device.type == "cuda"
        self.streams, self.said = chosen(store, device, what)
        if self.streams:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix=what)
            self._coming: tuple[list[int], Future[S]] | None = None
            self._last: tuple[list[int], S] | None = None
        else:
            self._resident = store.to(device)

    def rows(self, indices: Tensor) -> tuple[S, Tensor]:
        """A store on the device that holds crops `indices` (B,) at least, and where in it they are (B,)."""
        if not self.streams:
            return self._resident, indices.to(self.device)
        wanted = indices.tolist()
        if self._last is None or self._last[0] != wanted:
            coming, self._coming = self._coming, None
            found = coming[1].result() if coming is not None and coming[0] == wanted else picked(self._store, wanted, self._pinned)
            self._last = wanted, found.to(self.device)
        return self._last[1], torch.arange(len(wanted), device=self.device)

    def expect(self, indices: Tensor) -> None:
        """Begin to read crops `indices` (B,), which `rows` will be asked for next. Nothing to do where all are on the device."""
        if self.streams:
            wanted = indices.tolist()
            self._coming = wanted, self._thread.submit(picked, self._store, wanted, self._pinned)


def chosen(store: Stored, device: torch.device, what: str) -> tuple[bool, str]:
    """Whether the pixels stay on the disk, and what to say of it (nothing on a CPU, whose memory the disk is mapped into)."""
    if device.type == "cpu":
        return False, ""
    needed, free = sum(tensor.numel() * tensor.element_size() for tensor in tensors(store).values()), free_bytes(device)
    sizes = f"{size_in_words(needed)} of {what}, {size_in_words(free)} free on {device}"
    if needed <= RESIDENT_SHARE * free:
        return False, f"{sizes}: all are kept there"
    return True, f"{sizes}: they stay on the disk, and a thread fetches each batch's while the one before is computed"


def free_bytes(device: torch.device) -> int:
    """Memory of a GPU that no process has taken."""
    return torch.cuda.mem_get_info(device)[0]


def tensors(store: Stored) -> dict[str, Tensor]:
    """The store's tensors by name."""
    return {field.name: value for field in fields(store) if isinstance(value := getattr(store, field.name), Tensor)}


def picked(store: S, rows: list[int], pinned: bool = False) -> S:
    """A store of the given rows alone, in memory, in their order.

    Args:
        pinned: in memory from which a GPU copies by itself.
    """
    index = torch.tensor(rows, dtype=torch.int64)
    parts = {name: tensor[index] for name, tensor in tensors(store).items() if name != "pixels"}
    sizes = [int(height) * int(width) for height, width in zip(parts["height"], parts["width"], strict=True)]
    pixels = torch.empty(sum(sizes), dtype=store.pixels.dtype, pin_memory=pinned)
    starts, start = [], 0
    for offset, size in zip(parts["offset"].tolist(), sizes, strict=True):
        pixels[start : start + size] = store.pixels[offset : offset + size]
        starts.append(start)
        start += size
    changed: dict[str, Any] = {**parts, "pixels": pixels, "offset": torch.tensor(starts, dtype=torch.int64)}
    return replace(store, **changed)
