"""Targets of bottom-up training: heatmaps of all persons and the place of each joint's tag (HigherHRNet's released generators)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

_BLOCK = 1 << 22  # cells of patches drawn at a time; bounds the memory


def cells_inside(keypoints: Tensor, visible: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Column and row (..., K) int64 of each joint's cell, and (..., K) bool whether it is visible and lies on the (h, w) map.

    As published, coordinates are truncated towards zero, so the interval (-1, 0) belongs to the first cell.
    """
    height, width = size
    x, y = torch.where(visible[..., None], keypoints, -1.0).trunc().unbind(-1)
    inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    return torch.where(inside, x, 0.0).long(), torch.where(inside, y, 0.0).long(), inside


def patch(sigma: float, device: torch.device) -> Tensor:
    """(2 r + 1, 2 r + 1) Gaussian of peak 1 around the middle cell; r = 3 sigma + 1, as published."""
    radius = round(3 * sigma + 1)
    squares = np.arange(-radius, radius + 1) ** 2
    return torch.from_numpy(np.exp(-(squares[:, None] + squares) / (2 * sigma**2)).astype(np.float32)).to(device)


def merged_gaussians(keypoints: Tensor, visible: Tensor, size: tuple[int, int], gaussian: Tensor) -> Tensor:
    """(B, K, h, w) float32 maximum over all persons' Gaussians, which are centred on the joints' cells.

    Args:
        keypoints: (B, P, K, 2) cells of the map.
        visible: (B, P, K) bool.
        gaussian: of `patch`.
    """
    heatmaps = keypoints.new_zeros(len(keypoints), visible.shape[2], size[0] * size[1], dtype=torch.float32)
    for index, values in _patches(keypoints, visible, size, gaussian):
        heatmaps.scatter_reduce_(2, index, values, "amax")
    return heatmaps.unflatten(2, size)


def owners(keypoints: Tensor, visible: Tensor, heatmaps: Tensor, gaussian: Tensor) -> Tensor:
    """(B, K, h, w) number, from 1, of the person whose Gaussian is highest in a cell of `heatmaps`, 0 where there is none."""
    size = (heatmaps.shape[-2], heatmaps.shape[-1])
    highest = heatmaps.flatten(2)
    numbers = torch.zeros_like(highest)
    number = torch.arange(1, visible.shape[1] + 1, device=heatmaps.device)[None, None, :, None]
    for index, values in _patches(keypoints, visible, size, gaussian):
        mine = (values > 0) & (values == highest.gather(2, index))
        each = number.expand(*values.shape[:2], -1, values.shape[2] // max(1, visible.shape[1])).flatten(2)
        numbers.scatter_reduce_(2, index, torch.where(mine, each, 0).to(numbers.dtype), "amax")
    return numbers.unflatten(2, size)


def _patches(keypoints: Tensor, visible: Tensor, size: tuple[int, int], gaussian: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Flat cells and values (B, K, P * n) of all patches, some rows at a time; 0 for cells outside the map."""
    height, width = size
    x, y, inside = (part.transpose(1, 2)[..., None, None] for part in cells_inside(keypoints, visible, size))  # (B, K, P, 1, 1)
    side = len(gaussian)
    steps = torch.arange(side, device=gaussian.device) - side // 2
    columns = x + steps
    rows_at_once = max(1, _BLOCK // max(1, visible.numel() * side))
    for start in range(0, side, rows_at_once):
        rows = y + steps[start : start + rows_at_once, None]
        drawn = inside & (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        values = torch.where(drawn, gaussian[start : start + rows_at_once], 0.0)
        yield torch.where(drawn, rows * width + columns, 0).flatten(2), values.flatten(2)


def tag_index(keypoints: Tensor, visible: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Index of each joint's tag in a flat (K, h, w) map, (k * h + y) * w + x, (B, P, K) int64, and whether it has one, bool."""
    height, width = size
    x, y, inside = cells_inside(keypoints, visible, size)
    joint = torch.arange(visible.shape[-1], device=visible.device)
    return torch.where(inside, (joint * height + y) * width + x, 0), inside
