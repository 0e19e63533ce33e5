"""Gaussian targets as the outer product of two short profiles per joint, instead of H * W exponentials."""

from __future__ import annotations

import torch
from torch import Tensor


def profile(center: Tensor, cells: Tensor, sigma: float) -> Tensor:
    """(B, K, n) Gaussian of peak 1 around `center` (B, K) at the positions `cells` (n,)."""
    distance = cells - center[..., None]
    return torch.exp(distance.square() * (-0.5 / sigma**2))


def outer(profile_x: Tensor, profile_y: Tensor) -> Tensor:
    """(B, K, H, W) product of profiles (B, K, W) and (B, K, H)."""
    return profile_y[..., :, None] * profile_x[..., None, :]


def window(center: Tensor, cells: Tensor, radius: float) -> Tensor:
    """(B, K, n) bool: positions within `radius` cells of `center`."""
    return (cells - center[..., None]).abs() <= radius


def patch_weights(x: Tensor, y: Tensor, size: tuple[int, int], radius: float, beyond: float) -> Tensor:
    """(B, K) bool: the patch of `radius` cells around a joint touches the map.

    Args:
        x, y: (B, K) centre, cells.
        size: (H, W).
        beyond: a joint counts where the patch's far edge (exclusive: centre + radius + 1) is above this. The published codes use
            different values; 0 is the exact test.
    """
    height, width = size
    touches_x = (x - radius < width) & (x + radius + 1 > beyond)
    touches_y = (y - radius < height) & (y + radius + 1 > beyond)
    return touches_x & touches_y


def rounded(cells: Tensor) -> Tensor:
    """Nearest whole cell as in all published target code: int(x + 0.5), which truncates towards zero."""
    return torch.trunc(cells + 0.5)
