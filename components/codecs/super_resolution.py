"""Heatmaps as large as the input: the SR head and SRPose (Wang, Liu, Tang, Wu 2023).

One Gaussian of the input's resolution supervises maps of every resolution: a coarser map's target is the mean of the cells
that each of its own cells covers, which keeps where the joint lies inside the cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from components.codecs.codec import CodecRecord, Outputs, Targets
from components.codecs.heatmap import quarter_shift, truncated_gaussians
from components.codecs.losses import joints_mse
from components.codecs.map_codec import MapCodec, choose, require_positive, scaled_sigma, single_precision
from components.codecs.peaks import find_peaks
from components.codecs.reach import on_cells, on_quarters
from components.pose.crop import Convention, CropGeometry
from components.pose.skeleton import Skeleton

FIRST_WEIGHT = 1e-4  # of the coarsest stage's own heatmaps, where there are several maps


@dataclass(frozen=True)
class SuperResolutionSettings:
    """Settings of the `super_resolution` codec.

    Attributes:
        preset: "derived", or "published", which lets a joint weigh 1 although its patch ends just before the first cell
            (the released code tests for < 0 instead of <= 0).
        sigma: target's standard deviation, cells of the input-sized map; by default a 24th of its width, the published 8 at 256x192.
        quarter_shift: move the peak by a quarter cell towards its higher neighbour; False is the paper's "w/o Post.".
    """

    preset: Literal["derived", "published"] = "derived"
    sigma: float | None = None
    quarter_shift: bool = True


class SuperResolutionCodec(MapCodec):
    """Outputs: one tensor of heatmaps (B, K, H, W); in training it may be the last of several of any size."""

    convention: ClassVar[Convention] = "classic"

    def __init__(self, geometry: CropGeometry, skeleton: Skeleton, settings: SuperResolutionSettings | None = None) -> None:
        super().__init__(geometry, skeleton)
        self.settings = settings = settings or SuperResolutionSettings()
        self.sigma = require_positive("sigma", choose("sigma", settings.sigma, settings.preset, scaled_sigma(geometry)))

    @property
    def constants(self) -> dict[str, Any]:
        return {"sigma": self.sigma, "quarter_shift": self.settings.quarter_shift, "first_weight": FIRST_WEIGHT}

    def targets(self, keypoints_crop: Tensor, visible: Tensor) -> Targets:
        x, y = self.cells(keypoints_crop, visible)
        beyond = -1 if self.settings.preset == "published" else 0
        heatmaps, weights = truncated_gaussians(x, y, *self.grid(x), self.sigma, visible, beyond, subcell=False)
        return {"heatmaps": heatmaps, "weights": weights}

    def decode(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        heatmaps = single_precision(outputs[-1])
        peaks = find_peaks(heatmaps)
        keypoints = peaks.coordinates()
        if self.settings.quarter_shift:
            keypoints = keypoints + quarter_shift(heatmaps, peaks)
        return keypoints, peaks.scores

    def nearest(self, keypoints_heatmap: Tensor) -> Tensor:
        """A cell's centre or a quarter shift from it."""
        read = on_quarters if self.settings.quarter_shift else on_cells
        return read(keypoints_heatmap, self.geometry.heatmap_size)

    def loss(self, outputs: Outputs, targets: Targets) -> dict[str, Tensor]:
        """Mean squared error of every map against the pooled target, without the usual half; the first of several weighs 1e-4.

        With several maps each one's share is logged as well, `map0_loss` (its weight included), `map1_loss`, …
        """
        pooled: dict[tuple[int, int], Tensor] = {}
        parts = []
        for output in outputs:
            size = (output.shape[-2], output.shape[-1])
            if size not in pooled:
                pooled[size] = pooled_target(targets["heatmaps"], size)
            parts.append(2 * joints_mse(single_precision(output), pooled[size], targets["weights"]))
        if len(parts) == 1:
            return {"loss": parts[0]}
        parts[0] = FIRST_WEIGHT * parts[0]
        return {"loss": torch.stack(parts).sum(), **{f"map{i}_loss": part.detach() for i, part in enumerate(parts)}}


def pooled_target(heatmaps: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, K, h, w) means of the cells of (B, K, H, W) heatmaps that the h x w cells divide them into."""
    if heatmaps.shape[-2:] == size:
        return heatmaps
    return functional.adaptive_avg_pool2d(heatmaps, size)


CODEC = CodecRecord("super_resolution", SuperResolutionCodec, SuperResolutionSettings, SuperResolutionCodec.convention)
