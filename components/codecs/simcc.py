"""SimCC: a joint as two classes, its column and its row (Li et al. 2022, first circulated as SimDR).

Every cell is split into k bins per axis; cells are px of the crop, or of the crop as the network enlarges it. The network outputs one
row of logits per joint and axis; the joint is at the most probable bin. Targets are one-hot with label smoothing (SimDR), or Gaussians
along each axis (SimDR*, "sa-simdr" in the released code).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from components.base.errors import FarposeError
from components.codecs.codec import CodecRecord, Outputs, Targets
from components.codecs.gaussians import patch_weights, profile
from components.codecs.map_codec import MapCodec, mean_probabilities, require_positive, single_precision
from components.codecs.reach import on_cells
from components.pose.crop import Convention, CropGeometry
from components.pose.skeleton import Skeleton

SMOOTHING = 0.1  # of most released configurations
NOTHING = 1e-12  # smallest probability in a target whose logarithm is taken
SMALL_HEIGHT = 64  # px; crops up to this height are split more finely, as released


@dataclass(frozen=True)
class SimccSettings:
    """Settings of the `simcc` codec.

    Attributes:
        preset: "derived", or "published": the mirrored crop's columns are shifted by one bin for every split, and the weight of a
            Gaussian is computed as if its sigma were in px.
        split: k, bins per cell; by default 3 up to a height of 64 cells, else 2, as most released configurations. Must be whole for
            "derived", because mirrored columns are shifted by whole bins.
        target: "one_hot" or "gaussian".
        label_smoothing: for one-hot targets: the total share of all other bins; by default 0.1.
        sigma: for Gaussian targets: standard deviation, bins; by default a 96th of all columns, at least one bin, which gives
            the published 4 at 256x192 and 6 at 384x288 with two bins per px.
        normalise: average the loss over bins and joints instead of summing it; by default for Gaussian targets, as released.
            Adam's steps do not depend on it.
    """

    preset: Literal["derived", "published"] = "derived"
    split: float | None = None
    target: Literal["one_hot", "gaussian"] = "one_hot"
    label_smoothing: float | None = None
    sigma: float | None = None
    normalise: bool | None = None


class SimccCodec(MapCodec):
    """Outputs: logits along x (B, K, k W) and along y (B, K, k H), for H x W cells."""

    convention: ClassVar[Convention] = "classic"

    def __init__(self, geometry: CropGeometry, skeleton: Skeleton, settings: SimccSettings | None = None) -> None:
        super().__init__(geometry, skeleton)
        self.settings = s = settings or SimccSettings()
        height, width = geometry.heatmap_size
        self.enlarged = width / geometry.input_size[1]  # cells per px of the crop
        if self.enlarged < 1 or height != self.enlarged * geometry.input_size[0]:
            rows, columns = geometry.input_size
            raise FarposeError(f"simcc counts px of the crop: its cells must be {rows}x{columns} or more, got {geometry.heatmap_size}")
        self.published, self.gaussian = s.preset == "published", s.target == "gaussian"
        self.split = require_positive("split", (3 if height <= SMALL_HEIGHT else 2) if s.split is None else s.split)
        if not self.published and self.split != int(self.split):
            problem = f"split = {self.split}, but mirrored columns are shifted by split - 1 bins, which must be whole"
            raise FarposeError(problem, fix="give a whole number, or preset: published, which always shifts by one bin")
        self.bins = int(height * self.split), int(width * self.split)  # along y, along x
        default = max(1.0, self.split * width / 96)
        self.sigma = require_positive("sigma", default if s.sigma is None else s.sigma)
        self.label_smoothing = SMOOTHING if s.label_smoothing is None else s.label_smoothing
        self.normalise = self.gaussian if s.normalise is None else s.normalise
        self._check_settings()

    def _check_settings(self) -> None:
        unread = "label_smoothing" if self.gaussian else "sigma"
        if getattr(self.settings, unread) is not None:
            raise FarposeError(f"{unread} has no meaning for target {self.settings.target!r}", fix="remove it")
        if not 0 <= self.label_smoothing < 1:
            raise FarposeError(f"label_smoothing must be at least 0 and below 1, got {self.label_smoothing}")

    @property
    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        rows, columns = self.bins
        return (self.num_keypoints, columns), (self.num_keypoints, rows)

    @property
    def constants(self) -> dict[str, Any]:
        width = {"sigma": self.sigma} if self.gaussian else {"label_smoothing": self.label_smoothing}
        return {"split": self.split, "target": self.settings.target, **width, "score_threshold": self.score_threshold}

    @property
    def score_threshold(self) -> float:
        """Chosen by the authors by trial: single bins have low probabilities, which fall with the number of bins."""
        if self.gaussian:
            return 0.01 if self.geometry.heatmap_size[0] <= 256 else 0.005
        return 0.02 if self.geometry.heatmap_size[0] <= 128 else 0.01

    @property
    def flip_shift(self) -> int:
        """Bins by which the reversed columns of the mirrored crop are too far right.

        A joint at x px mirrors to w - 1 - x. With f cells per px, bin k f x becomes k f (w - 1 - x), and reversed, k f x + k f - 1.
        """
        return 1 if self.published else round(self.split * self.enlarged) - 1

    @property
    def flip_border(self) -> tuple[int, int]:
        return 0, self.flip_shift

    def targets(self, keypoints_crop: Tensor, visible: Tensor) -> Targets:
        """`x` (B, K, k W) and `y` (B, K, k H), the target distributions of the logits' softmax, and `weights` (B, K).

        All probabilities of a joint with weight 0 are 0.
        """
        x, y = self.cells(keypoints_crop, visible)
        along_x, along_y, counts = self._gaussians(x, y) if self.gaussian else self._one_hots(x, y)
        weights = (counts & visible).to(x.dtype)
        return {"x": along_x * weights[..., None], "y": along_y * weights[..., None], "weights": weights}

    def _one_hots(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows, columns = self.bins
        bin_x, bin_y = torch.round(x * self.split), torch.round(y * self.split)  # ties to even, as released
        inside = (bin_x >= 0) & (bin_x < columns) & (bin_y >= 0) & (bin_y < rows)
        return self._smoothed(bin_x, columns), self._smoothed(bin_y, rows), inside

    def _smoothed(self, chosen: Tensor, count: int) -> Tensor:
        at = torch.arange(count, dtype=chosen.dtype, device=chosen.device) == chosen[..., None]
        on, off = 1 - self.label_smoothing, self.label_smoothing / (count - 1)
        return torch.where(at, on, off).to(chosen.dtype)

    def _gaussians(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As released, centres are not rounded, and Gaussians cut by the crop's border are not rescaled."""
        rows, columns = self.bins
        center_x, center_y = x * self.split, y * self.split
        if self.published:  # sigma is in bins but used as px, so joints far outside weigh 1 with an empty target
            counts = patch_weights(x, y, self.geometry.heatmap_size, 3 * self.sigma, beyond=-1)
        else:
            counts = patch_weights(center_x, center_y, self.bins, 3 * self.sigma, beyond=0)
        height = 1 / (self.sigma * math.sqrt(2 * math.pi))
        drawn = []
        for center, count in ((center_x, columns), (center_y, rows)):
            positions = torch.arange(count, dtype=x.dtype, device=x.device)
            drawn.append(height * profile(center, positions, self.sigma))
        return drawn[0], drawn[1], counts

    def perfect(self, targets: Targets) -> Outputs:
        return targets["x"].clamp(min=NOTHING).log(), targets["y"].clamp(min=NOTHING).log()

    def flip(self, outputs: Outputs) -> Outputs:
        x, y = (self.reverse(output) for output in outputs)
        shift = self.flip_shift
        if shift:
            x = torch.cat([x[..., shift:], x[..., -1:].expand(*x.shape[:-1], shift)], -1)
        return x, y.flip(-1)  # rows are not reversed; only left and right joints are exchanged

    def fuse(self, outputs: Outputs, aligned: Outputs) -> Outputs:
        """One-hot: the mean of the two probabilities, as logits again; Gaussian: the mean of the logits."""
        if self.gaussian:
            return super().fuse(outputs, aligned)
        return tuple(mean_probabilities(a, b) for a, b in zip(outputs, aligned, strict=True))

    def decode(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        """The most probable bin of each axis, the first of equals. Scores: the higher (one-hot) or lower (Gaussian) probability."""
        best_x, best_y = (single_precision(output).softmax(-1).max(-1) for output in outputs)
        higher = torch.minimum if self.gaussian else torch.maximum
        scores = higher(best_x.values, best_y.values)
        return torch.stack([best_x.indices, best_y.indices], -1).to(scores.dtype) / self.split, scores

    def nearest(self, keypoints_heatmap: Tensor) -> Tensor:
        """A bin of each axis."""
        rows, columns = self.bins
        return on_cells(keypoints_heatmap * self.split, (rows, columns)) / self.split

    def loss(self, outputs: Outputs, targets: Targets) -> dict[str, Tensor]:
        """Kullback-Leibler divergence from target to prediction, both axes added (`NMTCritierion`, `NMTNORMCritierion`,
        `KLDiscretLoss` of the released code)."""
        parts = []
        for output, axis in zip(outputs, ("x", "y"), strict=True):
            predicted = single_precision(output).log_softmax(-1)
            divergence = F.kl_div(predicted, targets[axis], reduction="none") * targets["weights"][..., None]
            parts.append(divergence.mean() if self.normalise else divergence.sum() / len(divergence))
        return {"loss": parts[0] + parts[1], "x_loss": parts[0].detach(), "y_loss": parts[1].detach()}


CODEC = CodecRecord("simcc", SimccCodec, SimccSettings, SimccCodec.convention)
