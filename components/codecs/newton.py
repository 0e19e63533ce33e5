"""One Newton step on the logarithm of a heatmap: a Gaussian's logarithm is a parabola, so one step finds its centre.

DARK (Zhang et al. 2020, section 3.1, equations 3 to 8) and UDP's Gaussian decoding differ only in the finite differences.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from components.codecs.peaks import Peaks, neighbours

Stencil = dict[tuple[int, int], float]


class Differences(NamedTuple):
    """Finite differences, as weights of the values at (x, y) steps from the peak."""

    dx: Stencil
    dy: Stencil
    dxx: Stencil
    dyy: Stencil
    dxy: Stencil

    def steps(self) -> tuple[tuple[int, int], ...]:
        return tuple(sorted({step for stencil in self for step in stencil}))


def newton_step(log_maps: Tensor, peaks: Peaks, differences: Differences, ridge: float = 0.0) -> tuple[Tensor, Tensor]:
    """Step from the peak to the top of the parabola through its neighbours.

    Args:
        log_maps: (B, K, H, W) logarithms of heatmaps.
        ridge: added to the diagonal of the Hessian.

    Returns:
        (B, K, 2) step in cells (not finite where the Hessian is singular), and (B, K) bool: the parabola has a top.
    """
    values = neighbours(log_maps, peaks, differences.steps())
    weights = _weights(tuple(tuple(sorted(stencil.items())) for stencil in differences), log_maps.dtype, log_maps.device)
    with torch.autocast(log_maps.device.type, enabled=False):
        dx, dy, dxx, dyy, dxy = (values @ weights).unbind(-1)
    dxx, dyy = dxx + ridge, dyy + ridge
    determinant = dxx * dyy - dxy * dxy
    step = torch.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], -1) / determinant[..., None]
    return step, (determinant > 0) & (dxx < 0)


def safe_coordinates(peaks: Peaks, step: Tensor, allowed: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, K, 2) peaks plus steps of at most one cell per axis, on the map; the bare peak where a step is not allowed or not finite.

    Args:
        step: (B, K, 2) cells.
        allowed: (B, K) bool.
        size: (H, W) of the map.
    """
    start = peaks.coordinates()
    good = allowed & torch.isfinite(step).all(-1)
    moved = start + torch.where(good[..., None], step, 0.0).clamp(-1, 1)
    height, width = size
    return torch.stack([moved[..., 0].clamp(0, width - 1), moved[..., 1].clamp(0, height - 1)], -1)


@lru_cache(maxsize=16)
def _weights(stencils: tuple[tuple[tuple[tuple[int, int], float], ...], ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """(number of steps, 5) matrix whose columns are the five differences."""
    tables = [dict(stencil) for stencil in stencils]
    steps = sorted({step for table in tables for step in table})
    return torch.tensor([[table.get(step, 0.0) for table in tables] for step in steps], dtype=dtype, device=device)
