"""Losses of CenterNet: the focal loss on maps, and absolute errors of fields that count in single cells.

Zhou, Wang, Krähenbühl 2019, "Objects as Points", equations 1 and 2; the focal loss is Law & Deng's (2018, "CornerNet", equation 1). Neither
waits for the device.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

EASY, NEAR = 2, 4  # alpha: how little cells count that are nearly right; beta: how little those near a peak count


def focal_loss(logits: Tensor, expected: Tensor, mask: Tensor) -> Tensor:
    """The focal loss, summed over the cells that count and divided by the number of peaks (at least 1).

    Args:
        logits, expected: (B, C, h, w); a peak of `expected` is 1.
        mask: (B, h, w) bool, True where a cell counts; peaks count anywhere.
    """
    probability, peak = logits.sigmoid(), expected == 1
    at_peaks = (1 - probability).pow(EASY) * functional.logsigmoid(logits)
    elsewhere = (1 - expected).pow(NEAR) * probability.pow(EASY) * functional.logsigmoid(-logits)
    total = torch.where(peak, at_peaks, torch.where(mask[:, None], elsewhere, 0.0)).sum()
    return -total / peak.sum().clamp(min=1)


def masked_l1(values: Tensor, expected: Tensor, counts: Tensor) -> Tensor:
    """Mean absolute difference of both coordinates (..., 2) where `counts` (...) is True; 0 where nothing counts."""
    total = torch.where(counts[..., None], (values - expected).abs(), 0.0).sum()
    return total / (2 * counts.sum()).clamp(min=1)


def read_cells(fields: Tensor, index: Tensor) -> Tensor:
    """(B, P, K, 2) x and y that fields (B, 2 K, h, w), y and x of each joint in turn, hold for each joint in its own cell.

    Args:
        index: (B, P, K) int64 flat cells.
    """
    flat = fields.flatten(2).unflatten(1, (index.shape[2], 2)).flip(2)  # (B, K, 2, h * w)
    return flat.gather(3, index.permute(0, 2, 1)[:, :, None].expand(-1, -1, 2, -1)).permute(0, 3, 1, 2)
