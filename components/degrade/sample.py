"""Bilinear sampling from crops of any size that lie in one flat array, batched, on any device."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PIXELS_AT_ONCE = 32 * 64 * 48  # on the CPU; larger intermediate tensors do not fit the cache and take about 1.5 times as long


def normalise(images: Tensor, out: Tensor | None = None) -> Tensor:
    """(B, 3, H, W) float32: RGB grey levels 0..255 (uint8 or float) → [0, 1], minus ImageNet's mean, over its deviation.

    Args:
        out: receives the result; may be `images` itself.
    """
    scale, shift = _scale_and_shift(images.device)
    return torch.addcmul(shift, images.float(), scale, out=out)


@functools.cache
def _scale_and_shift(device: torch.device) -> tuple[Tensor, Tensor]:
    mean = torch.tensor(IMAGENET_MEAN, device=device).view(3, 1, 1)
    deviation = torch.tensor(IMAGENET_STD, device=device).view(3, 1, 1)
    return 1 / (255 * deviation), -mean / deviation


RGB = (0, 1, 2)  # bytes of a stored pixel, the lowest first
COUNTED = 3  # the byte that holds how much of a whole image's pixel counts in the loss; 0 in crops


def sample(
    pixels: Tensor,
    offset: Tensor,
    height: Tensor,
    width: Tensor,
    crop_to_stored: Tensor,
    size: tuple[int, int],
    channels: tuple[int, ...] = RGB,
    highest: int = 2,
) -> Tensor:
    """(B, C, H, W) float32 values of the chosen bytes, such as grey levels 0..255, sampled bilinearly.

    Every stored crop has a black border, so samples clamped to the crop give the zeros that `cv2.warpAffine` has outside the
    image. A pixel is one int32, because four gathers of whole pixels take half the time of twelve gathers of grey levels.

    Args:
        pixels: (P,) int32, red in the lowest byte, then green and blue.
        offset: (B,) int64 first pixel of each crop.
        height, width: (B,) int32 px of each stored crop.
        crop_to_stored: (B, 2, 3) affine matrices from target px to px of the stored crop.
        size: (H, W) of the target.
        channels: C bytes of a pixel.
        highest: the highest byte that is not 0 everywhere; at most 3, and byte 3 must be below 128.
    """
    target = torch.empty(len(offset), len(channels), *size, device=pixels.device)
    images, rows = len(offset) or 1, size[0]
    if pixels.device.type == "cpu":
        images, rows = max(PIXELS_AT_ONCE // (size[0] * size[1]), 1), max(min(PIXELS_AT_ONCE // size[1], size[0]), 1)
    for part in (slice(start, start + images) for start in range(0, len(offset), images)):
        place = pixels, offset[part], height[part], width[part], crop_to_stored[part].float()
        for row in range(0, size[0], rows):
            _sample_into(target[part, :, row : row + rows], row, *place, channels, highest)
    return target


def _sample_into(
    target: Tensor,
    first_row: int,
    pixels: Tensor,
    offset: Tensor,
    height: Tensor,
    width: Tensor,
    crop_to_stored: Tensor,
    channels: tuple[int, ...],
    highest: int,
) -> None:
    x, y = places(crop_to_stored, first_row, (target.shape[2], target.shape[3]))
    width, height = width.view(-1, 1, 1), height.view(-1, 1, 1)
    x, y = torch.minimum(x.clamp_(min=0), (width - 1).float()), torch.minimum(y.clamp_(min=0), (height - 1).float())
    left, top = torch.minimum(x.to(torch.int32), width - 2), torch.minimum(y.to(torch.int32), height - 2)
    first = (top * width + left) + offset.view(-1, 1, 1)
    corners = [_take(pixels, first), _take(pixels, first + 1), _take(pixels, first + width), _take(pixels, first + width + 1)]
    x, y = x - left, y - top  # now the part of the way to the next pixel
    both = x * y
    weights = [1 - x - y + both, x - both, y - both, both]
    for number, channel in enumerate(channels):
        torch.mul(_channel(corners[0], channel, highest), weights[0], out=target[:, number])
        for corner, weight in zip(corners[1:], weights[1:], strict=True):
            target[:, number].addcmul_(_channel(corner, channel, highest), weight)


def places(matrix: Tensor, first_row: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """x and y (B, H, W), px of the stored crop, of every target pixel from the first row on."""
    columns = torch.arange(size[1], device=matrix.device, dtype=matrix.dtype)
    rows = torch.arange(first_row, first_row + size[0], device=matrix.device, dtype=matrix.dtype)[:, None]
    m = matrix[..., None, None]  # (B, 2, 3, 1, 1)
    x, y = (m[:, axis, 0] * columns + (m[:, axis, 1] * rows + m[:, axis, 2]) for axis in (0, 1))
    return x, y


def _take(pixels: Tensor, index: Tensor) -> Tensor:
    return pixels.index_select(0, index.reshape(-1)).view(index.shape)


def _channel(pixels: Tensor, channel: int, highest: int) -> Tensor:
    """One byte of (B, H, W) pixels as float; the highest one in use does not need a mask."""
    shifted = pixels >> (8 * channel) if channel else pixels
    return (shifted & 255 if channel < highest else shifted).float()


@dataclass(frozen=True)
class Rendered:
    """Clean targets on their protocol's grid.

    Attributes:
        grey_levels: (B, 3, h, w) float32, 0..255; the target's size times the oversampling, plus padding.
        grid_to_stored: (B, 2, 3) px of the grid to px of the stored crop.
        height, width: (B,) of the stored crop, px, with its black border.
        keys: (B,) int64, of the noise of each target.
    """

    grey_levels: Tensor
    grid_to_stored: Tensor
    height: Tensor
    width: Tensor
    keys: Tensor

    def inside(self) -> Tensor:
        """(B, 1, h, w) float32: 1 where a px of the grid has its centre inside the image, else 0."""
        height, width = self.grey_levels.shape[2:]
        x, y = places(self.grid_to_stored.float(), 0, (height, width))
        right, bottom = self.width.view(-1, 1, 1) - 1.5, self.height.view(-1, 1, 1) - 1.5
        return ((x >= 0.5) & (x <= right) & (y >= 0.5) & (y <= bottom)).float()[:, None]
