"""Stop before a ruined run ruins more: losses that are not finite, and many batches in a row that supervise nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from components.base.errors import FarposeError

NEVER = 2**62  # later than any step
# Small batches of persons with few labelled joints teach nothing now and then, because augmentation moves these joints out of the crop.
MOST_BARREN = 100  # batches in a row
FINITE = "the loss is not finite", "look at these persons, or lower learning_rate or set gradient_clip"
BARREN = "no labelled joint lies inside any crop of", "look at these persons' boxes and joints, or turn augmentation down"


class Guard:
    """Remembers, on the device, the first step at which something was wrong.

    Reading it makes the GPU wait, so it is read only now and then; the step's persons are recomputed from its number.

    Args:
        name: (step) → which persons or images its batch holds.
    """

    def __init__(self, device: torch.device, name: Callable[[int], str]) -> None:
        self.name = name
        self._began, self._observed = NEVER, 0
        self._first = torch.full((2,), NEVER, dtype=torch.int64, device=device)  # step of a loss that is not finite; of a barren row
        self._row, self._barren = torch.zeros((2,), dtype=torch.int64, device=device).unbind()

    def observe(self, step: int, loss: Tensor, supervised: Tensor) -> None:
        """Take in one step's loss () and whether any of its targets has weight, bool ()."""
        self._began, self._observed = min(self._began, step), self._observed + 1
        self._barren = self._barren + ~supervised
        self._row = torch.where(supervised, torch.zeros_like(self._row), self._row + 1)
        wrong = torch.stack([~torch.isfinite(loss), self._row >= MOST_BARREN])
        since = torch.stack([torch.full_like(self._row, step), step + 1 - self._row])
        self._first = torch.where(wrong, torch.minimum(self._first, since), self._first)

    def check(self) -> None:
        """
        Raises:
            FarposeError: a step so far was wrong; names the problem, the step and its persons or images.
        """
        not_finite, barren = self._first.tolist()
        if not_finite != NEVER:
            raise self._error(FINITE[0], FINITE[1], not_finite)
        if barren != NEVER:
            raise self._error(f"{BARREN[0]} {MOST_BARREN} batches in a row, of which this is the first", BARREN[1], barren)

    def conclude(self) -> str:
        """What to say at the end of the batches that taught nothing; empty if all did.

        Raises:
            FarposeError: see `check`; or no batch of a whole training taught anything.
        """
        self.check()
        barren = int(self._barren)
        if barren and barren == self._observed and self._began == 0:
            raise self._error(f"{BARREN[0]} the batch, nor of any other", BARREN[1], 0)
        return f"{barren} of {self._observed} steps taught nothing: no labelled joint lay inside a crop of their batch" if barren else ""

    def _error(self, problem: str, fix: str, step: int) -> FarposeError:
        return FarposeError(f"{problem} ({self.name(step)})", where=f"training step {step}", fix=fix)
