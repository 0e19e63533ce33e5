"""What codecs on heatmaps share: flip alignment, cells and grids, and the constants that follow from a map's size."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from components.base.errors import FarposeError
from components.codecs.codec import Outputs, Targets
from components.pose.crop import Convention, CropGeometry
from components.pose.skeleton import Skeleton

HEATMAP_SCORE_THRESHOLD = 0.2  # IN_VIS_THRE of all published configurations on heatmaps


class MapCodec(ABC):
    """Base of the codecs on heatmaps. Subclasses set `convention` and override the methods that differ."""

    convention: ClassVar[Convention]

    def __init__(self, geometry: CropGeometry, skeleton: Skeleton) -> None:
        self.geometry, self.skeleton = geometry, skeleton
        self.num_keypoints = len(skeleton)
        self._permutation = skeleton.flip_permutation
        self._permutation_on: dict[torch.device, Tensor] = {}

    @property
    def output_channels(self) -> tuple[int, ...]:
        """Channels of each map that the network must output."""
        return (self.num_keypoints,)

    @property
    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple((channels, *self.geometry.heatmap_size) for channels in self.output_channels)

    @property
    def score_threshold(self) -> float:
        return HEATMAP_SCORE_THRESHOLD

    @property
    def flip_border(self) -> tuple[int, int]:
        shift = self.geometry.flip_shift()
        return max(shift, 0), max(-shift, 0)

    @abstractmethod
    def decode(self, outputs: Outputs) -> tuple[Tensor, Tensor]: ...

    @abstractmethod
    def nearest(self, keypoints_heatmap: Tensor) -> Tensor: ...

    def fuse(self, outputs: Outputs, aligned: Outputs) -> Outputs:
        return tuple((upright + other) / 2 for upright, other in zip(outputs, aligned, strict=True))

    def progress(self, fraction: float) -> None:
        return None

    def flip(self, outputs: Outputs) -> Outputs:
        return tuple(self.mirror(output) for output in outputs)

    def perfect(self, targets: Targets) -> Outputs:
        return (targets["heatmaps"],)

    def mirror(self, maps: Tensor, group: int = 1) -> Tensor:
        """Mirror (B, K * group, H, W) maps of mirrored crops back, aligned with the upright ones.

        A reversed classic map is one column too far left, so it is shifted right and keeps its first column (SHIFT_HEATMAP of the
        HRNet code). One that is finer than the crop is too far right, and keeps its last columns.
        """
        mirrored = self.reverse(maps, group)
        shift = self.geometry.flip_shift()
        if shift == 0:
            return mirrored
        kept = mirrored[..., :shift] if shift > 0 else mirrored[..., shift:]
        moved = [kept, mirrored[..., :-shift]] if shift > 0 else [mirrored[..., -shift:], kept]
        return torch.cat(moved, -1)

    def reverse(self, maps: Tensor, group: int = 1) -> Tensor:
        """(B, K * group, ..., W) with columns reversed, and left and right joints exchanged."""
        if maps.device not in self._permutation_on:
            self._permutation_on[maps.device] = torch.tensor(self._permutation, device=maps.device)
        grouped = maps.unflatten(1, (self.num_keypoints, group))
        return grouped.flip(-1).index_select(1, self._permutation_on[maps.device]).flatten(1, 2)

    def cells(self, keypoints_crop: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K) x and y in heatmap cells; (0, 0) for joints that are not visible."""
        keypoints = self.geometry.crop_to_heatmap(torch.where(visible[..., None], keypoints_crop, 0.0))
        return keypoints[..., 0], keypoints[..., 1]

    def grid(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Column numbers (W,) and row numbers (H, 1)."""
        height, width = self.geometry.heatmap_size
        columns = torch.arange(width, dtype=like.dtype, device=like.device)
        rows = torch.arange(height, dtype=like.dtype, device=like.device)
        return columns, rows[:, None]


def scaled_sigma(geometry: CropGeometry) -> float:
    """Standard deviation of a target, cells: one 24th of the map's width, at least 1.

    It gives the published 3 at 384x288, 2 at 256x192 and 1 at 128x96; Gaussians narrower than 1 cell are under-sampled.
    """
    return max(1.0, geometry.heatmap_size[1] / 24)


def scaled_blur(published: int, width: int) -> int:
    """The largest odd kernel not above the published kernel's share of a map 48 cells wide, at least 1: 15, 7, 3 and 7, 3, 1.

    On a map 12 cells wide the published 15 and 7 reach across it and blur even perfect outputs away.
    """
    scaled = int(published * width / 48)
    return max(1, scaled - 1 + scaled % 2)


def single_precision(output: Tensor) -> Tensor:
    """Half-precision outputs as float32; others as they are."""
    return output.float() if output.dtype in (torch.float16, torch.bfloat16) else output


def mean_probabilities(logits: Tensor, others: Tensor) -> Tensor:
    """Logits of the mean of two distributions, each the softmax of (..., n) logits over their last axis."""
    return torch.logaddexp(logits.log_softmax(-1), others.log_softmax(-1)) - math.log(2)


def require_odd(name: str, size: int) -> int:
    """`size`, if it is the size of a blur kernel.

    Raises:
        FarposeError: it is even or not positive.
    """
    if size < 1 or size % 2 == 0:
        raise FarposeError(f"{name} must be an odd number of cells, got {size}")
    return size


def require_positive(name: str, value: float) -> float:
    """`value`, if it is above 0.

    Raises:
        FarposeError: it is not.
    """
    if not value > 0:
        raise FarposeError(f"{name} must be positive, got {value}")
    return value


def choose(name: str, given: Any, preset: str, preset_value: Any) -> Any:
    """A setting's value: the explicit one, or the preset's.

    Raises:
        FarposeError: a published preset and an explicit value contradict each other.
    """
    if given is None:
        return preset_value
    if preset != "derived" and given != preset_value:
        fix = f"remove {name} or use preset 'derived'"
        raise FarposeError(f"{name} = {given} contradicts preset {preset!r}, which fixes it at {preset_value}", fix=fix)
    return given
