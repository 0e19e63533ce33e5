"""CAL: confidence-aware learning of heatmap and offset (Wang et al. 2021, low-resolution human pose estimation).

A narrow Gaussian gives the cell, an offset map gives the place in the cell. A mask weights the supervision of the offsets; it
follows where the heatmap's peaks actually fall (`cal_masks`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from components.base.errors import FarposeError
from components.codecs.cal_masks import gaussian_mask, scaled_to_one
from components.codecs.codec import CodecRecord, Outputs, Targets
from components.codecs.gaussians import outer, patch_weights, profile, rounded
from components.codecs.losses import cal_heatmap_loss, masked_offset_loss
from components.codecs.map_codec import MapCodec, choose, require_positive, single_precision
from components.codecs.peaks import find_peaks, values_at
from components.pose.crop import Convention, CropGeometry
from components.pose.skeleton import Skeleton

Preset = Literal["derived", "published_w32", "published_w48"]

# Released configurations: sigma by map width, then LOCREF_STDEV and OFFSET_WEIGHT by backbone; KPD is 4 everywhere
_PUBLISHED_SIGMA = {"published_w32": {12: 0.3, 24: 1.0, 48: 2.0}, "published_w48": {12: 0.5, 24: 1.0, 48: 2.0}}
_PUBLISHED_SCALE = {"published_w32": (1.5, 0.7), "published_w48": (1.0, 1.0)}
PUBLISHED_RADIUS = 4.0


@dataclass(frozen=True)
class CalSettings:
    """Settings of the `cal` codec.

    Attributes:
        preset: "derived" scales the constants with the map (`derived_constants`); "published_w32" and "published_w48" are the
            released configurations, which differ by backbone and have raw scores.
        sigma: standard deviation of the Gaussians and of the static mask, cells.
        radius: of the disc in which offsets are defined, cells (KPD of the released code).
        offset_unit: cells per unit of the offset map (LOCREF_STDEV).
        offset_weight: weight of the offset loss.
        mask: where offsets are supervised: "gmm" the Gaussian fitted to the batch's errors, "static" a Gaussian of sigma,
            "disc" everywhere in the disc, "predicted" the predicted heatmap in the disc.
        pixel_weights: weigh the cells of the heatmap loss by their error (PIXEL_HM).
        smooth_l1: smooth L1 loss for offsets instead of L1.
        confidence: divide a peak's height by the height that a perfect Gaussian has at that distance from a cell's centre.
            With sigma 0.3 a perfect peak is 1.0 on a cell and 0.06 between four, so the raw height is not a confidence.
            By default on for "derived" and off, as released, for the others.
    """

    preset: Preset = "derived"
    sigma: float | None = None
    radius: float | None = None
    offset_unit: float | None = None
    offset_weight: float | None = None
    mask: Literal["gmm", "static", "disc", "predicted"] = "gmm"
    pixel_weights: bool = False
    smooth_l1: bool = False
    confidence: bool | None = None


class CalCodec(MapCodec):
    """Outputs: heatmaps (B, K, H, W) and offsets (B, 2 K, H, W), channels x, y of each joint."""

    convention: ClassVar[Convention] = "unbiased"

    def __init__(self, geometry: CropGeometry, skeleton: Skeleton, settings: CalSettings | None = None) -> None:
        super().__init__(geometry, skeleton)
        self.settings = s = settings or CalSettings()
        width = geometry.heatmap_size[1]
        constants = derived_constants(width) if s.preset == "derived" else published_constants(s.preset, width)
        chosen = {name: require_positive(name, choose(name, getattr(s, name), s.preset, value)) for name, value in constants.items()}
        self.sigma, self.radius = chosen["sigma"], chosen["radius"]
        self.offset_unit, self.offset_weight = chosen["offset_unit"], chosen["offset_weight"]
        self.confidence = choose("confidence", s.confidence, s.preset, s.preset == "derived")

    @property
    def output_channels(self) -> tuple[int, ...]:
        return (self.num_keypoints, 2 * self.num_keypoints)

    @property
    def constants(self) -> dict[str, Any]:
        names = ("sigma", "radius", "offset_unit", "offset_weight", "confidence")
        return {name: getattr(self, name) for name in names} | {"mask": self.settings.mask}

    def targets(self, keypoints_crop: Tensor, visible: Tensor) -> Targets:
        """`heatmaps`, `disc`, `static_mask` (B, K, H, W), `offsets` (B, 2 K, H, W), `weights` (B, K).

        All maps of a joint with weight 0 are 0.
        """
        x, y = self.cells(keypoints_crop, visible)
        columns, rows = self.grid(x)
        counts = patch_weights(rounded(x), rounded(y), self.geometry.heatmap_size, 3 * self.sigma, beyond=0) & visible
        weights = counts.to(x.dtype)
        heatmaps = outer(profile(x, columns, self.sigma) * weights[..., None], profile(y, rows[:, 0], self.sigma))
        dx, dy = x[..., None, None] - columns, y[..., None, None] - rows
        disc = (dx.square() + dy.square() <= self.radius**2).to(x.dtype) * weights[..., None, None]
        offsets = torch.stack([dx * disc, dy * disc], 2).flatten(1, 2) / self.offset_unit
        static = heatmaps * disc / self.sigma
        return {"heatmaps": heatmaps, "offsets": offsets, "disc": disc, "static_mask": static, "weights": weights}

    def perfect(self, targets: Targets) -> Outputs:
        return targets["heatmaps"], targets["offsets"]

    def flip(self, outputs: Outputs) -> Outputs:
        heatmaps, offsets = outputs
        mirrored = self.mirror(offsets, group=2).unflatten(1, (-1, 2))
        return self.mirror(heatmaps), torch.stack([-mirrored[:, :, 0], mirrored[:, :, 1]], 2).flatten(1, 2)

    def decode(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        """The peak's cell plus the offset there. An offset may place a joint outside the map."""
        heatmaps, offsets = (single_precision(output) for output in outputs)
        peaks = find_peaks(heatmaps)
        offset = self.offset_unit * values_at(offsets.unflatten(1, (-1, 2)), peaks)
        scores = calibrated(peaks.scores, offset, self.sigma) if self.confidence else peaks.scores
        return peaks.coordinates() + offset, scores

    def nearest(self, keypoints_heatmap: Tensor) -> Tensor:
        """Any point, because offsets are unlimited."""
        return keypoints_heatmap

    def loss(self, outputs: Outputs, targets: Targets) -> dict[str, Tensor]:
        """Also logs `cal_cov_x`, `cal_cov_y`, `cal_cov_xy` (cells²): the spread of predicted around true peaks in the batch."""
        heatmaps, offsets = (single_precision(output) for output in outputs)
        weights = targets["weights"]
        gaussian, spread = gaussian_mask(heatmaps, targets["heatmaps"], weights)
        mask = self._mask(heatmaps, targets, gaussian, spread.joints)
        heatmap = cal_heatmap_loss(heatmaps, targets["heatmaps"], weights, self.settings.pixel_weights)
        offset = masked_offset_loss(offsets, targets["offsets"], mask, weights, self.settings.smooth_l1)
        return {
            "loss": heatmap + self.offset_weight * offset,
            "heatmap_loss": heatmap.detach(),
            "offset_loss": offset.detach(),
            "cal_cov_x": spread.covariance[0, 0],
            "cal_cov_y": spread.covariance[1, 1],
            "cal_cov_xy": spread.covariance[0, 1],
        }

    def _mask(self, heatmaps: Tensor, targets: Targets, gaussian: Tensor, joints: Tensor) -> Tensor:
        kind = self.settings.mask
        if kind == "gmm":  # a single displacement has no spread; the released code fails there
            return torch.where(joints < 2, targets["static_mask"], gaussian)
        if kind == "static":
            return targets["static_mask"]
        if kind == "disc":
            return targets["disc"]
        return scaled_to_one(heatmaps.detach() * targets["disc"]) * targets["disc"]


