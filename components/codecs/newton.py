"""Newton steps on the logarithm of a map: a Gaussian's logarithm is a parabola, so one step finds its centre.

DARK (Zhang et al. 2020, section 3.1, equations 3 to 8) and UDP's Gaussian decoding differ only in the finite differences. The
`categorical` codec knows its derivatives exactly.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from components.codecs.peaks import Peaks

Step = tuple[int, int]


class Differences:
    """Finite differences as weights of the values at (x, y) steps from the peak, in the order dx, dy, dxx, dyy, dxy."""

    def __init__(self, *stencils: dict[Step, float]) -> None:
        self.steps: tuple[Step, ...] = tuple(sorted({step for stencil in stencils for step in stencil}))
        self.table = tuple(tuple(stencil.get(step, 0.0) for stencil in stencils) for step in self.steps)


def newton_step(values: Tensor, differences: Differences, ridge: float = 0.0) -> tuple[Tensor, Tensor]:
    """Step from the peak to the maximum of the parabola through its neighbours.

    Args:
        values: (B, K, n) logarithms of the heatmap at `differences.steps` from the peak.
        ridge: added to the diagonal of the Hessian.

    Returns:
        (B, K, 2) step in cells (not finite where the Hessian is singular), and (B, K) bool: the parabola has a maximum.
    """
    with torch.autocast(values.device.type, enabled=False):
        dx, dy, dxx, dyy, dxy = (values @ _weights(differences.table, values.dtype, values.device)).unbind(-1)
    return step_to_top(dx, dy, dxx + ridge, dyy + ridge, dxy)


def step_to_top(dx: Tensor, dy: Tensor, dxx: Tensor, dyy: Tensor, dxy: Tensor) -> tuple[Tensor, Tensor]:
    """Step to the extremum of the parabola with these derivatives, each (B, K).

    Returns:
        (B, K, 2) step in cells (not finite where the Hessian is singular), and (B, K) bool: the extremum is a maximum.
    """
    determinant = dxx * dyy - dxy * dxy
    step = torch.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], -1) / determinant[..., None]
    return step, (determinant > 0) & (dxx < 0)


def safe_coordinates(peaks: Peaks, step: Tensor, allowed: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, K, 2) peaks plus steps of at most one cell per axis, on the map; the peak itself where a step is not allowed or not finite.

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
def _weights(table: tuple[tuple[float, ...], ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(table, dtype=dtype, device=device)
