"""DARK: distribution-aware coordinate representation (Zhang et al. 2020).

Targets are Gaussians around the exact joint; decoding blurs the map, takes its logarithm and steps to the parabola's maximum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from components.codecs.blur import blur
from components.codecs.codec import CodecRecord, Outputs, Targets
from components.codecs.gaussians import outer, patch_weights, profile
from components.codecs.losses import joints_mse
from components.codecs.map_codec import MapCodec, choose, require_odd, require_positive, scaled_sigma, single_precision
from components.codecs.newton import Differences, newton_step, safe_coordinates
from components.codecs.peaks import find_peaks, inside, neighbours
from components.codecs.reach import after_steps
from components.pose.crop import Convention, CropGeometry
from components.pose.skeleton import Skeleton

STEP_BORDER = 2  # cells from the map's edge within which there is no step, as published


@dataclass(frozen=True)
class DarkSettings:
    """Settings of the `dark` codec.

    Attributes:
        preset: "derived" or "published"; the constants are equal (see `blur_for`), but "published" follows the released
            arithmetic: steps have any length and direction, and a joint's weight becomes 0 one cell further out.
        sigma: target's standard deviation, cells; by default a 24th of the map's width, at least 1, as published.
        blur: kernel size in decoding, cells, odd; by default derived from sigma.
    """

    preset: Literal["derived", "published"] = "derived"
    sigma: float | None = None
    blur: int | None = None


class DarkCodec(MapCodec):
    """Outputs: one tensor of heatmaps (B, K, H, W)."""

    convention: ClassVar[Convention] = "dark"

    def __init__(self, geometry: CropGeometry, skeleton: Skeleton, settings: DarkSettings | None = None) -> None:
        super().__init__(geometry, skeleton)
        self.settings = settings = settings or DarkSettings()
        self.sigma = require_positive("sigma", choose("sigma", settings.sigma, settings.preset, scaled_sigma(geometry)))
        self.blur = require_odd("blur", choose("blur", settings.blur, settings.preset, blur_for(self.sigma)))

    @property
    def constants(self) -> dict[str, Any]:
        return {"sigma": self.sigma, "blur": self.blur}

    def targets(self, keypoints_crop: Tensor, visible: Tensor) -> Targets:
        x, y = self.cells(keypoints_crop, visible)
        columns, rows = self.grid(x)
        # The released test truncates towards zero, so a patch counts until its edge is one whole cell outside
        beyond = -1 if self.settings.preset == "published" else 0
        weights = patch_weights(x, y, self.geometry.heatmap_size, 3 * self.sigma, beyond) & visible
        heatmaps = outer(profile(x, columns, self.sigma) * weights[..., None], profile(y, rows[:, 0], self.sigma))
        return {"heatmaps": heatmaps, "weights": weights.to(x.dtype)}

    def decode(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        return decode_dark(single_precision(outputs[0]), self.blur, published=self.settings.preset == "published")

    def nearest(self, keypoints_heatmap: Tensor) -> Tensor:
        """A cell, or a step of at most one cell from a cell at least two from the border. Published steps have any length."""
        if self.settings.preset == "published":
            return keypoints_heatmap
        return after_steps(keypoints_heatmap, self.geometry.heatmap_size, STEP_BORDER)

    def loss(self, outputs: Outputs, targets: Targets) -> dict[str, Tensor]:
        return {"loss": joints_mse(single_precision(outputs[0]), targets["heatmaps"], targets["weights"])}


def blur_for(sigma: float) -> int:
    """The largest kernel whose standard deviation is at most the target's.

    OpenCV's kernel of size k has a standard deviation of 0.3 ((k - 1) / 2 - 1) + 0.8. For sigma 2 this gives the published
    11 (256x192), for sigma 1 the published 3 (128x96).
    """
    return 2 * max(math.floor((sigma - 0.8) / 0.3 + 1 + 1e-6), 0) + 1


_DIFFERENCES = Differences(  # over two cells for second derivatives, as in the released code
    {(1, 0): 0.5, (-1, 0): -0.5},
    {(0, 1): 0.5, (0, -1): -0.5},
    {(2, 0): 0.25, (0, 0): -0.5, (-2, 0): 0.25},
    {(0, 2): 0.25, (0, 0): -0.5, (0, -2): 0.25},
    {(1, 1): 0.25, (1, -1): -0.25, (-1, 1): -0.25, (-1, -1): 0.25},
)


def smooth(heatmaps: Tensor, size: int) -> Tensor:
    """Blur (B, K, H, W) heatmaps between zeros and rescale each to its original maximum. All-zero maps stay zero (published: NaN)."""
    blurred = blur(heatmaps, size, "zero")
    before, after = heatmaps.amax((-2, -1), keepdim=True), blurred.amax((-2, -1), keepdim=True)
    return blurred * torch.where(after == 0, 1.0, before / after)


def decode_dark(heatmaps: Tensor, size: int, published: bool = False) -> tuple[Tensor, Tensor]:
    """Sub-cell peaks of (B, K, H, W) heatmaps: keypoints (B, K, 2) in cells and scores (B, K), the maxima before blurring.

    There is no step within two cells of the border (both forms).
    Differs from the released code (`published`): a step needs a parabola with a maximum, is at most one cell along each axis, and
    stays on the map. Newton steps to a saddle, or far away on a nearly flat map, are rejected.
    """
    peaks = find_peaks(heatmaps)
    map_size = (heatmaps.shape[-2], heatmaps.shape[-1])
    values = neighbours(smooth(heatmaps, size), peaks, _DIFFERENCES.steps)
    step, has_top = newton_step(values.clamp(min=1e-10).log(), _DIFFERENCES)
    allowed = inside(peaks, map_size, low=STEP_BORDER - 1, high=STEP_BORDER)
    if published:
        step = torch.where((allowed & torch.isfinite(step).all(-1))[..., None], step, 0.0)  # a singular Hessian is skipped
        return peaks.coordinates() + step, peaks.scores
    return safe_coordinates(peaks, step, allowed & has_top, map_size), peaks.scores


CODEC = CodecRecord("dark", DarkCodec, DarkSettings, DarkCodec.convention)
