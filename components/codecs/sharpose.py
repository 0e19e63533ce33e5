"""SHaRPose's targets and losses (An et al. 2024): UDP's Gaussians supervise both stages; OKS supervises the quality predictor.

The quality predictor learns the object keypoint similarity (OKS) of the coarse heatmaps. A crop is its person's padded box, so
OKS does not need the image: errors are shares of the box's sides, and its area cancels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from components.base.errors import FarposeError
from components.codecs.codec import CodecRecord, Outputs, Targets
from components.codecs.heatmap import truncated_gaussians
from components.codecs.map_codec import MapCodec, choose, require_odd, require_positive, scaled_blur, scaled_sigma, single_precision
from components.codecs.peaks import find_peaks
from components.codecs.reach import on_map
from components.codecs.udp_gaussian import decode_gaussian
from components.pose.crop import Convention, CropGeometry
from components.pose.skeleton import Skeleton

PUBLISHED_BLUR = 11  # of its decoder, at every resolution
QUALITY_WEIGHT = 0.03


@dataclass(frozen=True)
class SharposeSettings:
    """Settings of the `sharpose` codec.

    Attributes:
        preset: "derived", or "published": blur 11 on every map, and an OKS that scales errors along x by the map's height and
            those along y by its width (the released code swaps them).
        sigma: target's standard deviation, cells; by default a 24th of the map's width, at least 1, as published.
        blur: kernel size in decoding, cells, odd; by default scaled with the map (`blur_for`).
        quality_start: share of the epochs after which the quality predictor learns; before the heatmaps are nearly trained, there
            is little to predict. Published: 180 of 210 epochs (base), 210 of 250 (small).
    """

    preset: Literal["derived", "published"] = "derived"
    sigma: float | None = None
    blur: int | None = None
    quality_start: float = 0.857

    def __post_init__(self) -> None:
        if not 0 <= self.quality_start <= 1:
            raise ValueError(f"quality_start must lie in 0..1, got {self.quality_start}")


class SharposeCodec(MapCodec):
    """Outputs: heatmaps (B, K, H, W); in training coarse heatmaps, fine heatmaps and the coarse ones' quality (B,)."""

    convention: ClassVar[Convention] = "unbiased"

    def __init__(self, geometry: CropGeometry, skeleton: Skeleton, settings: SharposeSettings | None = None) -> None:
        super().__init__(geometry, skeleton)
        self.settings = settings = settings or SharposeSettings()
        self.published = settings.preset == "published"
        self.sigma = require_positive("sigma", choose("sigma", settings.sigma, settings.preset, scaled_sigma(geometry)))
        default_blur = PUBLISHED_BLUR if self.published else blur_for(geometry)
        self.blur = require_odd("blur", choose("blur", settings.blur, settings.preset, default_blur))
        self._sigmas = skeleton.sigmas
        self._quality_weight = 0.0
        self._on: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = {}
        self.progress(0.0)

    @property
    def constants(self) -> dict[str, Any]:
        return {"sigma": self.sigma, "blur": self.blur, "quality_start": self.settings.quality_start, "quality_weight": QUALITY_WEIGHT}

    def targets(self, keypoints_crop: Tensor, visible: Tensor) -> Targets:
        x, y = self.cells(keypoints_crop, visible)
        heatmaps, weights = truncated_gaussians(x, y, *self.grid(x), self.sigma, visible, beyond=0, subcell=True)
        return {"heatmaps": heatmaps, "weights": weights}

    def decode(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        return decode_gaussian(single_precision(outputs[0]), self.blur, self.published, rescale=False)

    def nearest(self, keypoints_heatmap: Tensor) -> Tensor:
        """Any point of the map; with published arithmetic, whose steps have any length, any point."""
        return keypoints_heatmap if self.published else on_map(keypoints_heatmap, self.geometry.heatmap_size)

    def progress(self, fraction: float) -> None:
        """Supervise the quality from `quality_start` on. The weight is a tensor, which a CUDA graph reads in every step."""
        weight = QUALITY_WEIGHT if fraction >= self.settings.quality_start else 0.0
        if weight != self._quality_weight:
            self._quality_weight = weight
            for tensors in self._on.values():
                tensors[0].fill_(weight)

    def loss(self, outputs: Outputs, targets: Targets) -> dict[str, Tensor]:
        """Mean squared errors of the heatmaps (not halved), and of the quality where the outputs are those of training.

        Raises:
            FarposeError: the outputs are neither one tensor (evaluation) nor three (training).
        """
        heatmaps, weights = targets["heatmaps"], targets["weights"]
        losses = [_weighted_mse(single_precision(output), heatmaps, weights) for output in outputs[:2]]
        if len(outputs) == 1:
            return {"loss": losses[0]}
        if len(outputs) != 3:
            raise FarposeError(f"expected coarse heatmaps, fine heatmaps and quality, got {len(outputs)} outputs")
        oks, counts = self.oks(single_precision(outputs[0]).detach(), heatmaps, weights)
        error = (single_precision(outputs[2]) - oks).square() * counts
        persons = counts.sum().clamp(min=1)
        quality = self._constants_on(error.device)[0] * error.sum() / persons
        parts = {"coarse_loss": losses[0], "fine_loss": losses[1], "quality_loss": quality}
        logged = {name: value.detach() for name, value in parts.items()}
        return {"loss": losses[0] + losses[1] + quality, **logged, "coarse_oks": oks.sum() / persons}

    def oks(self, heatmaps: Tensor, expected: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) OKS of the highest cells to those of the expected maps over joints with a weight, and (B,) 1 if there is one, else 0.

        The area is the padded box's, 1.56 times the person's, as published.
        """
        _, tolerance, unit = self._constants_on(heatmaps.device)
        found, goal = find_peaks(heatmaps).coordinates(), find_peaks(expected).coordinates()
        distance = ((found - goal) * unit).square().sum(-1)
        near = torch.exp(-distance / (2 * tolerance)) * (weights > 0)
        joints = (weights > 0).sum(-1)
        return near.sum(-1) / joints.clamp(min=1), (joints > 0).to(near.dtype)

    def _constants_on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """On the device: weight of the quality's loss (), squared tolerance per joint (K,), square roots of box areas per cell (2,)."""
        if device not in self._on:
            tolerance = [(2 * sigma) ** 2 for sigma in self._sigmas]
            tensors = (torch.tensor(value, device=device) for value in (self._quality_weight, tolerance, self._unit()))
            self._on[device] = tuple(tensors)  # type: ignore[assignment]
        return self._on[device]

    def _unit(self) -> tuple[float, float]:
        """A cell's width and height as shares of the box, relative to the square root of its area."""
        (height, width), (rows, columns) = self.geometry.input_size, self.geometry.heatmap_size
        aspect = (width / height) ** 0.5
        if self.published:
            return aspect / rows, 1 / (aspect * columns)
        return aspect / max(columns - 1, 1), 1 / (aspect * max(rows - 1, 1))


def blur_for(geometry: CropGeometry) -> int:
    """The largest odd kernel not above 11/48 of the map's width, from 3 to the published 11: 3 at 64x48, 5 at 128x96."""
    return min(PUBLISHED_BLUR, max(3, scaled_blur(PUBLISHED_BLUR, geometry.heatmap_size[1])))


def _weighted_mse(predicted: Tensor, expected: Tensor, weights: Tensor) -> Tensor:
    """Mean squared error of weighted maps (`JointsMSELoss` of mmpose; HRNet's has a factor 0.5).

    Args:
        predicted, expected: (B, K, H, W).
        weights: (B, K).
    """
    weight = weights[..., None, None]
    return functional.mse_loss(predicted * weight, expected * weight)


CODEC = CodecRecord("sharpose", SharposeCodec, SharposeSettings, SharposeCodec.convention)
