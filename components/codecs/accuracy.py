"""PCK on a batch: the share of joints that fall near their target. A number to watch in training, not a metric to publish."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Pck(NamedTuple):
    """Attributes:
    mean: () mean of the joints that have a valid target; 0 if none has.
    per_joint: (K,) share of near predictions; NaN for a joint without valid targets.
    """

    mean: Tensor
    per_joint: Tensor


def pck_accuracy(
    predicted: Tensor, expected: Tensor, valid: Tensor, reference: tuple[float, float] = (1.0, 1.0), threshold: float = 0.5
) -> Pck:
    """Share of joints closer to their target than `threshold` times the `reference` length.

    The published training code takes a tenth of the map's size as the reference length (`accuracy` in the HRNet repository,
    `accuracy2` in CAL's).

    Args:
        predicted, expected: (B, K, 2).
        valid: (B, K) bool.
        reference: lengths along x and y, in the units of the coordinates.
    """
    lengths = predicted.new_ones(2)
    lengths = torch.stack([lengths[0] * reference[0], lengths[1] * reference[1]])
    distance = ((predicted - expected) / lengths).norm(dim=-1)
    near = ((distance < threshold) & valid).sum(0)
    total = valid.sum(0)
    per_joint = near / total  # 0 / 0 is NaN, as documented
    present = (total > 0).to(per_joint.dtype)
    mean = torch.where(total > 0, per_joint, 0.0).sum() / present.sum().clamp(min=1)
    return Pck(mean, per_joint)
