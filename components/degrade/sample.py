"""Bilinear sampling from crops of any size that lie in one flat array, batched, on any device."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PIXELS_AT_ONCE = 32 * 64 * 48  # on the CPU; larger intermediate tensors leave the cache and take about half as long again


def normalise(images: Tensor, out: Tensor | None = None) -> Tensor:
    """(B, 3, H, W) float32: RGB grey levels 0..255 (uint8 or float) → [0, 1], minus ImageNet's mean, over its deviation.

    Args:
        out: where to put the result; may be `images` itself.
    """
    scale, shift = _scale_and_shift(images.device)
    return torch.addcmul(shift, images.float(), scale, out=out)


@functools.cache
def _scale_and_shift(device: torch.device) -> tuple[Tensor, Tensor]:
    mean = torch.tensor(IMAGENET_MEAN, device=device).view(3, 1, 1)
    deviation = torch.tensor(IMAGENET_STD, device=device).view(3, 1, 1)
    return 1 / (255 * deviation), -mean / deviation


def sample(pixels: Tensor, offset: Tensor, height: Tensor, width: Tensor, crop_to_stored: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, 3, H, W) float32 grey levels 0..255, sampled bilinearly.

    Every stored crop has a border of black px, so clamping the place of a sample to the crop gives the zeros that
    `cv2.warpAffine` assumes outside the image. A pixel is one int32, because four gathers of whole pixels take half
    the time of twelve gathers of grey levels.

    Args:
        pixels: (P,) int32, red in the lowest byte, then green and blue.
        offset: (B,) int64 first pixel of each crop.
        height, width: (B,) int32 px of each stored crop.
        crop_to_stored: (B, 2, 3) affine matrices from target px to px of the stored crop.
        size: (H, W) of the target.
    """
    chunk = max(PIXELS_AT_ONCE // (size[0] * size[1]), 1) if pixels.device.type == "cpu" else max(len(offset), 1)
    grey_levels = torch.empty(len(offset), 3, *size, device=pixels.device)
    for part in (slice(start, start + chunk) for start in range(0, len(offset), chunk)):
        _sample_into(grey_levels[part], pixels, offset[part], height[part], width[part], crop_to_stored[part].float())
    return grey_levels


def _sample_into(target: Tensor, pixels: Tensor, offset: Tensor, height: Tensor, width: Tensor, crop_to_stored: Tensor) -> None:
    x, y = _places(crop_to_stored, (target.shape[2], target.shape[3]))
    width, height = width.view(-1, 1, 1), height.view(-1, 1, 1)
    x, y = torch.minimum(x.clamp_(min=0), (width - 1).float()), torch.minimum(y.clamp_(min=0), (height - 1).float())
    left, top = torch.minimum(x.to(torch.int32), width - 2), torch.minimum(y.to(torch.int32), height - 2)
    first = (top * width + left) + offset.view(-1, 1, 1)
    corners = [_take(pixels, first), _take(pixels, first + 1), _take(pixels, first + width), _take(pixels, first + width + 1)]
    x, y = x - left, y - top  # now the part of the way to the next pixel
    both = x * y
    weights = [1 - x - y + both, x - both, y - both, both]
    for channel in range(3):
        torch.mul(_channel(corners[0], channel), weights[0], out=target[:, channel])
        for corner, weight in zip(corners[1:], weights[1:], strict=True):
            target[:, channel].addcmul_(_channel(corner, channel), weight)


def _places(matrix: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """x and y (B, H, W), px of the stored crop, of every target pixel."""
    columns = torch.arange(size[1], device=matrix.device, dtype=matrix.dtype)
    rows = torch.arange(size[0], device=matrix.device, dtype=matrix.dtype)[:, None]
    m = matrix[..., None, None]  # (B, 2, 3, 1, 1)
    x, y = (m[:, axis, 0] * columns + (m[:, axis, 1] * rows + m[:, axis, 2]) for axis in (0, 1))
    return x, y


def _take(pixels: Tensor, index: Tensor) -> Tensor:
    return pixels.index_select(0, index.reshape(-1)).view(index.shape)


def _channel(pixels: Tensor, channel: int) -> Tensor:
    """One colour of (B, H, W) pixels as float; the highest byte is 0, so blue needs no mask."""
    shifted = pixels >> (8 * channel) if channel else pixels
    return (shifted & 255 if channel < 2 else shifted).float()
