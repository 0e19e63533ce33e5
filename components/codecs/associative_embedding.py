"""Bottom-up persons by associative embedding (Newell, Huang & Deng 2017) as HigherHRNet trains and groups it (Cheng et al. 2020).

The network sees a whole image. It outputs K heatmaps for the joints of all persons, at one or two resolutions, and K maps of tags:
values that are close for joints of one person and differ between persons. LitePose, HigherPose and the bottom-up SR head use the same.

See `codec.ImageCodec` for the contract.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from components.base.errors import FarposeError
from components.codecs.aggregation import aggregate
from components.codecs.codec import CodecRecord, Outputs, Size, Targets
from components.codecs.embedding_loss import heatmap_loss, tag_loss
from components.codecs.embedding_targets import merged_gaussians, owners, patch, tag_index
from components.codecs.grouping import NMS_KERNEL, Grouping, parse_batch
from components.codecs.map_codec import require_positive, single_precision
from components.codecs.reach import nearer, on_cells
from components.pose.crop import Convention, CropGeometry
from components.pose.skeleton import Skeleton

# px of the input at the first output: 2 cells at stride 4 (HigherHRNet), 8 at stride 1 (SR head); as many cells at all outputs
SIGMA_PX = 8
NMS_KERNEL_FULL_SIZE = 11  # of the SR head's configuration (HRNet)
PERFECT_TAG_STEP = 10.0  # between two persons; far above the threshold of 1


@dataclass(frozen=True)
class AssociativeEmbeddingSettings:
    """Settings of the `associative_embedding` codec.

    Attributes:
        sigma: the Gaussians' standard deviation, cells of each output; by default 2 at stride 4 and 8 at stride 1.
        outputs: 1, or 2 with a second output of finer heatmaps; by default 1 at stride 1, else 2.
        pull_factor, push_factor: weights of the two parts of the tag loss; heatmaps weigh 1.
        grouping: how peaks become persons; its `nms_kernel` is 5 by default, and 11 at stride 1.
    """

    sigma: float | None = None
    outputs: int | None = None
    pull_factor: float = 1e-3
    push_factor: float = 1e-3
    grouping: Grouping = field(default_factory=Grouping)


class GroupedPersons(NamedTuple):
    """The persons of one image.

    Attributes:
        keypoints: (N, K, 2) float64 x, y in cells of the decoded heatmaps; (0, 0) for a joint that is not found.
        keypoint_scores: (N, K) heatmap values, 0 for a joint that is not found.
        scores: (N,) mean over all K joints before missing ones were filled in.
    """

    keypoints: np.ndarray
    keypoint_scores: np.ndarray
    scores: np.ndarray


class AssociativeEmbeddingCodec:
    """Outputs: (B, 2 K, h, w) heatmaps and tags, then, at stride 4, heatmaps (B, K, 2 h, 2 w)."""

    convention: ClassVar[Convention] = "classic"

    def __init__(self, geometry: CropGeometry, skeleton: Skeleton, settings: AssociativeEmbeddingSettings | None = None) -> None:
        self.geometry, self.skeleton, self.num_keypoints = geometry, skeleton, len(skeleton)
        self.settings = settings = settings or AssociativeEmbeddingSettings()
        stride = geometry.input_size[0] / geometry.heatmap_size[0]
        side = geometry.heatmap_size[0]
        outputs = (1 if stride == 1 else 2) if settings.outputs is None else settings.outputs
        if outputs not in (1, 2):
            raise FarposeError(f"outputs must be 1 or 2, got {outputs}")
        self.output_sizes: tuple[int, ...] = (side, 2 * side)[:outputs]
        self.sigma = require_positive("sigma", SIGMA_PX / stride if settings.sigma is None else settings.sigma)
        derived = NMS_KERNEL_FULL_SIZE if stride == 1 else NMS_KERNEL
        self.grouping = replace(settings.grouping, nms_kernel=settings.grouping.nms_kernel or derived)
        self._patches: dict[torch.device, Tensor] = {}
        self._permutations: dict[torch.device, Tensor] = {}

    @property
    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        channels = (2 * self.num_keypoints, self.num_keypoints)
        return tuple((count, size, size) for count, size in zip(channels, self.output_sizes, strict=False))

    @property
    def constants(self) -> dict[str, Any]:
        factors = {"pull_factor": self.settings.pull_factor, "push_factor": self.settings.push_factor}
        return {"sigma": self.sigma, **factors, "grouping": asdict(self.grouping)}

    @property
    def detection_threshold(self) -> float:
        return self.grouping.detection_threshold

    @property
    def score_threshold(self) -> float:
        """Joints that are not found score 0."""
        return 0.0

    def progress(self, fraction: float) -> None:
        """Nothing depends on the epoch."""

    def targets(self, keypoints: Sequence[Tensor], visible: Tensor, masks: Sequence[Tensor]) -> Targets:
        """For output i `heatmaps<i>` (B, K, h, w) and `mask<i>`; `tag_index` (B, P, K) int64 into the first output's flat tags and `tagged`
        (B, P, K) bool. A joint that is not visible, or outside of an output's map, has no target there."""
        targets: Targets = {}
        for i, (cells, mask) in enumerate(zip(keypoints, masks, strict=True)):
            size = (mask.shape[-2], mask.shape[-1])
            targets[f"heatmaps{i}"] = merged_gaussians(cells, visible, size, self._patch(cells.device))
            targets[f"mask{i}"] = mask
        targets["tag_index"], targets["tagged"] = tag_index(keypoints[0], visible, (masks[0].shape[-2], masks[0].shape[-1]))
        return targets

    def loss(self, outputs: Outputs, targets: Targets) -> dict[str, Tensor]:
        """`loss`, with gradient, and its parts `heatmaps`, `pull` and `push` before their factors."""
        outputs = tuple(single_precision(output) for output in outputs)
        joints = self.num_keypoints
        parts = [heatmap_loss(output[:, :joints], targets[f"heatmaps{i}"], targets[f"mask{i}"]) for i, output in enumerate(outputs)]
        heatmaps = torch.stack(parts).sum()
        pull, push = (part.mean() for part in tag_loss(outputs[0][:, joints:], targets["tag_index"], targets["tagged"]))
        total = heatmaps + self.settings.pull_factor * pull + self.settings.push_factor * push
        return {"loss": total, "heatmaps": heatmaps.detach(), "pull": pull.detach(), "push": push.detach()}

    def flip(self, outputs: Outputs) -> Outputs:
        """Outputs for mirrored images, aligned with those for the upright ones: columns reversed, left and right joints exchanged.

        A joint's cell is the one that contains it, so mirrored cells align without a shift.
        """
        device = outputs[0].device
        if device not in self._permutations:
            self._permutations[device] = torch.tensor(self.skeleton.flip_permutation, device=device)
        permutation = self._permutations[device]
        return tuple(
            output.flip(-1).unflatten(1, (-1, self.num_keypoints)).index_select(2, permutation).flatten(1, 2) for output in outputs
        )

    def find(
        self, upright: Sequence[Outputs], mirrored: Sequence[Outputs] | None, scales: Sequence[float], size: Size
    ) -> list[GroupedPersons]:
        """The aggregated maps, enlarged to `size`, are grouped there."""
        return self.decode(*self.aggregate(upright, mirrored, scales, size))

    def aggregate(
        self,
        upright: Sequence[Outputs],
        mirrored: Sequence[Outputs] | None = None,
        scales: Sequence[float] = (1.0,),
        project_to: tuple[int, int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `aggregation.aggregate`."""
        upright = [tuple(single_precision(output) for output in outputs) for outputs in upright]
        aligned = None if mirrored is None else [self.flip(tuple(single_precision(output) for output in each)) for each in mirrored]
        return aggregate(upright, aligned, scales, self.num_keypoints, project_to)

    def decode(self, heatmaps: Tensor, tags: Tensor) -> list[GroupedPersons]:
        """See `grouping.parse_batch`."""
        found = parse_batch(single_precision(heatmaps.detach()), single_precision(tags.detach()), self.grouping)
        return [
            GroupedPersons(persons[:, :, :2].astype(np.float64), persons[:, :, 2].astype(np.float64), scores.astype(np.float64))
            for persons, scores in found
        ]

    def perfect(self, keypoints: Sequence[Tensor], visible: Tensor, sizes: Sequence[tuple[int, int]] | None = None) -> Outputs:
        """The target Gaussians and, around each joint, one tag value per person."""
        sizes = sizes or [(size, size) for size in self.output_sizes]
        gaussian = self._patch(visible.device)
        maps = [merged_gaussians(cells, visible, size, gaussian) for cells, size in zip(keypoints, sizes, strict=True)]
        tags = PERFECT_TAG_STEP * owners(keypoints[0], visible, maps[0], gaussian)
        return (torch.cat([maps[0], tags], 1), *maps[1:])

    def nearest(self, keypoints: Tensor, size: Size) -> Tensor:
        """A quarter of a cell from a cell's middle if joints are adjusted or filled in; a cell's corner if not; or (0, 0)."""
        found = torch.zeros_like(keypoints)  # a joint that is not found
        if self.grouping.adjust or self.grouping.refine:
            halves = (2 * size[0], 2 * size[1])
            found = nearer(keypoints, found, on_cells(2 * (keypoints - 0.25), halves) / 2 + 0.25)
        return found if self.grouping.adjust else nearer(keypoints, found, on_cells(keypoints, size))

    def _patch(self, device: torch.device) -> Tensor:
        if device not in self._patches:
            self._patches[device] = patch(self.sigma, device)
        return self._patches[device]


CODEC = CodecRecord(
    "associative_embedding",
    AssociativeEmbeddingCodec,
    AssociativeEmbeddingSettings,
    AssociativeEmbeddingCodec.convention,
    approach="images",
)
