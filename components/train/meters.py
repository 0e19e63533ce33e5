"""Measurements during training: losses, speed, the time spent outside the model, memory."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import torch
from torch import Tensor

SAMPLED_EVERY = 50  # steps between two timed ones on a GPU


class LossSums:
    """Sums of the losses over an epoch's steps, kept on the device.

    Args:
        start: sums of the steps that an earlier, killed run did.
    """

    def __init__(self, device: torch.device, start: dict[str, float] | None = None) -> None:
        self.device, self.start = device, start or {}
        self.names: tuple[str, ...] = tuple(self.start)
        self._sums = torch.tensor(list(self.start.values()), dtype=torch.float64, device=device)

    def add(self, losses: dict[str, Tensor]) -> None:
        values = torch.stack(tuple(losses.values())).double()
        self._sums = self._sums + values if self.names else values
        self.names = tuple(losses)

    def read(self) -> dict[str, float]:
        return dict(zip(self.names, self._sums.tolist(), strict=True))


class Stopwatch:
    """Images per second, and the share of a step spent outside the model (augmentation and targets).

    On a CPU every step is timed. On a GPU, where the program runs ahead of the device, only every `SAMPLED_EVERY`-th step is,
    by events that are read after they happened, so that nothing waits.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.restart()

    def restart(self) -> None:
        """Begin an epoch's measurement."""
        self.images, self.steps, self._data, self._whole = 0, 0, 0.0, 0.0
        self._marks: list[Any] = []
        self._began = time.perf_counter()

    def mark(self) -> None:
        """Call at the start of a step, when its data is ready, and at its end."""
        if not self.cuda:
            self._marks.append(time.perf_counter())
        elif self.steps % SAMPLED_EVERY == 0:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)

    def step(self, images: int) -> None:
        """Count a finished step."""
        self.images, self.steps = self.images + images, self.steps + 1
        if len(self._marks) == 3 and (not self.cuda or self._marks[2].query()):
            begin, ready, end = self._marks
            self._data += begin.elapsed_time(ready) if self.cuda else ready - begin
            self._whole += begin.elapsed_time(end) if self.cuda else end - begin
            self._marks = []

    def read(self) -> dict[str, float]:
        """Since the last `restart`: images_per_second, and data_share in 0..1."""
        seconds = time.perf_counter() - self._began
        return {"images_per_second": self.images / seconds, "data_share": self._data / self._whole if self._whole else 0.0}


def peak_memory_mib(device: torch.device) -> float:
    """Largest memory so far, MiB: the GPU's allocations, or the process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
