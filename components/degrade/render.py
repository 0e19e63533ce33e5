"""Training crops on the device: sampled from the store after augmentation, and degraded as their protocol says."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from components.degrade.protocol import protocol
from components.degrade.sample import RGB, Rendered, sample
from components.pose.crop import compose

if TYPE_CHECKING:
    from components.degrade.shard import Stored

KEYS = 2**31  # keys of noise are integers below this
GOLDEN = 0x9E3779B9  # moves the first places away from the hash's fixed point, 0


def render(store: Stored, indices: Tensor, view_to_stored: Tensor, size: tuple[int, int], keys: Tensor) -> Tensor:
    """(B, 3, H, W) float32 grey levels 0..255 of B targets, as evaluation would show them.

    On a GPU: fixed shapes, no host synchronisation, no random state, so a CUDA graph can contain it.

    Args:
        indices: (B,) into the store.
        view_to_stored: (B, 2, 3) affine matrices from target px to px of the stored crop.
        size: (H, W) of the targets.
        keys: (B,) integers below `KEYS`, which alone decide all noise.
    """
    how, place = protocol(store.protocol), store.place(indices)
    dense, padding = how.oversampling, how.padding(store.settings)
    to_stored = compose(view_to_stored, _grid_to_view(dense, padding, view_to_stored.device).to(view_to_stored.dtype)[None])
    grid = dense * size[0] + 2 * padding, dense * size[1] + 2 * padding
    grey_levels = sample(*place, to_stored, grid, RGB, store.highest) if how.taps == 1 else _area_sample(store, indices, to_stored, grid)
    return how.degrade(Rendered(grey_levels, to_stored, place[2], place[3], keys.long()), store.settings)


@functools.cache
def _grid_to_view(dense: int, padding: int, device: torch.device) -> Tensor:
    """(2, 3) matrix from px of the grid to px of the target; kept, because a CUDA graph cannot contain a copy from the host."""
    shift = (0.5 - padding) / dense - 0.5
    return torch.tensor([[1 / dense, 0, shift], [0, 1 / dense, shift]], dtype=torch.float64).to(device)


def _area_sample(store: Stored, indices: Tensor, to_stored: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, 3, h, w) means over the px of the grid, by up to `taps` x `taps` bilinear samples around their centres.

    The spread of the samples, the interpolation between stored px and, in a reduced store, the area of the stored px together have
    the variance of a mean over the px of the grid of an image of square px: per axis and in px of the grid, with d stored px in
    each, 1/12 for the area, less 1/12 d^-2 (interpolation adds 1/6 d^-2, square px alone would 1/12 d^-2) or 3/12 d^-2 in a
    reduced store. Where d is small, nothing is left and one sample is enough: linear interpolation, as in evaluation. Elsewhere
    there are as many samples per axis as keep neighbours within one stored px.

    The CPU takes only the samples that a target needs. Other devices give the others no weight, because shapes are fixed there.
    """
    taps = protocol(store.protocol).taps
    squared = (to_stored[:, 0, 0] * to_stored[:, 1, 1] - to_stored[:, 0, 1] * to_stored[:, 1, 0]).abs()  # d²
    excess = torch.where(store.image_to_stored[indices, 0, 0] < 1 - 1e-9, 3.0, 1.0)
    needed = torch.sqrt((squared - excess).clamp(min=0) + 1).ceil().clamp(max=taps)  # per axis
    apart = torch.sqrt((1 - excess / squared).clamp(min=0) / (needed**2 - 1).clamp(min=1))  # px of the grid between neighbours
    if store.device.type != "cpu":
        return _mean_of_samples(store, indices, to_stored, grid, apart, needed, taps)
    means = torch.empty(len(indices), len(RGB), *grid)
    for count in needed.unique().int().tolist():
        rows = torch.nonzero(needed == count)[:, 0]
        means[rows] = _mean_of_samples(store, indices[rows], to_stored[rows], grid, apart[rows], needed[rows], count)
    return means


def _mean_of_samples(
    store: Stored, indices: Tensor, to_stored: Tensor, grid: tuple[int, int], apart: Tensor, needed: Tensor, taps: int
) -> Tensor:
    """(B, 3, h, w) means of `needed` x `needed` samples, at most `taps` x `taps`, that lie `apart` px of the grid from each other."""
    total = torch.zeros(len(indices), len(RGB), *grid, device=store.device)
    for row in range(taps):
        for column in range(taps):
            dx, dy = apart * (column - (needed - 1) / 2), apart * (row - (needed - 1) / 2)
            shift = dx[:, None] * to_stored[:, :, 0] + dy[:, None] * to_stored[:, :, 1]
            moved = torch.cat([to_stored[:, :, :2], to_stored[:, :, 2:] + shift[..., None]], 2)
            weight = torch.where(needed > max(row, column), needed**-2, 0.0)
            total.addcmul_(sample(*store.place(indices), moved, grid, RGB, store.highest), weight.float()[:, None, None, None])
    return total


def spread_and_reduce(planes: Tensor, padding: int, sigma: float, dense: int) -> Tensor:
    """(B, C, H, W) means over `dense` x `dense` px of planes (B, C, dense * H + 2 padding, ...) blurred by a Gaussian.

    Args:
        padding: px around the planes that the Gaussian may use.
        sigma: standard deviation of the Gaussian, px of the planes; 0: no blur.
    """
    gaussian = [math.exp(-0.5 * (x / sigma) ** 2) if sigma else float(x == 0) for x in range(-padding, padding + 1)]
    kernel = [sum(gaussian[max(0, i - dense + 1) : i + 1]) / (dense * sum(gaussian)) for i in range(len(gaussian) + dense - 1)]
    for turn in (True, False):  # along rows, then along columns
        length = planes.shape[3 if turn else 2] - len(kernel) + 1
        reduced: Tensor | None = None
        for i, weight in enumerate(kernel):
            if not weight:  # without a blur, most are 0
                continue
            every = slice(i, i + length, dense)
            part = planes[..., every] if turn else planes[..., every, :]
            reduced = part * weight if reduced is None else reduced.add_(part, alpha=weight)
        assert reduced is not None
        planes = reduced
    return planes


def normal_noise(keys: Tensor, shape: Sequence[int]) -> Tensor:
    """(B, *shape) float32 standard normal numbers, which depend on each target's key alone, without a generator's state.

    A 32-bit hash (lowbias32, Chris Wellons 2018) of key and place gives uniform numbers; Box and Muller (1958) make pairs normal.
    """
    count = math.prod(shape)
    place = torch.arange(count + count % 2, device=keys.device).view(2, -1)
    uniform = (_hash(_hash(place + GOLDEN)[None] ^ _hash(keys)[:, None, None]).float() + 0.5) / 2**32
    radius, angle = torch.sqrt(-2 * torch.log(uniform[:, 0])), 2 * math.pi * uniform[:, 1]
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], 1)[:, :count].reshape(len(keys), *shape)


def _hash(values: Tensor) -> Tensor:
    """Integers 0..2^32 - 1 as int64, well mixed."""
    values = (values ^ (values >> 16)) * 0x7FEB352D & 0xFFFFFFFF
    values = (values ^ (values >> 15)) * 0x846CA68B & 0xFFFFFFFF
    return values ^ (values >> 16)
