"""Whole-image geometry: the one place that converts between an image and the input and heatmaps of a bottom-up network.

Frames: `image` px of the original image, `input` px of the network's input, `heatmap` cells of an output. As in the classic
crop convention, lengths count pixels.

Two published ways of fitting an image:
    short_side  the short side becomes `size`, the long side is rounded up to a multiple of 64 and padded with black; nothing
                is cut off (Cheng et al. 2020, HigherHRNet; LitePose uses the same)
    letterbox   the input is a square that the image's width fills (HigherPose's released code). Landscape images are padded
                above and below; portrait images lose their top and bottom: at 480x640 px a quarter of the image. Kept
                to compare with the published numbers only
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from components.base.errors import FarposeError, unknown_name
from components.pose.crop import CropGeometry, invert, transform

Fit = Literal["short_side", "letterbox"]
FITS: tuple[Fit, ...] = get_args(Fit)
MULTIPLE = 64  # px; sides of an input at scale 1
LONGEST = 8  # an image longer than this many short sides is fitted by its long side, which becomes LONGEST * size px


@dataclass(frozen=True)
class ImageGeometry:
    """How an image becomes the input of a bottom-up network.

    Attributes:
        size: px; of the input's short side ("short_side") or of both sides ("letterbox"). Rounded up to a multiple of 64.
        fit: "short_side" or "letterbox".

    Raises:
        FarposeError: unknown fit, or a size that is not positive.
    """

    size: int
    fit: Fit = "short_side"

    def __post_init__(self) -> None:
        if self.fit not in FITS:
            raise unknown_name("image fit", self.fit, FITS)
        if self.size < 1:
            raise FarposeError(f"the input's size must be positive, got {self.size}")

    def input_size(self, width: int, height: int, scale: float = 1.0, smallest: float = 1.0) -> tuple[int, int]:
        """(height, width) of an image's input, px; the published `get_multi_scale_size`.

        Args:
            width, height: of the image, px.
            scale: of this pass of a multi-scale test.
            smallest: the smallest scale of that test; sides are multiples of 64 there, and of 64 * scale / smallest here.
        """
        short = _rounded_up(smallest * self.size)
        if self.fit == "letterbox":
            return (int(short * scale / smallest),) * 2
        low, high = min(width, height), max(width, height)
        if high > LONGEST * low:
            sides = _rounded_up(short * LONGEST / high * low), LONGEST * short
        else:
            sides = short, _rounded_up(short / low * high)
        first, second = (int(side * scale / smallest) for side in sides)
        return (second, first) if width < height else (first, second)

    def image_to_input(self, width: int, height: int, scale: float = 1.0, smallest: float = 1.0) -> np.ndarray:
        """(2, 3) affine matrix from image px to input px; arguments as in `input_size`."""
        return self.image_to_map(self.input_size(width, height, scale, smallest), width, height)

    def image_to_map(self, size: tuple[int, int], width: int, height: int) -> np.ndarray:
        """(2, 3) affine matrix from image px to the cells of a map (h, w) that covers an image's whole input.

        As published, the image's middle is first rounded to a whole pixel; it becomes the map's middle.
        """
        by_width = self.fit == "letterbox" or (width < height) != (max(width, height) > LONGEST * min(width, height))
        factor = size[1] / width if by_width else size[0] / height
        middle = int(width / 2 + 0.5), int(height / 2 + 0.5)
        return np.array([[factor, 0, size[1] / 2 - factor * middle[0]], [0, factor, size[0] / 2 - factor * middle[1]]])

    def heatmap_to_image(self, points: Any, heatmap_size: tuple[int, int], width: int, height: int) -> Any:
        """(..., 2) heatmap cells → image px; the published `get_final_preds`.

        Args:
            points: numpy array or torch tensor.
            heatmap_size: (h, w) of the map, which covers the whole input at any scale.
            width, height: of the image, px.
        """
        return self._apply(invert(self.image_to_map(heatmap_size, width, height)[None])[0], points)

    def image_to_heatmap(self, points: Any, heatmap_size: tuple[int, int], width: int, height: int) -> Any:
        """(..., 2) image px → heatmap cells; the inverse of `heatmap_to_image`."""
        return self._apply(self.image_to_map(heatmap_size, width, height), points)

    @staticmethod
    def _apply(matrix: np.ndarray, points: Any) -> Any:
        if isinstance(points, np.ndarray):
            return transform(matrix[None], points[None])[0]
        import torch

        return transform(torch.as_tensor(matrix, dtype=points.dtype, device=points.device)[None], points[None])[0]


def view(center: Any, side: Any, size: int, degrees: Any = 0.0) -> Any:
    """(N, 2, 3) affine matrices from image px to a square of `size` cells that shows a rotated square of the image.

    The published augmentation's matrix (`_get_affine_matrix`), which is the classic crop's of a square box.

    Args:
        center: (N, 2) image px.
        side: (N,) image px; 200 times the published scale.
        degrees: (N,) or a number.
    """
    xp = np if isinstance(side, np.ndarray) else _torch()
    return CropGeometry((size, size), (size, size)).image_to_crop(center, xp.stack([side, side], -1), degrees)


def _torch() -> Any:
    import torch

    return torch


def _rounded_up(length: float) -> int:
    """The next multiple of 64 px, at least 64. The published expression adds 63 and rounds down, so 64.5 becomes 64."""
    return max(int((length + MULTIPLE - 1) // MULTIPLE * MULTIPLE), MULTIPLE)
