"""The points that a decoder can return for any map. The distance from a joint to the nearest of them is the decoder's resolution.

All functions take (..., 2) keypoints in cells and return as many points in cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

Size = tuple[int, int]  # height, width


def on_cells(keypoints: Tensor, size: Size) -> Tensor:
    """Nearest cell of an (H, W) map."""
    return in_box(keypoints.round(), (0.0, 0.0), (size[1] - 1.0, size[0] - 1.0))


def in_box(keypoints: Tensor, low: tuple[float, float], high: tuple[float, float]) -> Tensor:
    """Nearest point of the rectangle from `low` to `high`, both (x, y) and included."""
    return torch.stack([keypoints[..., axis].clamp(low[axis], high[axis]) for axis in (0, 1)], -1)


def on_map(keypoints: Tensor, size: Size) -> Tensor:
    """Nearest point between the first and the last cell's centre."""
    return in_box(keypoints, (0.0, 0.0), (size[1] - 1.0, size[0] - 1.0))


def on_quarters(keypoints: Tensor, size: Size) -> Tensor:
    """Nearest cell, or cell shifted by a quarter along x, y or both.

    As published, peaks in the first two or in the last column or row are not shifted.
    """
    height, width = size
    cells = on_cells(keypoints, size)
    if min(size) < 4:
        return cells
    inner = in_box(keypoints.round(), (2.0, 2.0), (width - 2.0, height - 2.0))
    offset = keypoints - inner
    shift = torch.where(offset.abs() > 0.125, 0.25 * offset.sign(), 0.0)
    return nearer(keypoints, cells, inner + shift)


def after_steps(keypoints: Tensor, size: Size, border: int) -> Tensor:
    """Nearest cell, or point within one cell per axis of a cell that is at least `border` cells from the map's edge."""
    height, width = size
    cells = on_cells(keypoints, size)
    low, high = border - 1.0, (width - float(border), height - float(border))
    if min(high) < border:
        return cells
    return nearer(keypoints, cells, in_box(keypoints, (low, low), high))


def nearer(keypoints: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """For each keypoint, the nearer of two points."""
    chosen = (first - keypoints).square().sum(-1) <= (second - keypoints).square().sum(-1)
    return torch.where(chosen[..., None], first, second)
