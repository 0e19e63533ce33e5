"""Crop geometry: the one place that converts coordinates between image, crop and heatmap.

Three published conventions differ in what a length means:
    classic   lengths count pixels (HRNet and SimpleBaseline): a crop of w px covers w
    dark      lengths count pixel intervals on both sides (DARK): w - 1 covers S - 1
    unbiased  lengths count pixel intervals in the crop only (UDP, CAL): w - 1 covers S, per axis

Frames: `image` px of the original image, `crop` px of the network's input, `heatmap` cells of its output.
Functions take numpy arrays or torch tensors and return the same kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from components.base.errors import FarposeError, unknown_name

Convention = Literal["classic", "dark", "unbiased"]
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)
BOX_PADDING = 1.25  # all published top-down systems enlarge the person's box by this factor


@dataclass(frozen=True)
class CropGeometry:
    """How a person's box becomes the network's input, and its heatmap.

    Attributes:
        input_size: (height, width) of the crop, px.
        heatmap_size: (height, width) of the map, cells.
        convention: "classic", "dark" or "unbiased".

    Raises:
        FarposeError: unknown convention, or a size that is not positive.
    """

    input_size: tuple[int, int]
    heatmap_size: tuple[int, int]
    convention: Convention = "classic"

    def __post_init__(self) -> None:
        if self.convention not in CONVENTIONS:
            raise unknown_name("crop convention", self.convention, CONVENTIONS)
        if min(*self.input_size, *self.heatmap_size) < 1:
            raise FarposeError(f"sizes must be positive, got input {self.input_size}, heatmap {self.heatmap_size}")

    def box_to_center_size(self, bbox_xywh: Any, padding: float = BOX_PADDING) -> tuple[Any, Any]:
        """Centre (N, 2) and size S (N, 2) (width, height), image px, of the padded box with the input's aspect ratio.

        S is the published `scale * 200`.

        Args:
            bbox_xywh: (N, 4) left, top, width, height, image px.
        """
        xp = _library(bbox_xywh)
        aspect = self.input_size[1] / self.input_size[0]
        width, height = bbox_xywh[..., 2], bbox_xywh[..., 3]
        center = xp.stack([bbox_xywh[..., 0] + 0.5 * width, bbox_xywh[..., 1] + 0.5 * height], -1)
        size = xp.stack([xp.maximum(width, height * aspect), xp.maximum(height, width / aspect)], -1)
        return center, size * padding

    def image_to_crop(self, center: Any, size: Any, rotation: Any = 0.0) -> Any:
        """(N, 2, 3) affine matrices from image px to crop px.

        Args:
            center: (N, 2) image px.
            size: (N, 2) padded box, image px.
            rotation: degrees, (N,) or a number; its sign follows the convention's published code.
        """
        return self._matrix(self.input_size, center, size, rotation)

    def image_to_heatmap(self, center: Any, size: Any, rotation: Any = 0.0) -> Any:
        """(N, 2, 3) affine matrices from image px to heatmap cells."""
        return self._matrix(self.heatmap_size, center, size, rotation)

    @property
    def feature_stride(self) -> tuple[float, float]:
        """(x, y) crop px per heatmap cell: W / w in the classic convention, (W - 1) / (w - 1) in the others.

        Classic and DARK scale both axes by the ratio of the widths, as their affine maps to the crop and to the heatmap do.
        """
        (height, width), (rows, columns) = self.input_size, self.heatmap_size
        if self.convention == "unbiased":
            return (width - 1) / max(columns - 1, 1), (height - 1) / max(rows - 1, 1)
        shrink = self._shrink
        stride = (width - shrink) / max(columns - shrink, 1)
        return stride, stride

    def crop_to_heatmap(self, keypoints_crop: Any) -> Any:
        """(..., 2) crop px → heatmap cells: `image_to_heatmap` after the inverse of `image_to_crop`."""
        (stride_x, stride_y), start = self.feature_stride, self._first_row
        x, y = keypoints_crop[..., 0] / stride_x, (keypoints_crop[..., 1] - start) / stride_y
        return _library(keypoints_crop).stack([x, y], -1)

    def heatmap_to_crop(self, keypoints_heatmap: Any) -> Any:
        """(..., 2) heatmap cells → crop px, the inverse of `crop_to_heatmap`."""
        (stride_x, stride_y), start = self.feature_stride, self._first_row
        x, y = keypoints_heatmap[..., 0] * stride_x, keypoints_heatmap[..., 1] * stride_y + start
        return _library(keypoints_heatmap).stack([x, y], -1)

    @property
    def _shrink(self) -> int:
        """Px subtracted from every length where both axes share one scale: 1 for DARK, which counts intervals, else 0."""
        return int(self.convention == "dark")

    @property
    def _first_row(self) -> float:
        """Place of the heatmap's first row in the crop, px. It is not 0 where both axes share one scale but have different ratios.

        The box's centre is in the middle of the crop and of the heatmap. DARK at 64x48: (64 - 1) / 2 - 47 / 11 (16 - 1) / 2 = -0.55 px.
        """
        if self.convention == "unbiased":
            return 0.0
        shrink = self._shrink
        return (self.input_size[0] - shrink) / 2 - self.feature_stride[1] * (self.heatmap_size[0] - shrink) / 2

    def heatmap_to_image(self, keypoints_heatmap: Any, center: Any, size: Any) -> Any:
        """(N, K, 2) heatmap cells → image px, for upright crops."""
        return transform(invert(self.image_to_heatmap(center, size)), keypoints_heatmap)

    def flip_shift(self) -> int:
        """Columns by which the mirrored input's heatmap lies too far left (below 0: too far right) once it is mirrored back.

        A classic stride-s map lands 1 - 1/s cells off: one, as published, for s > 1 (Huang et al. 2020, UDP, section 3.2), and 1 - f
        for an input that is enlarged f-fold before it is read at stride 1. Conventions that count intervals are aligned by
        construction (0).
        """
        if self.convention != "classic":
            return 0
        stride = self.feature_stride[0]
        return 1 if stride > 1 else round(1 - 1 / stride)

    def flip_move(self) -> int:
        """Px to the right by which the mirrored input is moved before the network sees it, so that its map lies whole columns off.

        Moved by one px, a classic map lies exactly one column off. At the published stride of 4 nothing moves, as published: the quarter
        of a cell that is left averages out. At a stride of up to 2, which nobody published, half a cell or more would be left.
        """
        return int(self.convention == "classic" and 1 < self.feature_stride[0] <= 2)

    def _matrix(self, target: tuple[int, int], center: Any, size: Any, rotation: Any) -> Any:
        xp = _library(center)
        height, width = target
        angle = (rotation if xp is not np or np.ndim(rotation) else np.full(center.shape[:-1], float(rotation))) * (np.pi / 180)
        if xp is not np and not hasattr(angle, "shape"):
            angle = xp.full(center.shape[:-1], float(angle), dtype=center.dtype, device=center.device)
        cos, sin = xp.cos(angle), xp.sin(angle)
        if self.convention == "unbiased":
            scale_x, scale_y = (width - 1) / size[..., 0], (height - 1) / size[..., 1]
            rows = [[scale_x * cos, -scale_x * sin], [scale_y * sin, scale_y * cos]]
            middle = (width - 1) / 2, (height - 1) / 2
        else:
            shrink = self._shrink
            scale = (width - shrink) / (size[..., 0] - shrink)
            rows = [[scale * cos, scale * sin], [-scale * sin, scale * cos]]
            middle = (width - shrink) / 2, (height - shrink) / 2
        shifts = [middle[i] - rows[i][0] * center[..., 0] - rows[i][1] * center[..., 1] for i in (0, 1)]
        return xp.stack([xp.stack([*rows[i], shifts[i]], -1) for i in (0, 1)], -2)


def transform(matrix: Any, points: Any) -> Any:
    """Apply (N, 2, 3) affine matrices to (N, ..., 2) points."""
    lead = matrix.shape[:-2] + (1,) * (points.ndim - matrix.ndim + 1)
    m = matrix.reshape(*lead, 2, 3)
    x, y = points[..., 0], points[..., 1]
    return _library(points).stack(
        [m[..., 0, 0] * x + m[..., 0, 1] * y + m[..., 0, 2], m[..., 1, 0] * x + m[..., 1, 1] * y + m[..., 1, 2]], -1
    )


def invert(matrix: Any) -> Any:
    """Inverse of (N, 2, 3) affine matrices."""
    xp = _library(matrix)
    a, b, c = matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 0, 2]
    d, e, f = matrix[..., 1, 0], matrix[..., 1, 1], matrix[..., 1, 2]
    determinant = a * e - b * d
    first = xp.stack([e, -b, b * f - c * e], -1) / determinant[..., None]
    second = xp.stack([-d, a, c * d - a * f], -1) / determinant[..., None]
    return xp.stack([first, second], -2)


def compose(outer: Any, inner: Any) -> Any:
    """The (N, 2, 3) matrices that apply `inner` first, then `outer`."""
    xp = _library(outer)
    linear = outer[..., :, :2] @ inner[..., :, :2]
    shift = (outer[..., :, :2] @ inner[..., :, 2:]) + outer[..., :, 2:]
    return xp.concatenate([linear, shift], -1)


def _library(array: Any) -> Any:
    if isinstance(array, np.ndarray):
        return np
    import torch

    return torch
