"""Losses on heatmaps and offsets, each one expression over the batch without a device sync.

All published losses average over the cells of a map and over the batch before they average over joints; with equal weights
this is one mean over everything.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def joints_mse(predicted: Tensor, expected: Tensor, weights: Tensor) -> Tensor:
    """Half the mean squared error of weighted maps (`JointsMSELoss` of the HRNet code).

    Args:
        predicted, expected: (B, K, H, W).
        weights: (B, K); they multiply both maps, so the error is weighted by their square.
    """
    weight = weights[..., None, None]
    return 0.5 * F.mse_loss(predicted * weight, expected * weight)


def joints_mse_ohkm(predicted: Tensor, expected: Tensor, weights: Tensor, hardest: int = 8) -> Tensor:
    """Half the mean squared error of the `hardest` joints of each person (`JointsOHKMMSELoss`; Chen et al. 2018, CPN).

    Args:
        predicted, expected: (B, K, H, W).
        weights: (B, K).
    """
    weight = weights[..., None, None]
    per_joint = 0.5 * (predicted * weight - expected * weight).square().mean((-2, -1))
    return per_joint.topk(hardest, dim=1).values.mean()


def udp_offset_loss(predicted: Tensor, expected: Tensor, weights: Tensor, kind: Literal["mse", "l1"] = "mse") -> tuple[Tensor, Tensor]:
    """UDP's combined loss: heatmap and offset parts, to be added with weight 1 (`JointsMSELoss_offset`, `JointsL1Loss_offset`).

    The offset part counts only inside the discs, and ignores the weights, as released.

    Args:
        predicted, expected: (B, 3 K, H, W), channels heatmap, x, y of each joint.
        weights: (B, K).
        kind: "mse", or "l1" for the smooth L1 loss, on heatmaps too; both are halved.
    """
    predicted, expected = (maps.unflatten(1, (-1, 3)) for maps in (predicted, expected))
    weight, disc = weights[..., None, None], expected[:, :, :1]
    measure = F.mse_loss if kind == "mse" else F.smooth_l1_loss
    heatmap = 0.5 * measure(predicted[:, :, 0] * weight, expected[:, :, 0] * weight)
    offset = measure(predicted[:, :, 1:] * disc, expected[:, :, 1:] * disc)  # half of x plus half of y
    return heatmap, offset


def cal_heatmap_loss(predicted: Tensor, expected: Tensor, weights: Tensor, pixel_weights: bool = False) -> Tensor:
    """Half the mean squared error, optionally with a weight per cell that grows with the error near a joint (CAL, PIXEL_HM).

    The cell's weight is exp(4 |error|) where the target is at least 0.3, and 0.9 elsewhere; as released, the gradient flows through it.
    """
    if not pixel_weights:
        return joints_mse(predicted, expected, weights)
    error = (predicted - expected).abs()
    cell = torch.where(expected >= 0.3, torch.exp(4 * error), 0.9)
    return joints_mse(predicted * cell, expected * cell, weights)


def masked_offset_loss(predicted: Tensor, expected: Tensor, mask: Tensor, weights: Tensor, smooth: bool = False) -> Tensor:
    """Mean absolute (or smooth L1) error of offsets under a mask, over all cells (CAL).

    Args:
        predicted, expected: (B, 2 K, H, W), channels x, y of each joint.
        mask: (B, K, H, W), multiplies both.
        weights: (B, K).
    """
    factor = (mask * weights[..., None, None]).repeat_interleave(2, dim=1)
    measure = F.smooth_l1_loss if smooth else F.l1_loss
    return measure(predicted * factor, expected * factor)
