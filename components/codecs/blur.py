"""Gaussian blur of small maps as two banded matrix products, equal to OpenCV's `GaussianBlur(map, (k, k), 0)`.

On maps of 12 to 72 cells a product with a dense band matrix is faster than a convolution, because it is one library call for
all joints of all persons.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

Border = Literal["zero", "reflect"]

# OpenCV uses these tables instead of the formula when sigma is not given (getGaussianKernel, modules/imgproc/src/smooth)
_FIXED_KERNELS = {
    1: (1.0,),
    3: (0.25, 0.5, 0.25),
    5: (0.0625, 0.25, 0.375, 0.25, 0.0625),
    7: (0.03125, 0.109375, 0.21875, 0.28125, 0.21875, 0.109375, 0.03125),
    9: (4 / 256, 13 / 256, 30 / 256, 51 / 256, 60 / 256, 51 / 256, 30 / 256, 13 / 256, 4 / 256),
}


def kernel_sigma(size: int) -> float:
    """Standard deviation, cells, that OpenCV gives a Gaussian kernel of `size` (odd) cells."""
    return 0.3 * ((size - 1) * 0.5 - 1) + 0.8


def gaussian_kernel(size: int) -> tuple[float, ...]:
    """The `size` (odd) weights of OpenCV's Gaussian kernel with automatic sigma; they sum to 1."""
    if size in _FIXED_KERNELS:
        return _FIXED_KERNELS[size]
    half, sigma = size // 2, kernel_sigma(size)
    weights = [math.exp(-(i * i) / (2 * sigma * sigma)) for i in range(-half, half + 1)]
    return tuple(weight / sum(weights) for weight in weights)


def blur(maps: Tensor, size: int, border: Border) -> Tensor:
    """Blur (..., H, W) maps with a `size` x `size` Gaussian kernel.

    Args:
        size: odd number of cells; 1 returns the maps unchanged.
        border: "zero" pads with zeros (DARK); "reflect" mirrors without repeating the edge (OpenCV's default, UDP).
    """
    if size == 1:
        return maps
    height, width = maps.shape[-2:]
    rows = _band_matrix(height, size, border, maps.dtype, maps.device)
    columns = _band_matrix(width, size, border, maps.dtype, maps.device)
    with torch.autocast(maps.device.type, enabled=False):  # a blur in bfloat16 would move sub-cell peaks
        return rows @ maps @ columns.T


def blurred_at(maps: Tensor, x: Tensor, y: Tensor, size: int, border: Border) -> Tensor:
    """(B, K, C) values that `blur` would give to (B, K, C, H, W) maps at the cells (x, y) (B, K), without blurring other cells."""
    rows = _band_matrix(maps.shape[-2], size, border, maps.dtype, maps.device)[y]
    columns = _band_matrix(maps.shape[-1], size, border, maps.dtype, maps.device)[x]
    weights = rows[..., :, None] * columns[..., None, :]
    return (maps * weights[:, :, None]).sum((-2, -1))


@lru_cache(maxsize=64)
def _band_matrix(length: int, size: int, border: Border, dtype: torch.dtype, device: torch.device) -> Tensor:
    matrix = torch.zeros(length, length, dtype=torch.float64)
    half = size // 2
    for i in range(length):
        for offset, weight in zip(range(-half, half + 1), gaussian_kernel(size), strict=True):
            j = i + offset
            if border == "reflect":
                j = _reflected(j, length)
            if 0 <= j < length:
                matrix[i, j] += weight
    return matrix.to(device=device, dtype=dtype)


def _reflected(index: int, length: int) -> int:
    period = max(2 * (length - 1), 1)
    index %= period
    return min(index, period - index)
