"""Area means of an image over a coarser grid, exact for any step. They reduce pixels in evaluation and in the store."""

from __future__ import annotations

import numpy as np


def upright_grid(image_to_crop: np.ndarray) -> tuple[tuple[float, float], tuple[float, float]]:
    """Step (x, y) between crop pixels and place (x, y) of the first one, image px; for matrices without rotation."""
    step = 1 / image_to_crop[0, 0], 1 / image_to_crop[1, 1]
    return step, (-image_to_crop[0, 2] * step[0], -image_to_crop[1, 2] * step[1])


def area_mean(image: np.ndarray, start: tuple[float, float], step: tuple[float, float], size: tuple[int, int]) -> np.ndarray:
    """(h, w, C) float64 means of the image over the rectangles that the target's pixels cover, exact for any step.

    Pixel (i, j) covers max(step, 1) px around start + step * (j, i): where the target is denser than the image, the
    footprint stays one image pixel wide, which is linear interpolation.

    Args:
        image: (H, W, C) uint8.
        start: (x, y) of the first target pixel's centre, image px.
        step: (x, y) image px per target px.
        size: (h, w) of the target.
    """
    y0, y1 = covered(start[1], step[1], size[0], image.shape[0])
    x0, x1 = covered(start[0], step[0], size[1], image.shape[1])
    if y0 >= y1 or x0 >= x1:
        return np.zeros((*size, image.shape[2]))
    rows = _mean_along_rows(image[y0:y1, x0:x1], start[1] - y0, step[1], size[0])
    return _mean_along_rows(rows.swapaxes(0, 1), start[0] - x0, step[0], size[1]).swapaxes(0, 1)


def covered(start: float, step: float, count: int, length: int) -> tuple[int, int]:
    """Along one axis, the first image pixel under the target's pixels and the one past the last."""
    half = max(step, 1.0) / 2
    return max(int(np.floor(start - half)), 0), min(int(np.ceil(start + step * (count - 1) + half)) + 1, length)


def _mean_along_rows(pixels: np.ndarray, start: float, step: float, count: int) -> np.ndarray:
    """Means over axis 0, by differences of the running sum: its value between pixel edges is linear."""
    total = np.zeros((len(pixels) + 1, *pixels.shape[1:]), np.int32 if pixels.dtype == np.uint8 else np.float64)
    np.cumsum(pixels, axis=0, out=total[1:], dtype=total.dtype)
    footprint = max(step, 1.0)
    first = start + step * np.arange(count) - footprint / 2 + 0.5  # in pixel edges: pixel i covers [i, i + 1]
    return (_running_sum_at(total, first + footprint) - _running_sum_at(total, first)) / footprint


def _running_sum_at(total: np.ndarray, edges: np.ndarray) -> np.ndarray:
    edges = np.clip(edges, 0, len(total) - 1)
    below = np.minimum(edges.astype(np.int64), len(total) - 2)
    part = (edges - below).reshape(-1, *[1] * (total.ndim - 1))
    return total[below] + part * (total[below + 1] - total[below])


def to_uint8(values: np.ndarray) -> np.ndarray:
    """Nearest grey level, clipped to 0..255."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
