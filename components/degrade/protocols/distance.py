"""Protocol `distance`: area means, and in training as if each person stood a random number of times further away. Ours.

A network that is trained on crops of one density has not seen the soft, enlarged crops of persons who are smaller than its input.
Here each training crop is reduced by area means and enlarged again by bilinear interpolation, as a small person's crop is made. At factors
that are not whole, px of the crop are split between reduced px, which makes it up to a fifth softer (tests/test_distance.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.degrade.protocols.antialias import Antialias

if TYPE_CHECKING:
    from torch import Tensor

    from components.degrade.sample import Rendered

DRAWS = 4  # uniform numbers per crop: whether, how far, and the places of the reduced px along both axes


@dataclass(frozen=True)
class Distances:
    """The settings.

    Attributes:
        farthest: most times that a person is moved away, at least 1; the logarithm of the factor is uniform from 0 to its own.
        share: of the training crops that are moved away, 0 to 1.
    """

    farthest: float = 4.0
    share: float = 0.75

    def __post_init__(self) -> None:
        if self.farthest < 1:
            raise ValueError(f"farthest must be at least 1, got {self.farthest}")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must lie in 0..1, got {self.share}")


class Distance(Antialias):
    """Evaluation crops are those of `antialias`. `conditions: [h32]` of params/evaluate.yaml scores persons of limited height."""

    name = "distance"
    caption = "mean of the area under each pixel; in training persons are moved away, too"
    redraws = varies = True
    settings = Distances

    def padding(self, settings: Distances) -> int:
        """Two reduced px reach one and a half of them beyond a target px's centre."""
        return math.ceil(1.5 * settings.farthest)

    def degrade(self, rendered: Rendered, settings: Distances) -> Tensor:
        step, phases = distances(rendered.keys, settings)
        padding = self.padding(settings)
        height, width = (side - 2 * padding for side in rendered.grey_levels.shape[2:])
        rows, columns = (reduce_and_enlarge(side, padding, step, phase) for side, phase in zip((height, width), phases, strict=True))
        return rows[:, None] @ rendered.grey_levels @ columns[:, None].transpose(2, 3)


def distances(keys: Tensor, settings: Distances) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """How many times further away each crop's person stands, (B,), and the places of the reduced px along rows and columns, 0 to 1.

    Args:
        keys: (B,) integers, which alone decide.
    """
    import torch

    from components.degrade.render import normal_noise

    uniform = torch.special.ndtr(normal_noise(keys, (DRAWS,)))
    step = torch.where(uniform[:, 0] < settings.share, settings.farthest ** uniform[:, 1], 1.0)
    return step, (uniform[:, 2], uniform[:, 3])


def reduce_and_enlarge(side: int, padding: int, step: Tensor, phase: Tensor) -> Tensor:
    """(B, side, side + 2 padding) matrices along one axis: area means over reduced px, interpolated at each target px's centre.

    Args:
        side: px of the target; the source has `padding` px more at either end, at least 1.5 `step`.
        step: (B,) target px per reduced px, at least 1. At 1 the target stays as it is.
        phase: (B,) place of the first reduced px's edge, in reduced px from the target's edge.
    """
    import torch

    step, phase = step[:, None], torch.where(step > 1, phase, 0.0)[:, None]
    place = (torch.arange(side, device=step.device) + 0.5) / step - phase - 0.5  # of target px, in reduced px
    near = place.floor()
    part = (place - near)[..., None]
    step, edge = step[..., None], ((near + phase) * step)[..., None]  # of the reduced px before the target px, in target px
    source = torch.arange(-padding, side + padding, device=step.device)

    def share(start: Tensor) -> Tensor:  # of a reduced px that each source px covers
        return (torch.minimum(source + 1, start + step) - torch.maximum(source, start)).clamp(min=0) / step

    return (1 - part) * share(edge) + part * share(edge + step)


PROTOCOL = Distance()
