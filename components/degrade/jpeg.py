"""Baseline JPEG of whole batches on the device: the effect on pixels of libjpeg's encoder and decoder as OpenCV calls them.

ITU-T T.81 with libjpeg's quality scaling, halved chroma in both directions (4:2:0) and its triangle-filtered upsampling. The
entropy coding is lossless and left out. libjpeg differs slightly, because its transforms are in integers.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 8  # px
# T.81, tables K.1 and K.2, for quality 50.
LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
CHROMINANCE = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99,
    *(99,) * 32,
)  # fmt: skip


def compress(images: Tensor, quality: int) -> Tensor:
    """(B, 3, H, W) float32 whole grey levels 0..255: the images after JPEG.

    Args:
        images: (B, 3, H, W) float32 whole grey levels 0..255, RGB.
        quality: 1 (worst) to 100 (best), libjpeg's scale.
    """
    height, width = images.shape[2:]
    luminance, chrominance, cosines = _constants(quality, images.device)
    padded = F.pad(images, (0, -width % (2 * BLOCK), 0, -height % (2 * BLOCK)), mode="replicate")
    red, green, blue = padded.unbind(1)
    y = torch.round(0.299 * red + 0.587 * green + 0.114 * blue)
    chroma = torch.stack([0.5 * blue - 0.168735892 * red - 0.331264108 * green, 0.5 * red - 0.418687589 * green - 0.081312411 * blue], 1)
    y = _quantised(y[:, None], luminance, cosines)[:, 0, :height, :width]
    chroma = _quantised(_halved(torch.round(chroma + 128)), chrominance, cosines)
    chroma = _doubled(chroma[..., : (height + 1) // 2, : (width + 1) // 2])[..., :height, :width] - 128
    cb, cr = chroma.unbind(1)
    green = y + torch.round(-0.344136286 * cb - 0.714136286 * cr)
    return torch.stack([y + torch.round(1.402 * cr), green, y + torch.round(1.772 * cb)], 1).clamp_(0, 255)


def _quantised(planes: Tensor, table: Tensor, cosines: Tensor) -> Tensor:
    """(B, C, H, W) planes of whole levels after the cosine transform's coefficients were rounded to multiples of `table`."""
    b, c, h, w = planes.shape
    blocks = (planes - 128).reshape(b, c, h // BLOCK, BLOCK, w // BLOCK, BLOCK).transpose(3, 4)  # (B, C, rows, columns, 8, 8)
    coefficients = cosines @ blocks @ cosines.T / table
    coefficients = torch.sign(coefficients) * torch.floor(coefficients.abs() + 0.5) * table  # halves are rounded away from zero
    restored = (cosines.T @ coefficients @ cosines).transpose(3, 4).reshape(b, c, h, w)
    return torch.round(restored + 128).clamp_(0, 255)


def _halved(planes: Tensor) -> Tensor:
    """Means of 2 x 2 px; halves are rounded down and up alternately along a row (libjpeg's h2v2_downsample)."""
    total = planes[..., ::2, ::2] + planes[..., ::2, 1::2] + planes[..., 1::2, ::2] + planes[..., 1::2, 1::2]
    bias = 1 + torch.arange(total.shape[-1], device=planes.device) % 2
    return torch.floor((total + bias) / 4)


def _doubled(planes: Tensor) -> Tensor:
    """Twice the height and width by weights of 3/4 and 1/4 per axis (libjpeg's h2v2_fancy_upsample)."""
    rows = F.pad(planes, (0, 0, 1, 1), mode="replicate")
    near = 3 * planes
    tall = torch.stack([near + rows[..., :-2, :], near + rows[..., 2:, :]], 3).flatten(2, 3)
    columns = F.pad(tall, (1, 1, 0, 0), mode="replicate")
    near = 3 * tall
    wide = torch.stack([near + columns[..., :-2] + 8, near + columns[..., 2:] + 7], 4).flatten(3, 4)
    return torch.floor(wide / 16)


@functools.cache
def _constants(quality: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Both scaled tables and the orthonormal cosine matrix, (8, 8); kept, because a CUDA graph cannot contain a copy from the host."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    tables = [((torch.tensor(table) * scale + 50) // 100).clamp(1, 255).view(BLOCK, BLOCK).float() for table in (LUMINANCE, CHROMINANCE)]
    k, n = torch.arange(BLOCK, dtype=torch.float64)[:, None], torch.arange(BLOCK, dtype=torch.float64)
    cosines = torch.cos(torch.pi * (2 * n + 1) * k / (2 * BLOCK)) * torch.where(k == 0, (1 / BLOCK) ** 0.5, (2 / BLOCK) ** 0.5)
    return tables[0].to(device), tables[1].to(device), cosines.float().to(device)
