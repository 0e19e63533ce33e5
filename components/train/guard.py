"""Stop before a ruined run ruins more: losses that are not finite, batches that supervise nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from components.base.errors import FarposeError

NEVER = 2**62  # later than any step
PROBLEMS = (
    ("the loss is not finite", "look at these persons, or lower learning_rate or set gradient_clip"),
    ("no labelled joint lies inside any crop of the batch", "look at these persons' boxes and joints, or turn augmentation down"),
)


class Guard:
    """Remembers, on the device, the first step at which something was wrong.

    Reading it makes the GPU wait, so it is read only now and then; the step's persons are recomputed from its number.

    Args:
        name: (step) → which persons or images its batch holds.
    """

    def __init__(self, device: torch.device, name: Callable[[int], str]) -> None:
        self.name = name
        self._first = torch.full((len(PROBLEMS),), NEVER, dtype=torch.int64, device=device)

    def observe(self, step: int, loss: Tensor, supervised: Tensor) -> None:
        """Take in one step's loss () and whether any of its targets has weight, bool ()."""
        wrong = torch.stack([~torch.isfinite(loss), ~supervised])
        self._first = torch.where(wrong, self._first.clamp(max=step), self._first)

    def check(self) -> None:
        """
        Raises:
            FarposeError: a step so far was wrong; names the problem, the step and its persons or images.
        """
        for step, (problem, fix) in zip(self._first.tolist(), PROBLEMS, strict=True):
            if step != NEVER:
                raise FarposeError(f"{problem} ({self.name(step)})", where=f"training step {step}", fix=fix)
