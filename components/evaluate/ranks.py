"""The processes of one data-parallel training (`torchrun`): each works on its part of a batch, and all know the same sums.

A batch is cut into one part per process. The outputs of all parts are brought together before the loss, so that losses that are normalised
over the batch (labelled joints, peaks, spreads) are those of one process; a process's gradient is the part that flows through its own
outputs, and their sum is the whole gradient.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from datetime import timedelta

import numpy as np
import torch
from torch import Tensor, distributed, nn

from components.evaluate.predictions import Predictions

SILENCE = timedelta(minutes=10)  # a process that says nothing for so long is taken for dead


@dataclass(frozen=True)
class Ranks:
    """This process among those of one training.

    Attributes:
        rank: its number from 0; process 0 writes and prints.
        count: of processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sizes(self, items: int) -> list[int]:
        """How many of `items` each process takes: parts that differ by one at most, the larger ones first."""
        return [items // self.count + (rank < items % self.count) for rank in range(self.count)]

    def part(self, items: int) -> slice:
        """This process's part of `items`; all of them where it is alone."""
        sizes = self.sizes(items)
        start = sum(sizes[: self.rank])
        return slice(start, start + sizes[self.rank])

    def whole(self, own: Tensor, sizes: list[int]) -> Tensor:
        """All processes' parts (N, ...) in order of rank. Gradients flow through this process's own part (n, ...) alone.

        Args:
            sizes: of every process's part; they sum to N, and none is 0.
        """
        if self.count == 1:
            return own
        parts = _from_all(own.detach(), sizes)
        parts[self.rank] = own
        return torch.cat(parts)

    def rows(self, own: np.ndarray, device: torch.device) -> np.ndarray:
        """All processes' rows (N, ...) of a numeric array, in order of rank; the processes may have any number of them.

        Args:
            device: through which they travel.
        """
        if self.count == 1:
            return own
        counts = _from_all(torch.tensor([len(own)], device=device), [1] * self.count)
        parts = _from_all(torch.from_numpy(np.ascontiguousarray(own)).to(device), [int(count) for count in counts])
        return torch.cat(parts).cpu().numpy()

    def any(self, flag: Tensor) -> Tensor:
        """Whether the bool () is true in any process."""
        if self.count == 1:
            return flag
        counted = flag.to(torch.int32)
        distributed.all_reduce(counted, distributed.ReduceOp.MAX)
        return counted > 0

    def add_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Replace the gradients by their sum over the processes, in one message."""
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        distributed.all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def share_buffers(self, model: nn.Module) -> None:
        """Give every process the batch norm statistics of process 0, which are those that are kept."""
        if self.count > 1:
            for buffer in model.buffers():
                distributed.broadcast(buffer, 0)

    def wait(self) -> None:
        """Return when all processes are here."""
        if self.count > 1:
            distributed.barrier()


ALONE = Ranks()


def _from_all(own: Tensor, sizes: list[int]) -> list[Tensor]:
    """Every process's part (n, ...), in order of rank. Messages have one length, so that shorter parts travel with zeros behind them."""
    kind = torch.uint8 if own.dtype == torch.bool else own.dtype  # not every backend sends bools
    sent = own.new_zeros(max(*sizes, 1), *own.shape[1:], dtype=kind)
    sent[: len(own)] = own
    received = [torch.empty_like(sent) for _ in sizes]
    distributed.all_gather(received, sent)
    return [part[:size].to(own.dtype) for part, size in zip(received, sizes, strict=True)]


def together(own: Predictions, ranks: Ranks, device: torch.device) -> Predictions:
    """The predictions of all processes, in order of rank: each process predicted its part of the persons or images.

    Args:
        device: through which they travel.
    """
    columns = {field.name: getattr(own, field.name) for field in fields(own)}
    return Predictions(**{name: ranks.rows(column, device) for name, column in columns.items() if column is not None})


def join(device: torch.device) -> Ranks:
    """Join the processes that `torchrun` started; `leave` at the end.

    Args:
        device: of this process; its kind decides how they talk (NCCL between GPUs, gloo between CPUs).
    """
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=SILENCE)
    return Ranks(distributed.get_rank(), distributed.get_world_size())


def leave() -> None:
    distributed.destroy_process_group()


def own_device(device: torch.device) -> torch.device:
    """This process's device under `torchrun`: the GPU of its number on this machine."""
    return torch.device(device.type, int(os.environ["LOCAL_RANK"])) if device.type == "cuda" else device
