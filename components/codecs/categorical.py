"""A joint's place as a categorical distribution over the cells of its map: ours.

Training minimises the cross-entropy between the softmax of a map and a small Gaussian around the joint. A map is then an estimate of
where the joint may be, with all its alternatives, and decoding chooses the point whose expected OKS is the highest: the map is
filtered with the joint's OKS kernel (Ronchi & Perona 2017, section 3.1: exp(-d² / (2 area k²)), k twice the joint's sigma), and its
highest point is found to a part of a cell. The value there is the joint's score, which is the OKS that the network itself expects. An
arg max answers another question: which single cell is the most probable.

Persons are ranked by how sharply their joints are seen: the probability around a point, weighted with a narrow Gaussian and divided by
what the training's own target would have there. The expected OKS ranks them worse (results/coco_pretrained/levers.json), because a hip's
kernel is so wide that its value is nearly always high.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from components.base.errors import FarposeError
from components.codecs.codec import CodecRecord, Outputs, Targets
from components.codecs.gaussians import outer, profile
from components.codecs.map_codec import MapCodec, mean_probabilities, require_positive, single_precision
from components.codecs.newton import step_to_top
from components.codecs.peaks import find_peaks
from components.codecs.reach import on_map
from components.pose.crop import Convention, CropGeometry
from components.pose.skeleton import Skeleton

SIGMA, NARROWEST = 1 / 32, 0.6  # of a target: share of the map's width, and the least, cells: narrower ones lose their place in the cell
AREA = 0.25  # of a person, share of the crop's area: boxes are padded by 1.25 and persons cover half of theirs
SPREAD = 0.5  # standard deviation of a place inside a cell, cells
SHARPNESS = 1.0  # standard deviation of the kernel that ranks, cells
NEWTON_STEPS = 3  # the first ends within a hundredth of a cell of the maximum unless the map's border cuts a kernel
NOTHING = 1e-12  # smallest probability whose logarithm is taken


@dataclass(frozen=True)
class CategoricalSettings:
    """Settings of the `categorical` codec.

    Attributes:
        sigma: target's standard deviation, cells; by default a 32nd of the map's width, at least 0.6.
        area: of a person, as a share of the crop's; decides how wide the OKS kernels of decoding are.
    """

    sigma: float | None = None
    area: float = AREA


class CategoricalCodec(MapCodec):
    """Outputs: one tensor of logits (B, K, H, W); a softmax over the cells of a map makes them probabilities."""

    convention: ClassVar[Convention] = "unbiased"

    def __init__(self, geometry: CropGeometry, skeleton: Skeleton, settings: CategoricalSettings | None = None) -> None:
        super().__init__(geometry, skeleton)
        self.settings = settings = settings or CategoricalSettings()
        default = max(NARROWEST, geometry.heatmap_size[1] * SIGMA)
        self.sigma = require_positive("sigma", default if settings.sigma is None else settings.sigma)
        if not 0 < settings.area <= 1:
            raise FarposeError(f"area must lie above 0 and not above 1, got {settings.area}")
        self._kernels_on: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self._k_on: dict[torch.device, Tensor] = {}

    @property
    def constants(self) -> dict[str, Any]:
        return {"sigma": self.sigma, "area": self.settings.area}

    @property
    def score_threshold(self) -> float:
        """All joints count: an expected OKS and a sharpness are comparable between joints, also low ones."""
        return 0.0

    def targets(self, keypoints_crop: Tensor, visible: Tensor) -> Targets:
        """`heatmaps` (B, K, H, W), distributions over the cells, and `weights` (B, K), 1 where the joint lies on the map."""
        x, y = self.cells(keypoints_crop, visible)
        columns, rows = self.grid(x)
        height, width = self.geometry.heatmap_size
        on = (x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5) & visible
        x, y = torch.where(on, x, 0.0), torch.where(on, y, 0.0)
        along_x, along_y = profile(x, columns, self.sigma), profile(y, rows[:, 0], self.sigma)
        along_x, along_y = (part / part.sum(-1, keepdim=True) for part in (along_x, along_y))
        return {"heatmaps": outer(along_x * on[..., None], along_y), "weights": on.to(x.dtype)}

    def perfect(self, targets: Targets) -> Outputs:
        logits = targets["heatmaps"].clamp(min=NOTHING).log()
        return (logits - logits.amax((-2, -1), keepdim=True),)

    def fuse(self, outputs: Outputs, aligned: Outputs) -> Outputs:
        """The mean of the two probabilities, as logits again."""
        return tuple(mean_probabilities(a.flatten(2), b.flatten(2)).view_as(a) for a, b in zip(outputs, aligned, strict=True))

    def expected_oks(self, logits: Tensor) -> Tensor:
        """(B, K, H, W) OKS of each cell, averaged over where the joint may be."""
        return self._filtered(log_probabilities(single_precision(logits)).exp())

    def decode(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        """The point of highest expected OKS: the best cell, then Newton steps on the logarithm of the expected OKS between cells.

        In double precision, because on a nearly flat map the curvature under a wide kernel is as small as float32's rounding.
        """
        logits = single_precision(outputs[0])
        probabilities = log_probabilities(logits.double()).exp()
        peaks = find_peaks(self._filtered(probabilities))
        height, width = probabilities.shape[-2:]
        highest = torch.tensor([width - 1, height - 1], dtype=probabilities.dtype, device=probabilities.device)
        start = points = peaks.coordinates()
        for _ in range(NEWTON_STEPS):
            step, has_top = self._newton_step(probabilities, points)
            moved = points + torch.where(has_top[..., None], step, 0.0).clamp(-0.5, 0.5)
            points = torch.minimum(torch.maximum(moved, start - 1), start + 1).clamp(min=0).minimum(highest)
        return points.to(logits.dtype), peaks.scores.to(logits.dtype)

    def ranking(self, outputs: Outputs, keypoints: Tensor) -> Tensor:
        """(B, K) in [0, 1]: the sharpness of the maps at decoded points (B, K, 2), cells; 1 is that of a target."""
        probabilities = log_probabilities(single_precision(outputs[0])).exp()
        columns, rows = self.grid(keypoints)
        x, y = keypoints.to(probabilities.dtype).unbind(-1)
        along_x, along_y = profile(x, columns, SHARPNESS), profile(y, rows[:, 0], SHARPNESS)
        found = (along_y[..., None, :] @ probabilities @ along_x[..., None])[..., 0, 0]
        return (found * (1 + (self.sigma / SHARPNESS) ** 2)).clamp(max=1)  # two Gaussians' product, integrated over the plane

    def _filtered(self, probabilities: Tensor) -> Tensor:
        along_x, along_y = self._kernels(probabilities.device)
        return along_y.to(probabilities.dtype) @ probabilities @ along_x.to(probabilities.dtype)

    def _newton_step(self, probabilities: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K, 2) step to the maximum of the parabola that fits the logarithm of the expected OKS at `points`, and whether it has one."""
        profiles = []  # of x, then of y: the kernel along the axis and its first two derivatives, each (B, K, n)
        for axis, deviation in enumerate(self._deviations(probabilities)):
            cells = torch.arange(probabilities.shape[-1 - axis], dtype=probabilities.dtype, device=probabilities.device)
            offset = (cells - points[..., axis, None]) / deviation[:, None]
            kernel = torch.exp(-0.5 * offset.square())
            slope = kernel * offset / deviation[:, None]
            profiles.append(torch.stack([kernel, slope, kernel * (offset.square() - 1) / deviation[:, None].square()], -1))
        table = profiles[1].transpose(-1, -2) @ probabilities @ profiles[0]  # (B, K, 3, 3): derivatives along y and x
        table = table / table[..., :1, :1].clamp(min=NOTHING)
        dx, dy = table[..., 0, 1], table[..., 1, 0]
        return step_to_top(dx, dy, table[..., 0, 2] - dx * dx, table[..., 2, 0] - dy * dy, table[..., 1, 1] - dx * dy)

    def nearest(self, keypoints_heatmap: Tensor) -> Tensor:
        """Any point of the map."""
        return on_map(keypoints_heatmap, self.geometry.heatmap_size)

    def loss(self, outputs: Outputs, targets: Targets) -> dict[str, Tensor]:
        """Kullback-Leibler divergence from target to prediction, averaged over the joints that lie on the map."""
        predicted = log_probabilities(single_precision(outputs[0])).flatten(2)
        divergence = functional.kl_div(predicted, targets["heatmaps"].flatten(2), reduction="none").sum(-1)
        return {"loss": (divergence * targets["weights"]).sum() / targets["weights"].sum().clamp(min=1)}

    def imitation(self, outputs: Outputs, teacher: Outputs) -> Tensor:
        """Kullback-Leibler divergence from a teacher's maps to ours, averaged over all joints (Hinton, Vinyals, Dean 2015, section 2).

        A teacher also says where joints may be that nobody labelled. Both have the same cells.
        """
        predicted, wanted = (log_probabilities(single_precision(maps[0])).flatten(2) for maps in (outputs, teacher))
        return functional.kl_div(predicted, wanted, reduction="none", log_target=True).sum(-1).mean()

    def _deviations(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """(K,) standard deviations of the OKS kernels along x and y, cells.

        A cell says nothing of the place inside it, so its own spread is added: kernels narrower than a cell would find only cells.
        """
        height, width = self.geometry.input_size
        if like.device not in self._k_on:
            self._k_on[like.device] = 2 * torch.tensor(self.skeleton.sigmas, dtype=torch.float64, device=like.device)
        px = math.sqrt(self.settings.area * height * width) * self._k_on[like.device]
        along_x, along_y = ((px / stride).square().add(SPREAD**2).sqrt().to(like.dtype) for stride in self.geometry.feature_stride)
        return along_x, along_y

    def _kernels(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """(K, W, W) and (K, H, H): OKS between two columns and between two rows, whose product is that of two cells."""
        if device not in self._kernels_on:
            pair = []
            for deviation, count in zip(
                self._deviations(torch.zeros((), dtype=torch.float64)), self.geometry.heatmap_size[::-1], strict=True
            ):
                at = torch.arange(count, dtype=torch.float64)
                distance = (at[:, None] - at[None, :]) / deviation[:, None, None]
                pair.append(torch.exp(-0.5 * distance.square()).to(device))
            self._kernels_on[device] = pair[0], pair[1]
        return self._kernels_on[device]


def log_probabilities(logits: Tensor) -> Tensor:
    """(B, K, H, W) logarithms of the softmax over the cells of each map."""
    return logits.flatten(2).log_softmax(-1).view_as(logits)


CODEC = CodecRecord("categorical", CategoricalCodec, CategoricalSettings, CategoricalCodec.convention)
