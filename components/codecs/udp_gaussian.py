"""UDP with Gaussian targets: unbiased data processing (Huang et al. 2020), the `gaussian` target type of the released code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from components.codecs.blur import blur
from components.codecs.codec import CodecRecord, Outputs, Targets
from components.codecs.heatmap import truncated_gaussians
from components.codecs.losses import joints_mse
from components.codecs.map_codec import MapCodec, choose, require_odd, require_positive, scaled_blur, scaled_sigma, single_precision
from components.codecs.newton import Differences, newton_step, safe_coordinates
from components.codecs.peaks import find_peaks, neighbours
from components.codecs.reach import on_map
from components.pose.crop import Convention, CropGeometry
from components.pose.skeleton import Skeleton

PUBLISHED_BLUR = 7  # hard-coded at every resolution


@dataclass(frozen=True)
class UdpGaussianSettings:
    """Settings of the `udp_gaussian` codec.

    Attributes:
        preset: "derived", or "published": blur 7 on every map and the released arithmetic, which can leave the map near
            its borders and gives NaN on flat maps.
        sigma: target's standard deviation, cells; by default a 24th of the map's width, at least 1, as published.
        blur: kernel size in decoding, cells, odd; by default scaled with the map (`blur_for`).
    """

    preset: Literal["derived", "published"] = "derived"
    sigma: float | None = None
    blur: int | None = None


class UdpGaussianCodec(MapCodec):
    """Outputs: one tensor of heatmaps (B, K, H, W)."""

    convention: ClassVar[Convention] = "unbiased"

    def __init__(self, geometry: CropGeometry, skeleton: Skeleton, settings: UdpGaussianSettings | None = None) -> None:
        super().__init__(geometry, skeleton)
        self.settings = settings = settings or UdpGaussianSettings()
        self.published = settings.preset == "published"
        self.sigma = require_positive("sigma", choose("sigma", settings.sigma, settings.preset, scaled_sigma(geometry)))
        default_blur = PUBLISHED_BLUR if self.published else blur_for(geometry)
        self.blur = require_odd("blur", choose("blur", settings.blur, settings.preset, default_blur))

    @property
    def constants(self) -> dict[str, Any]:
        return {"sigma": self.sigma, "blur": self.blur}

    def targets(self, keypoints_crop: Tensor, visible: Tensor) -> Targets:
        x, y = self.cells(keypoints_crop, visible)
        beyond = -1 if self.published else 0
        heatmaps, weights = truncated_gaussians(x, y, *self.grid(x), self.sigma, visible, beyond, subcell=True)
        return {"heatmaps": heatmaps, "weights": weights}

    def decode(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        return decode_gaussian(single_precision(outputs[0]), self.blur, self.published)

    def nearest(self, keypoints_heatmap: Tensor) -> Tensor:
        """Any point of the map; with published arithmetic, whose steps have any length, any point."""
        return keypoints_heatmap if self.published else on_map(keypoints_heatmap, self.geometry.heatmap_size)

    def loss(self, outputs: Outputs, targets: Targets) -> dict[str, Tensor]:
        return {"loss": joints_mse(single_precision(outputs[0]), targets["heatmaps"], targets["weights"])}


def blur_for(geometry: CropGeometry) -> int:
    """The largest odd kernel not above 7/48 of the map's width, at least 3: the published 7 at 256x192, 3 at 128x96 and 64x48."""
    return max(3, scaled_blur(PUBLISHED_BLUR, geometry.heatmap_size[1]))


_DIFFERENCES = Differences(
    {(1, 0): 0.5, (-1, 0): -0.5},
    {(0, 1): 0.5, (0, -1): -0.5},
    {(1, 0): 1.0, (0, 0): -2.0, (-1, 0): 1.0},
    {(0, 1): 1.0, (0, 0): -2.0, (0, -1): 1.0},
    {(1, 1): 0.5, (1, 0): -0.5, (0, 1): -0.5, (0, 0): 1.0, (-1, 0): -0.5, (0, -1): -0.5, (-1, -1): 0.5},
)


def decode_gaussian(heatmaps: Tensor, size: int, published: bool = False, rescale: bool = True) -> tuple[Tensor, Tensor]:
    """Sub-cell peaks of (B, K, H, W) heatmaps: keypoints (B, K, 2) in cells and scores (B, K), the maxima before blurring.

    Differs from the released code (`published`): a step needs a parabola with a maximum, is at most one cell along each axis and
    stays on the map. A flat map gives its peak cell, where the released code gives NaN.

    Args:
        rescale: stretch the blurred map to 0..maximum before its logarithm, as in UDP's code but not in mmpose's.
    """
    dtype, heatmaps = heatmaps.dtype, heatmaps.double() if published else heatmaps
    peaks = find_peaks(heatmaps)
    blurred = blur(heatmaps, size, "reflect")
    values = neighbours(blurred, peaks, _DIFFERENCES.steps)
    if rescale:
        low, high = blurred.amin((-2, -1))[..., None], blurred.amax((-2, -1))[..., None]
        values = (values - low) / (high - low) * peaks.scores[..., None]
    step, has_top = newton_step(values.clamp(0.001, 50).log(), _DIFFERENCES, ridge=torch.finfo(torch.float32).eps)
    if published:
        return (peaks.coordinates() + step).to(dtype), peaks.scores.to(dtype)
    return safe_coordinates(peaks, step, has_top, (heatmaps.shape[-2], heatmaps.shape[-1])), peaks.scores


CODEC = CodecRecord("udp_gaussian", UdpGaussianCodec, UdpGaussianSettings, UdpGaussianCodec.convention)
