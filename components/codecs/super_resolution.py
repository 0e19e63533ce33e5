"""Heatmaps as large as the input: the SR head and SRPose (Wang, Liu, Tang, Wu 2023).

One Gaussian of the input's resolution supervises maps of every resolution: a cell of a coarser map's target is
the mean of the cells that it covers, which preserves the joint's place inside the cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from components.codecs.codec import CodecRecord, Outputs, Targets
from components.codecs.heatmap import PeakCodec, PeakSettings
from components.codecs.losses import joints_mse
from components.codecs.map_codec import single_precision
from components.pose.crop import CropGeometry
from components.pose.skeleton import Skeleton

FIRST_WEIGHT = 1e-4  # of the coarsest stage's heatmaps, where there are several maps


@dataclass(frozen=True)
class SuperResolutionSettings(PeakSettings):
    """Settings of the `super_resolution` codec: those of `PeakSettings`, where cells are those of the input-sized map.

    The default sigma is the published 8 at 256x192; `quarter_shift: false` is the paper's "w/o Post.".
    """


class SuperResolutionCodec(PeakCodec):
    """Outputs: one tensor of heatmaps (B, K, H, W); in training it may be the last of several of any size."""

    def __init__(self, geometry: CropGeometry, skeleton: Skeleton, settings: SuperResolutionSettings | None = None) -> None:
        self.settings = settings or SuperResolutionSettings()
        super().__init__(geometry, skeleton, self.settings)

    @property
    def constants(self) -> dict[str, Any]:
        return super().constants | {"first_weight": FIRST_WEIGHT}

    def loss(self, outputs: Outputs, targets: Targets) -> dict[str, Tensor]:
        """Mean squared error of every map against the pooled target, without the usual half; the first of several weighs 1e-4.

        With several maps, the share of each is logged too: `map0_loss` (its weight included), `map1_loss`, …
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
    """(B, K, h, w) means of (B, K, H, W) heatmaps over the area of each of h x w cells."""
    if heatmaps.shape[-2:] == size:
        return heatmaps
    return functional.adaptive_avg_pool2d(heatmaps, size)


CODEC = CodecRecord("super_resolution", SuperResolutionCodec, SuperResolutionSettings, SuperResolutionCodec.convention)
