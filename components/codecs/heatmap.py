"""Plain heatmaps: Simple Baselines (Xiao et al. 2018) and HRNet (Sun et al. 2019).

Targets are truncated Gaussians on the nearest cell; decoding moves the highest cell a quarter cell towards its higher neighbour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from components.base.errors import FarposeError
from components.codecs.codec import CodecRecord, Outputs, Targets
from components.codecs.gaussians import outer, patch_weights, profile, rounded, window
from components.codecs.losses import joints_mse, joints_mse_ohkm
from components.codecs.map_codec import MapCodec, choose, require_positive, scaled_sigma, single_precision
from components.codecs.peaks import Peaks, find_peaks, inside, neighbours
from components.codecs.reach import on_cells, on_quarters
from components.pose.crop import Convention, CropGeometry
from components.pose.skeleton import Skeleton


@dataclass(frozen=True)
class PeakSettings:
    """Settings of codecs that decode a heatmap's highest cell.

    Attributes:
        preset: "derived", or "published", where a joint weighs 1 even if its patch ends just before the first cell
            (the released code tests for < 0 instead of <= 0).
        sigma: target's standard deviation, cells; by default a 24th of the map's width, at least 1, as published.
        quarter_shift: move the peak by a quarter cell towards its higher neighbour.
    """

    preset: Literal["derived", "published"] = "derived"
    sigma: float | None = None
    quarter_shift: bool = True


@dataclass(frozen=True)
class HeatmapSettings(PeakSettings):
    """Settings of the `heatmap` codec: those of `PeakSettings`, and

    Attributes:
        hardest_joints: average the loss over only the k worst joints of a person (online hard keypoint mining); 0: over all joints.
    """

    hardest_joints: int = 0


class PeakCodec(MapCodec):
    """Targets and decoding of plain heatmaps (B, K, H, W), the last of the outputs."""

    convention: ClassVar[Convention] = "classic"

    def __init__(self, geometry: CropGeometry, skeleton: Skeleton, settings: PeakSettings) -> None:
        super().__init__(geometry, skeleton)
        self._preset, self._quarter_shift = settings.preset, settings.quarter_shift
        self.sigma = require_positive("sigma", choose("sigma", settings.sigma, settings.preset, scaled_sigma(geometry)))

    @property
    def constants(self) -> dict[str, Any]:
        return {"sigma": self.sigma, "quarter_shift": self._quarter_shift}

    def targets(self, keypoints_crop: Tensor, visible: Tensor) -> Targets:
        x, y = self.cells(keypoints_crop, visible)
        beyond = -1 if self._preset == "published" else 0
        heatmaps, weights = truncated_gaussians(x, y, *self.grid(x), self.sigma, visible, beyond, subcell=False)
        return {"heatmaps": heatmaps, "weights": weights}

    def decode(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        heatmaps = single_precision(outputs[-1])
        peaks = find_peaks(heatmaps)
        keypoints = peaks.coordinates()
        if self._quarter_shift:
            keypoints = keypoints + quarter_shift(heatmaps, peaks)
        return keypoints, peaks.scores

    def nearest(self, keypoints_heatmap: Tensor) -> Tensor:
        """A cell's centre or a quarter shift from it."""
        return (on_quarters if self._quarter_shift else on_cells)(keypoints_heatmap, self.geometry.heatmap_size)


class HeatmapCodec(PeakCodec):
    """Outputs: one tensor of heatmaps (B, K, H, W)."""

    def __init__(self, geometry: CropGeometry, skeleton: Skeleton, settings: HeatmapSettings | None = None) -> None:
        self.settings = settings = settings or HeatmapSettings()
        super().__init__(geometry, skeleton, settings)
        if not 0 <= settings.hardest_joints <= self.num_keypoints:
            raise FarposeError(f"hardest_joints must be 0 to {self.num_keypoints}, got {settings.hardest_joints}")

    def loss(self, outputs: Outputs, targets: Targets) -> dict[str, Tensor]:
        heatmaps = single_precision(outputs[0])
        if self.settings.hardest_joints:
            return {"loss": joints_mse_ohkm(heatmaps, targets["heatmaps"], targets["weights"], self.settings.hardest_joints)}
        return {"loss": joints_mse(heatmaps, targets["heatmaps"], targets["weights"])}


def truncated_gaussians(
    x: Tensor, y: Tensor, columns: Tensor, rows: Tensor, sigma: float, visible: Tensor, beyond: float, subcell: bool
) -> tuple[Tensor, Tensor]:
    """Gaussians cut to a square of 3 sigma around the nearest cell, and their weights.

    If 3 sigma is not an integer, the released code draws a patch whose centre is one cell off; this function does not.

    Args:
        x, y: (B, K) joints, cells.
        columns, rows: (W,) and (H, 1) cell numbers.
        visible: (B, K) bool.
        beyond: see `patch_weights`.
        subcell: centre the Gaussian on the joint (UDP) instead of on the nearest cell (HRNet).
    Returns:
        (B, K, H, W) heatmaps and (B, K) weights 0 or 1.
    """
    cell_x, cell_y, rows = rounded(x), rounded(y), rows[:, 0]
    center_x, center_y = (x, y) if subcell else (cell_x, cell_y)
    profile_x = profile(center_x, columns, sigma) * window(cell_x, columns, 3 * sigma)
    profile_y = profile(center_y, rows, sigma) * window(cell_y, rows, 3 * sigma)
    size = (len(rows), len(columns))
    weights = (patch_weights(cell_x, cell_y, size, 3 * sigma, beyond) & visible).to(x.dtype)
    return outer(profile_x * weights[..., None], profile_y), weights


_CROSS = ((-1, 0), (1, 0), (0, -1), (0, 1))


def quarter_shift(heatmaps: Tensor, peaks: Peaks) -> Tensor:
    """(B, K, 2) a quarter cell towards the higher neighbour along each axis.

    As published, peaks in the first two or in the last column or row do not move.
    """
    left, right, up, down = neighbours(heatmaps, peaks, _CROSS).unbind(-1)
    shift = 0.25 * torch.stack([right - left, down - up], -1).sign()
    return shift * inside(peaks, (heatmaps.shape[-2], heatmaps.shape[-1]), low=1, high=1)[..., None]


CODEC = CodecRecord("heatmap", HeatmapCodec, HeatmapSettings, HeatmapCodec.convention)
