"""A running average of the weights (EMA): smoother than the last step's, and usually better after a short training.

Polyak & Juditsky 1992, "Acceleration of Stochastic Approximation by Averaging"; the exponential form is that of common practice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

RAMP = 10  # steps; the average follows faster at first, so that the start does not weigh for long


class Average:
    """The running average of a network's floating-point state; other state, such as counts, is that of the last step.

    Args:
        decay: share of the average that a step keeps, once `RAMP` steps and some are done.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._current = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
        self.tensors = {name: tensor.detach().clone() for name, tensor in self._current.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` steps, counted from 1."""
        decay = min(self.decay, step / (step + RAMP))
        torch._foreach_lerp_(list(self.tensors.values()), list(self._current.values()), 1 - decay)

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Continue from a checkpoint's average."""
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The network has the averaged weights inside this context, and its own again behind it."""
        with torch.no_grad():
            own = {name: tensor.clone() for name, tensor in self._current.items()}
            for name, tensor in self._current.items():
                tensor.copy_(self.tensors[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in self._current.items():
                    tensor.copy_(own[name])


def kept_weights(average: Average | None) -> AbstractContextManager[None]:
    """A context in which the network has the weights that training keeps: the average, or its own where there is none."""
    return nullcontext() if average is None else average.in_place()
