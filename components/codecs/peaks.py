"""Peaks of heatmaps and the values around them, batched and without a device sync."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

_PIECE = 32  # cells; the fastest from 12 to 192 on maps of 16x12; divides all usual maps


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
    width = heatmaps.shape[-1]
    scores, index = _first_maximum(heatmaps.flatten(2))
    index = index.masked_fill(~(scores > 0), 0)
    return Peaks(index % width, index.div(width, rounding_mode="floor"), scores)


def _first_maximum(flat: Tensor) -> tuple[Tensor, Tensor]:
    """(B, K) maxima of (B, K, N) values and their first places.

    On CPUs torch vectorises the maximum but not the arg max, so the highest piece is found first and then searched.
    """
    length = flat.shape[-1]
    piece = _PIECE if length % _PIECE == 0 else length
    pieces = flat.reshape(-1, piece)
    per_map = length // piece
    scores, place = pieces.amax(-1).view(-1, per_map).max(-1)
    chosen = pieces.index_select(0, place + torch.arange(0, len(pieces), per_map, device=flat.device))
    index = place * piece + chosen.max(-1).indices
    return scores.view(flat.shape[:-1]), index.view(flat.shape[:-1])


def values_at(maps: Tensor, peaks: Peaks) -> Tensor:
    """(B, K, C) values of (B, K, C, H, W) maps at the peaks."""
    index = (peaks.y * maps.shape[-1] + peaks.x)[..., None, None]
    return maps.flatten(3).gather(-1, index.expand(-1, -1, maps.shape[2], 1))[..., 0]


def neighbours(maps: Tensor, peaks: Peaks, steps: tuple[tuple[int, int], ...]) -> Tensor:
    """(B, K, len(steps)) values of (B, K, H, W) maps at the peaks plus (x, y) steps; outside the map, the nearest edge cell's value."""
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