def derived_constants(width: int) -> dict[str, float]:
    """CAL's constants for a map `width` cells wide.

    sigma: a 24th of the width, the published 0.5 (W48), 1 and 2 at 64x48, 128x96 and 256x192.
    radius: the published 4 cells; the 7 x 7 mask reaches 3 cells at every size, and the disc must cover it.
    offset_unit and offset_weight: 1, the published W48 values, so that offsets are in cells.
    """
    return {"sigma": width / 24, "radius": PUBLISHED_RADIUS, "offset_unit": 1.0, "offset_weight": 1.0}


def published_constants(preset: str, width: int) -> dict[str, float]:
    """The released configuration for a map `width` cells wide.

    Raises:
        FarposeError: no configuration was released for this width.
    """
    sigmas = _PUBLISHED_SIGMA[preset]
    if width not in sigmas:
        known = ", ".join(map(str, sigmas))
        raise FarposeError(f"no CAL configuration was published for a map {width} cells wide", fix=f"published: {known}")
    offset_unit, offset_weight = _PUBLISHED_SCALE[preset]
    return {"sigma": sigmas[width], "radius": PUBLISHED_RADIUS, "offset_unit": offset_unit, "offset_weight": offset_weight}


def calibrated(heights: Tensor, offset: Tensor, sigma: float) -> Tensor:
    """Heights of peaks relative to those of perfect Gaussians at the same phase, at most 1.

    Args:
        heights: (B, K) heatmap values at the peaks.
        offset: (B, K, 2) cells from the peak's cell to the joint; at most half a cell counts, because beyond that
            the neighbour should have been the peak.
    """
    phase = offset.clamp(-0.5, 0.5)
    expected = torch.exp(phase.square().sum(-1) * (-0.5 / sigma**2))
    return (heights / expected).clamp(max=1)


CODEC = CodecRecord("cal", CalCodec, CalSettings, CalCodec.convention)
