"""CAL's masks: where around a joint the offsets are supervised, and how much (Wang et al. 2021, confidence-aware learning).

The decoder uses the offset at the heatmap's peak, so offsets matter where peaks fall. The spread of the peaks around their
targets, measured on the batch, shows how far around a joint offsets must be right. Early in training peaks are anywhere and the
mask is nearly uniform; later it narrows to a spike.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from components.codecs.peaks import Peaks, find_peaks

REACH = 3  # cells; the mask is 7 x 7 as published
RIDGE = 1e-6  # added to the covariance, as in scikit-learn's GaussianMixture


class Spread(NamedTuple):
    """Displacement of predicted from expected peaks over a batch, cells.

    Attributes:
        mean: (2,) x, y.
        covariance: (2, 2), biased, plus `RIDGE` on the diagonal.
        joints: () number of joints counted.
    """

    mean: Tensor
    covariance: Tensor
    joints: Tensor


def measure_spread(predicted: Peaks, expected: Peaks, weights: Tensor) -> Spread:
    """Fit one Gaussian to the displacements of the joints whose weight is not 0.

    The closed form of the published `GaussianMixture(1)`. It is finite for any number of joints; without joints the mean is 0.
    Double precision, because the determinant of two joints far off in one direction vanishes in single precision.
    """
    counted = (weights != 0).double()
    joints = counted.sum()
    displacement = torch.stack([predicted.x - expected.x, predicted.y - expected.y], -1).double()
    mean = (displacement * counted[..., None]).sum((0, 1)) / joints.clamp(min=1)
    centered = (displacement - mean) * counted[..., None]
    products = centered[..., :, None] * centered[..., None, :]
    ridge = RIDGE * torch.eye(2, dtype=mean.dtype, device=mean.device)
    return Spread(mean, products.sum((0, 1)) / joints.clamp(min=1) + ridge, joints)


def density(spread: Spread) -> Tensor:
    """(7, 7) the Gaussian's density at whole displacements from -`REACH` to `REACH` (rows y, columns x), per square cell."""
    steps = torch.arange(-REACH, REACH + 1, dtype=spread.mean.dtype, device=spread.mean.device)
    a, b, c = spread.covariance[0, 0], spread.covariance[0, 1], spread.covariance[1, 1]
    x, y = steps - spread.mean[0], (steps - spread.mean[1])[:, None]
    determinant = a * c - b * b
    mahalanobis = (c * x * x - 2 * b * x * y + a * y * y) / determinant
    return torch.exp(-0.5 * mahalanobis) / (2 * math.pi * determinant.sqrt())


def gaussian_mask(predicted: Tensor, expected: Tensor, weights: Tensor) -> tuple[Tensor, Spread]:
    """The per-batch Gaussian mask: the spread's density around each target peak, scaled to a maximum of 1 for each joint.

    Args:
        predicted, expected: (B, K, H, W) heatmaps.
        weights: (B, K); joints without weight 1 get a mask of zeros.
    Returns:
        (B, K, H, W) mask without gradient, and the spread.
    """
    with torch.no_grad():
        target = find_peaks(expected)
        spread = measure_spread(find_peaks(predicted), target, weights)
        mask = pasted(density(spread).to(predicted.dtype), target, (expected.shape[-2], expected.shape[-1]))
        return scaled_to_one(mask * (weights == 1)[..., None, None]), spread


def pasted(patch: Tensor, peaks: Peaks, size: tuple[int, int]) -> Tensor:
    """(B, K, H, W) zeros with the (7, 7) patch around each peak, cropped at the border."""
    height, width = size
    dx = torch.arange(width, device=patch.device) - peaks.x[..., None] + REACH
    dy = torch.arange(height, device=patch.device) - peaks.y[..., None] + REACH
    side = 2 * REACH + 1
    reached = ((dy >= 0) & (dy < side))[..., :, None] & ((dx >= 0) & (dx < side))[..., None, :]
    index = dy.clamp(0, side - 1)[..., :, None] * side + dx.clamp(0, side - 1)[..., None, :]
    return patch.flatten()[index] * reached


def scaled_to_one(mask: Tensor) -> Tensor:
    """(m - min) / (max - min + 1e-5) of every (..., H, W) map."""
    low, high = mask.amin((-2, -1), keepdim=True), mask.amax((-2, -1), keepdim=True)
    return (mask - low) / (high - low + 1e-5)
