"""Losses of bottom-up training: masked heatmap error, and the pull and push of tags (Newell, Huang & Deng 2017, equation 1).

Both are one expression over the batch, without a loop over persons or a device sync.
"""

from __future__ import annotations

import torch
from torch import Tensor


def heatmap_loss(predicted: Tensor, expected: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over all cells; errors outside the mask count as 0 (`HeatmapLoss` of HigherHRNet's code).

    Args:
        predicted, expected: (B, K, h, w).
        mask: (B, h, w) bool, True where the loss counts.
    """
    return ((predicted - expected).square() * mask[:, None]).mean()


def tag_loss(tags: Tensor, index: Tensor, tagged: Tensor) -> tuple[Tensor, Tensor]:
    """Pull (B,): mean over persons of the mean squared distance of a person's tags to their mean. Push (B,): half the mean over
    ordered pairs of persons of exp(-(difference of means)^2), 0 with fewer than two persons (`AELoss`, type "exp").

    Args:
        tags: (B, K, h, w).
        index: (B, P, K) int64 flat index of each joint's tag.
        tagged: (B, P, K) bool; other joints, and persons without tagged joints, are left out.
    """
    read = tags.flatten(1).gather(1, index.flatten(1)).view(index.shape)
    counts = tagged.sum(2)
    present = counts > 0
    at_least_one = counts.clamp(min=1)
    means = torch.where(tagged, read, 0.0).sum(2) / at_least_one
    spread = torch.where(tagged, (read - means[..., None]).square(), 0.0).sum(2) / at_least_one
    persons = present.sum(1)
    pull = torch.where(present, spread, 0.0).sum(1) / persons.clamp(min=1)
    pairs = present[:, :, None] & present[:, None, :]
    similarity = torch.where(pairs, torch.exp(-(means[:, :, None] - means[:, None, :]).square()), 0.0)
    push = 0.5 * (similarity.sum((1, 2)) - persons) / (persons * (persons - 1)).clamp(min=1)
    return pull, torch.where(persons > 1, push, 0.0)
