"""Reading heatmaps: where their peaks are, and the values around them. All batched, without a device sync."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class Peaks(NamedTuple):
    """The highest cell of every heatmap.

    Attributes:
        x, y: (B, K) int64 cells; (0, 0) where no value is above 0, as in all published decoders.
        scores: (B, K) the highest value.
    """

    x: Tensor
    y: Tensor
    scores: Tensor

    def coordinates(self) -> Tensor:
        """(B, K, 2) x, y in the heatmap's dtype."""
        return torch.stack([self.x, self.y], -1).to(self.scores.dtype)


def find_peaks(heatmaps: Tensor) -> Peaks:
    """The first highest cell, in raster order, of (B, K, H, W) heatmaps."""
    scores, index = heatmaps.flatten(2).max(-1)
    index = index.masked_fill(scores <= 0, 0)
    width = heatmaps.shape[-1]
    return Peaks(index % width, index.div(width, rounding_mode="floor"), scores)


def values_at(maps: Tensor, peaks: Peaks) -> Tensor:
    """(B, K) values of (B, K, H, W) maps at the peaks."""
    index = peaks.y * maps.shape[-1] + peaks.x
    return maps.flatten(2).gather(-1, index[..., None])[..., 0]


def neighbours(maps: Tensor, peaks: Peaks, steps: tuple[tuple[int, int], ...]) -> Tensor:
    """(B, K, len(steps)) values of (B, K, H, W) maps at the peaks plus (x, y) steps; outside, the nearest edge cell's."""
    height, width = maps.shape[-2:]
    step_x, step_y = _steps(steps, maps.device)
    x = (peaks.x[..., None] + step_x).clamp(0, width - 1)
    y = (peaks.y[..., None] + step_y).clamp(0, height - 1)
    return maps.flatten(2).gather(-1, y * width + x)


def inside(peaks: Peaks, size: tuple[int, int], low: int, high: int) -> Tensor:
    """(B, K) bool: low < x < W - high and low < y < H - high, for a (H, W) `size`."""
    height, width = size
    return (peaks.x > low) & (peaks.x < width - high) & (peaks.y > low) & (peaks.y < height - high)


@lru_cache(maxsize=32)
def _steps(steps: tuple[tuple[int, int], ...], device: torch.device) -> tuple[Tensor, Tensor]:
    both = torch.tensor(steps, dtype=torch.int64, device=device)
    return both[:, 0], both[:, 1]
