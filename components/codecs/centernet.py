"""All persons of an image as points: a person's centre, its joints relative to the centre, and heatmaps that correct them.

Zhou, Wang, Krähenbühl 2019, "Objects as Points", section 5 ("Human pose estimation"): four outputs at a quarter of the input. A peak of
the centre map is a person. The regressed joints say where each joint is to be looked for; the best peak of the joint's heatmap near that
place takes over, moved by its offset within the cell.

As Google's MoveNet does it ("Next-Generation Pose Detection with MoveNet and TensorFlow.js", 2021), and not the paper: a person's centre is
the mean of its joints, each joint has its own offset, Gaussians have one size, and a peak's value is divided by its distance. Ours: that
distance is relative to the person, all persons are taken, and a person scores its centre's value times the mean of its joints'.

See `codec.ImageCodec` for the contract. Joints are given in px of the input, because they are placed within cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from components.base.errors import FarposeError
from components.codecs.associative_embedding import GroupedPersons
from components.codecs.codec import CodecRecord, Outputs, Size, Targets
from components.codecs.embedding_targets import cells_inside, merged_gaussians, patch
from components.codecs.grouping import suppress
from components.codecs.map_codec import require_positive, single_precision
from components.codecs.point_loss import focal_loss, masked_l1, read_cells
from components.pose.crop import Convention, CropGeometry
from components.pose.skeleton import Skeleton

PEAK_KERNEL = 3  # cells; a peak is the highest of its neighbourhood (paper, section 3)
PERFECT_PEAK = 1 - 1e-6  # in place of 1, whose logit is infinite
SMALLEST = 1.0  # cells; least size of a person, because one joint alone spans none


@dataclass(frozen=True)
class CenterNetSettings:
    """Settings of the `centernet` codec.

    Attributes:
        sigma: standard deviation of the Gaussians around centres and joints, cells; 1 is what MoveNet's published maps look like.
        max_persons: most persons found at one test scale.
        candidates: most peaks of a joint's heatmap.
        person_threshold: peaks of the centre map at or below this are no persons.
        detection_threshold: joints at or below this score are not drawn.
        reach: distance from the regressed place, in sizes of the person, at which a peak counts half.
        search: distance, in sizes of the person, beyond which no peak is taken; the joint then stays where it was regressed.
        center_factor, heatmap_factor, regress_factor, offset_factor: weights of the losses; 1, and 0.1 for regressed joints, which are
            errors of many cells, as in TensorFlow's published configuration of CenterNet on this backbone.

    Raises:
        FarposeError: a value out of range.
    """

    sigma: float = 1.0
    max_persons: int = 30
    candidates: int = 50
    person_threshold: float = 0.05
    detection_threshold: float = 0.1
    reach: float = 0.1
    search: float = 1.0
    center_factor: float = 1.0
    heatmap_factor: float = 1.0
    regress_factor: float = 0.1
    offset_factor: float = 1.0

    def __post_init__(self) -> None:
        for name in ("sigma", "max_persons", "candidates", "reach", "search"):
            require_positive(name, getattr(self, name))
        for name in ("person_threshold", "detection_threshold"):
            if not 0 <= getattr(self, name) < 1:
                raise FarposeError(f"{name} must lie in 0..1, got {getattr(self, name)}")


class Peaks(NamedTuple):
    """The highest cells of maps: values (..., M), and x and y (..., M) int64."""

    values: Tensor
    x: Tensor
    y: Tensor


class CenterNetCodec:
    """Outputs, all (B, ..., h, w) at a quarter of the input: 1 logit of a person's centre, K logits of joints, 2 K regressed joints and
    2 K offsets.

    The last two hold y and x of each joint in turn, in cells and counted from the cell's middle: of the centre's cell the person's joint,
    of the joint's cell the joint. A cell's middle is that of the px it covers, so mirroring changes the sign of x and nothing else.
    """

    convention: ClassVar[Convention] = "classic"

    def __init__(self, geometry: CropGeometry, skeleton: Skeleton, settings: CenterNetSettings | None = None) -> None:
        self.geometry, self.skeleton, self.num_keypoints = geometry, skeleton, len(skeleton)
        self.settings = settings or CenterNetSettings()
        self.output_sizes: tuple[int, ...] = (geometry.input_size[0],)
        self.stride = geometry.input_size[0] // geometry.heatmap_size[0]
        self.middle = (self.stride - 1) / 2 / self.stride  # of a cell, from its first px, cells
        self._patches: dict[torch.device, Tensor] = {}
        self._permutations: dict[torch.device, Tensor] = {}

    @property
    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        joints = self.num_keypoints
        return tuple((channels, *self.geometry.heatmap_size) for channels in (1, joints, 2 * joints, 2 * joints))

    @property
    def constants(self) -> dict[str, Any]:
        return {**asdict(self.settings), "stride": self.stride, "middle": self.middle}

    @property
    def detection_threshold(self) -> float:
        return self.settings.detection_threshold

    @property
    def score_threshold(self) -> float:
        """Every joint has a place and a score."""
        return 0.0

    def progress(self, fraction: float) -> None:
        """Nothing depends on the epoch."""

    def targets(self, keypoints: Sequence[Tensor], visible: Tensor, masks: Sequence[Tensor]) -> Targets:
        """`center` (B, 1, h, w) and `heatmaps` (B, K, h, w), whose peaks are 1; `mask` (B, h, w); and for each person the flat cells
        `center_index` (B, P) and `joint_index` (B, P, K) with the values `regress` and `offsets` (B, P, K, 2), x then y, that belong there,
        and `inside` (B, P, K) bool, which of them count. A person's centre is the mean of its joints that are visible and inside."""
        mask = _counted(masks[0], self.stride)
        size = (mask.shape[-2], mask.shape[-1])
        places = self._places(keypoints[0], visible, size)
        gaussian = self._patch(visible.device)
        return {
            "center": merged_gaussians(places["centers"], places["present"], size, gaussian),
            "heatmaps": merged_gaussians(places["cells"], places["inside"], size, gaussian),
            "mask": mask,
            **{name: places[name] for name in ("center_index", "joint_index", "regress", "offsets", "inside")},
        }

    def loss(self, outputs: Outputs, targets: Targets) -> dict[str, Tensor]:
        """`loss`, with gradient, and its parts before their factors."""
        center, heatmaps, regress, offsets = (single_precision(output) for output in outputs)
        inside = targets["inside"]
        regressed = read_cells(regress, targets["center_index"][..., None].expand_as(inside))
        moved = read_cells(offsets, targets["joint_index"])
        parts = {
            "center": focal_loss(center, targets["center"], targets["mask"]),
            "heatmap": focal_loss(heatmaps, targets["heatmaps"], targets["mask"]),
            "regress": masked_l1(regressed, targets["regress"], inside),
            "offset": masked_l1(moved, targets["offsets"], inside),
        }
        total = torch.stack([getattr(self.settings, f"{name}_factor") * part for name, part in parts.items()]).sum()
        return {"loss": total, **{name: part.detach() for name, part in parts.items()}}

    def flip(self, outputs: Outputs) -> Outputs:
        """Outputs for mirrored images, aligned with those for the upright ones: columns reversed, left and right joints exchanged, and
        the sign of x changed."""
        center, heatmaps, *fields = outputs
        device = center.device
        if device not in self._permutations:
            self._permutations[device] = torch.tensor(self.skeleton.flip_permutation, device=device)
        permutation = self._permutations[device]
        mirrored = []
        for field in fields:
            y, x = field.flip(-1).unflatten(1, (self.num_keypoints, 2)).index_select(1, permutation).unbind(2)
            mirrored.append(torch.stack([y, -x], 2).flatten(1, 2))
        return center.flip(-1), heatmaps.flip(-1).index_select(1, permutation), *mirrored

    def find(
        self, upright: Sequence[Outputs], mirrored: Sequence[Outputs] | None, scales: Sequence[float], size: Size
    ) -> list[GroupedPersons]:
        """Outputs of the mirrored image are averaged with the upright ones. The persons of all test scales stand side by side: several
        scales need `evaluate.bottom_up.oks_nms_threshold`, which drops those found twice."""
        per_scale = []
        for place in range(len(scales)):
            maps = self._probable(upright[place])
            if mirrored is not None:
                maps = tuple((a + b) / 2 for a, b in zip(maps, self.flip(self._probable(mirrored[place])), strict=True))
            per_scale.append(self.decode(maps, size))
        return [_together(persons) for persons in zip(*per_scale, strict=True)]

    def decode(self, maps: Outputs, size: Size) -> list[GroupedPersons]:
        """The persons of each image, best first, in cells of a map of `size` (h, w) that covers the same image.

        Args:
            maps: as the network's outputs, but probabilities in place of logits.
        """
        center, heatmaps, regress, offsets = maps
        height, width = center.shape[-2:]
        persons = _peaks(center[:, 0], self.settings.max_persons)
        spread = (*persons.x.shape, self.num_keypoints)
        start = torch.stack([persons.x, persons.y], -1)[:, :, None] + self.middle
        regressed = start + read_cells(regress, (persons.y * width + persons.x)[..., None].expand(spread))  # (B, M, K, 2) cells
        extent = (regressed.amax(2) - regressed.amin(2)).amax(-1).clamp(min=SMALLEST)[..., None, None]  # (B, M, 1, 1)

        peaks = _peaks(heatmaps, self.settings.candidates)  # (B, K, C)
        index = peaks.y * width + peaks.x
        moved = read_cells(offsets, index.transpose(1, 2)).transpose(1, 2)  # (B, K, C, 2)
        found = torch.stack([peaks.x, peaks.y], -1) + self.middle + moved
        distance = (found[:, None] - regressed[:, :, :, None]).norm(dim=-1) / extent  # (B, M, K, C) sizes of the person
        rank = peaks.values[:, None] / (1 + distance / self.settings.reach)
        best = torch.where(distance <= self.settings.search, rank, -1.0).max(-1, keepdim=True)
        taken = (best.values > 0)[..., 0]
        chosen = found[:, None].expand(*distance.shape, 2).gather(3, best.indices[..., None].expand(*best.indices.shape, 2))[..., 0, :]
        value = peaks.values[:, None].expand_as(distance).gather(3, best.indices)[..., 0]

        x, y = (regressed[..., axis].floor().clamp(0, side - 1).long() for axis, side in ((0, width), (1, height)))
        stayed = heatmaps.flatten(2).gather(2, (y * width + x).transpose(1, 2)).transpose(1, 2)
        joints = torch.where(taken[..., None], chosen, regressed) * regressed.new_tensor([size[1] / width, size[0] / height])
        scores = torch.where(taken, value, stayed)
        return self._grouped(persons.values, joints, scores)

    def perfect(self, keypoints: Sequence[Tensor], visible: Tensor, sizes: Sequence[Size] | None = None) -> Outputs:
        """The target maps as logits, and fields that hold the targets in the cells that are read and 0 elsewhere."""
        height, width = (sizes or [self.geometry.input_size])[0]
        size = (height // self.stride, width // self.stride)
        places = self._places(keypoints[0], visible, size)
        gaussian = self._patch(visible.device)
        drawn = ((places["centers"], places["present"]), (places["cells"], places["inside"]))
        center, heatmaps = (
            torch.logit(merged_gaussians(cells, shown, size, gaussian).clamp(1 - PERFECT_PEAK, PERFECT_PEAK)) for cells, shown in drawn
        )
        inside = places["inside"]
        regress = _written(places["regress"], places["center_index"][..., None].expand_as(inside), inside, size)
        return center, heatmaps, regress, _written(places["offsets"], places["joint_index"], inside, size)

    def nearest(self, keypoints: Tensor, size: Size) -> Tensor:
        """Offsets and regressed joints may have any value, so every point can be had."""
        return keypoints

    def _places(self, pixels: Tensor, visible: Tensor, size: Size) -> dict[str, Tensor]:
        """Where joints (B, P, K, 2), px of the input, and centres lie on maps of `size`: `cells` (B, P, K, 2) and `centers` (B, P, 1, 2),
        cells; `inside` (B, P, K) and `present` (B, P, 1) bool; and the indices and values that `targets` names."""
        cells = torch.where(visible[..., None], pixels, 0.0) / self.stride
        x, y, inside = cells_inside(cells, visible, size)
        count = inside.sum(2, keepdim=True)
        centers = torch.where(inside[..., None], cells, 0.0).sum(2, keepdim=True) / count.clamp(min=1)[..., None]
        present = count > 0
        cx, cy, _ = cells_inside(centers, present, size)
        middle = torch.stack([cx, cy], -1) + self.middle
        return {
            "cells": cells,
            "inside": inside,
            "centers": centers,
            "present": present,
            "center_index": (cy * size[1] + cx)[..., 0],
            "joint_index": y * size[1] + x,
            "regress": cells - middle,
            "offsets": cells - (torch.stack([x, y], -1) + self.middle),
        }

    def _probable(self, outputs: Outputs) -> Outputs:
        """Probabilities in place of logits, in single precision."""
        center, heatmaps, regress, offsets = (single_precision(output.detach()) for output in outputs)
        return center.sigmoid(), heatmaps.sigmoid(), regress, offsets

    def _grouped(self, centers: Tensor, joints: Tensor, scores: Tensor) -> list[GroupedPersons]:
        """The persons above the threshold, from centres' values (B, M), joints (B, M, K, 2) and their scores (B, M, K)."""
        values, places, heights = (part.double().cpu().numpy() for part in (centers, joints, scores))
        images = zip(values, places, heights, values > self.settings.person_threshold, strict=True)
        people = [GroupedPersons(place[kept], height[kept], value[kept] * height[kept].mean(1)) for value, place, height, kept in images]
        return [GroupedPersons(*(part[np.argsort(-each.scores, kind="stable")] for part in each)) for each in people]

    def _patch(self, device: torch.device) -> Tensor:
        if device not in self._patches:
            self._patches[device] = patch(self.settings.sigma, device)
        return self._patches[device]


def _peaks(maps: Tensor, count: int) -> Peaks:
    """The `count` highest peaks of (..., h, w) maps, highest first; (..., M)."""
    height, width = maps.shape[-2:]
    flat = maps.reshape(1, -1, height, width)
    values, index = suppress(flat, PEAK_KERNEL).reshape(*maps.shape[:-2], -1).topk(min(count, height * width), dim=-1)
    return Peaks(values, index % width, index.div(width, rounding_mode="floor"))


def _counted(mask: Tensor, stride: int) -> Tensor:
    """(B, h, w) bool of (B, H, W): cells all of whose px count."""
    return mask.unflatten(2, (-1, stride)).unflatten(1, (-1, stride)).all(4).all(2)


def _written(values: Tensor, index: Tensor, inside: Tensor, size: Size) -> Tensor:
    """(B, 2 K, h, w) fields with the values (B, P, K, 2), x then y, in the cells `index` (B, P, K), where they are inside."""
    nowhere = size[0] * size[1]
    flat = values.new_zeros(len(values), *values.shape[2:], nowhere + 1)  # (B, K, 2, cells and one for what lies outside)
    where = torch.where(inside, index, nowhere).permute(0, 2, 1)[:, :, None].expand(-1, -1, 2, -1)
    flat.scatter_(3, where, values.permute(0, 2, 3, 1))
    return flat[..., :nowhere].flip(2).flatten(1, 2).unflatten(2, size)


def _together(persons: Sequence[GroupedPersons]) -> GroupedPersons:
    """One image's persons of all test scales."""
    return GroupedPersons(*(np.concatenate(parts) for parts in zip(*persons, strict=True)))


CODEC = CodecRecord("centernet", CenterNetCodec, CenterNetSettings, CenterNetCodec.convention, approach="images")
