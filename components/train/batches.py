"""Which crops make up which step: a pure function of (seed, step), so that a resumed run repeats every batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Batches:
    """Indices of the crops of every step.

    Args:
        count: crops in the shard.
        batch_size: crops per step; a shard with fewer is one batch.
        drop_last: leave out the last, smaller batch of an epoch.
        device: where the indices are wanted; one upload per epoch.
        smallest: a last batch of fewer crops is left out in any case.
    """

    def __init__(self, count: int, batch_size: int, seed: int, drop_last: bool, device: torch.device, smallest: int = 1) -> None:
        self.count, self.batch_size, self.seed, self.device = count, min(batch_size, count), seed, device
        whole, rest = divmod(count, self.batch_size)
        self.steps_per_epoch = whole + (not drop_last and rest >= smallest)
        self._epoch, self._order = -1, torch.empty(0)

    def indices(self, step: int) -> Tensor:
        """(B,) int64 indices into the shard."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.count)
            self._epoch, self._order = epoch, torch.from_numpy(order).to(self.device)
        return self._order[position * self.batch_size : (position + 1) * self.batch_size]


def step_seed(seed: int, step: int) -> int:
    """Seed of everything drawn in one step, 63 bits."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> np.uint64(1))
