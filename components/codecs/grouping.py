"""Associative embedding's grouping: joints with close tags form one person (Newell, Huang & Deng 2017; HigherHRNet's released code).

Frames: cells of the heatmaps. `match` uses whole cells; `adjust` and `refine` place a joint inside its cell, whose corner is the cell's
index and whose middle is half a cell further.

Ties. Every peak of a joint is assigned to one person or to a new one. The cost is a rounded distance less the peak's height. If all
peaks find a person, the heights have the same sum in every assignment, the total is a whole number of rounding steps, and several
assignments often share the smallest total. The released code takes whichever the `munkres` package finds first; `match` takes scipy's,
which costs the same. Either may split persons: if tags are evenly spaced, moving every joint to the next person can cost as much as
leaving all joints where they belong. `ties: joined` (ours) takes, among (nearly) equal totals, one that joins the most joints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from components.base.errors import FarposeError
from components.codecs.map_codec import require_odd, require_positive
from components.codecs.refinement import adjusted, filled, mean_tags

# Face, shoulders and hips come first, so that limbs find a person to join.
COCO_ORDER = (0, 1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 10, 13, 14, 15, 16)
NMS_KERNEL = 5  # of HigherHRNet's configuration
NEW_PERSON = 1e10  # cost of the columns for new persons, as published
NEAR_BONUS, NEW_PERSON_JOINED = 1e-6, 1e5  # for `ties: joined`: far below any meaningful difference of heights; a double holds both

Ties = Literal["joined", "any"]


@dataclass(frozen=True)
class Grouping:
    """How peaks become persons; the defaults are the published ones.

    Attributes:
        nms_kernel: odd side of the window in which only the highest cell is kept, cells; None: 5, or 11 at stride 1.
        max_persons: most peaks per joint, and most persons that later joints are matched to.
        detection_threshold: peaks at or below this are ignored; at least 0.
        tag_threshold: a joint joins a person only if its tags are closer to the person's mean than this.
        use_detection_value: assign by the rounded distance less the peak's height, instead of the plain distance.
        ignore_too_much: once there are `max_persons` persons, no new one is opened and the remaining joints are dropped.
        adjust: move joints to the cell's middle and a quarter cell towards the higher neighbour.
        refine: fill in each missing joint of a person at its best place.
        ties: among assignments of equal cost, take "any" or one that joins the most joints ("joined").

    Raises:
        FarposeError: a value out of range.
    """

    nms_kernel: int | None = None
    max_persons: int = 30
    detection_threshold: float = 0.1
    tag_threshold: float = 1.0
    use_detection_value: bool = True
    ignore_too_much: bool = False
    adjust: bool = True
    refine: bool = True
    ties: Ties = "any"

    def __post_init__(self) -> None:
        if self.nms_kernel is not None:
            require_odd("nms_kernel", self.nms_kernel)
        require_positive("max_persons", self.max_persons)
        require_positive("tag_threshold", self.tag_threshold)
        if not self.detection_threshold >= 0:
            raise FarposeError(f"detection_threshold must not be negative, got {self.detection_threshold}")


def joint_order(num_keypoints: int) -> tuple[int, ...]:
    """The order in which joints are matched: COCO's for all skeletons, as published (its first 14 entries for CrowdPose)."""
    return (*(k for k in COCO_ORDER if k < num_keypoints), *range(len(COCO_ORDER), num_keypoints))


def suppress(heatmaps: Tensor, kernel: int) -> Tensor:
    """(B, K, h, w) heatmaps, set to zero where the window of `kernel` (odd) cells contains a higher value."""
    highest = _window_maximum(_window_maximum(heatmaps, kernel, -1), kernel, -2)
    return heatmaps * (highest == heatmaps)


def _window_maximum(maps: Tensor, kernel: int, dim: int) -> Tensor:
    """Maximum over the `kernel` cells around each one, along one axis. On CPUs several times faster than max pooling."""
    border = [0, 0, 0, 0]
    border[-2 * dim - 2] = border[-2 * dim - 1] = kernel // 2
    maps, covered = functional.pad(maps, border, value=-torch.inf), 1
    while covered < kernel:
        step = min(covered, kernel - covered)
        length = maps.shape[dim] - step
        maps = torch.maximum(maps.narrow(dim, 0, length), maps.narrow(dim, step, length))
        covered += step
    return maps


def top_k(det: Tensor, tag: Tensor, settings: Grouping | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The `max_persons` highest peaks of each joint, highest first, on the tensors' device.

    Args:
        det: (B, K, h, w) heatmaps.
        tag: (B, K, h, w, T) tags.
    Returns:
        Tags (B, K, M, T), cells (B, K, M, 2) int64 x, y, and heights (B, K, M).
    """
    settings = settings or Grouping()
    width = det.shape[-1]
    peaks = suppress(det, settings.nms_kernel or NMS_KERNEL).flatten(2)
    val_k, index = peaks.topk(min(settings.max_persons, peaks.shape[-1]), dim=2)
    tag_k = tag.flatten(2, 3).gather(2, index[..., None].expand(*index.shape, tag.shape[-1]))
    loc_k = torch.stack([index % width, index.div(width, rounding_mode="floor")], -1)
    return tag_k, loc_k, val_k


def match(tag_k: np.ndarray, loc_k: np.ndarray, val_k: np.ndarray, settings: Grouping | None = None) -> np.ndarray:
    """Persons of one image, in the order in which they are opened.

    Args:
        tag_k: (K, M, T).
        loc_k: (K, M, 2) cells x, y.
        val_k: (K, M).
    Returns:
        (N, K, 3 + T) float32: x, y, height and tags of each joint; zeros for missing joints.
    """
    settings = settings or Grouping()
    joints = np.concatenate([loc_k, val_k[..., None], tag_k], -1, dtype=np.float64)
    real = (joints[..., 2] > settings.detection_threshold) & np.isfinite(joints).all(-1)
    people = _People(len(val_k), tag_k.shape[-1], room=max(1, int(real.sum())), dtype=tag_k.dtype)
    for k in joint_order(len(val_k)):
        if real[k].any():
            _add_joint(people, k, joints[k][real[k]], tag_k[k][real[k]], settings)
    return people.joints[: people.count].astype(np.float32)


class _People:
    """The persons of one image while joints are added.

    A person is identified by its first joint's first tag. A joint that would open a person with an existing tag joins that person
    and restarts its mean, as in the released code, where tags are the keys of a mapping.
    """

    def __init__(self, num_keypoints: int, tags: int, room: int, dtype: np.dtype) -> None:
        self.index: dict[float, int] = {}
        self.joints = np.zeros((room, num_keypoints, 3 + tags))
        self.tags = np.zeros((room, num_keypoints, tags), dtype)  # those in the mean, in the order in which they were added
        self.tag_counts = np.zeros(room, np.int64)
        self.tag_sums = np.zeros((room, tags), dtype)

    @property
    def count(self) -> int:
        return len(self.index)

    def open(self, k: int, joint: np.ndarray, tag: np.ndarray) -> None:
        """A person with one joint."""
        person = self.index.setdefault(float(tag[0]), len(self.index))
        self.joints[person, k] = joint
        self.tags[person, 0] = self.tag_sums[person] = tag
        self.tag_counts[person] = 1

    def join(self, k: int, persons: np.ndarray, joints: np.ndarray, tags: np.ndarray) -> None:
        """Add joint k to each of several different persons."""
        self.joints[persons, k] = joints
        self.tags[persons, self.tag_counts[persons]] = tags
        self.tag_counts[persons] += 1
        self.tag_sums[persons] += tags

    def means(self, known: int) -> np.ndarray:
        """(known, T) mean tags of the first persons, rounded exactly as numpy's mean of each person's tags."""
        tags, counts, sums = self.tags[:known], self.tag_counts[:known], self.tag_sums[:known]
        if tags.shape[-1] == 1 and counts.max() >= 8:  # numpy adds a long single column in a different order
            return mean_tags(tags, counts)
        return (sums / counts[:, None]).astype(tags.dtype)


def _add_joint(people: _People, k: int, joints: np.ndarray, tags: np.ndarray, settings: Grouping) -> None:
    """Match the peaks `joints` (R, 3 + T) of joint k with tags (R, T) to the persons, or open new ones."""
    known = min(people.count, settings.max_persons)
    if known == 0:
        person, near = np.full(len(joints), -1), np.zeros(len(joints), bool)
    elif settings.ignore_too_much and known == settings.max_persons:
        return
    else:
        distance = np.linalg.norm(joints[:, None, 3:] - people.means(known), axis=2)
        person = linear_sum_assignment(cost_matrix(distance, joints[:, 2], settings))[1]
        near = person < known
        near[near] = distance[near, person[near]] < settings.tag_threshold
    names = [float(tag[0]) for tag in tags[~near]]
    if len(set(names)) == len(names) and not any(name in people.index for name in names):
        people.join(k, person[near], joints[near], tags[near])
        for row in np.flatnonzero(~near).tolist():
            people.open(k, joints[row], tags[row])
    else:  # a tag exists already: the later joint decides
        for row in range(len(joints)):
            if near[row]:
                people.join(k, person[row : row + 1], joints[row : row + 1], tags[row : row + 1])
            else:
                people.open(k, joints[row], tags[row])


def cost_matrix(distance: np.ndarray, values: np.ndarray, settings: Grouping) -> np.ndarray:
    """(R, C) costs of (R, P) distances, padded with columns for new persons until there is one column per row."""
    cost = np.round(distance) * 100 - values[:, None] if settings.use_detection_value else distance
    alone = NEW_PERSON
    if settings.ties == "joined":
        cost, alone = cost - NEAR_BONUS * (distance < settings.tag_threshold), NEW_PERSON_JOINED
    rows, known = cost.shape
    return cost if rows <= known else np.concatenate([cost, np.full((rows, rows - known), alone)], axis=1)


def parse_batch(det: Tensor, tag: Tensor, settings: Grouping | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Persons and scores of each image; an image's result does not depend on the others.

    Args:
        det: (B, K, h, w) heatmaps.
        tag: (B, K, h, w, T) tags.
    Returns:
        Per image: persons (N, K, 3 + T) float32, the x, y, height and tags of each joint, zeros for a missing joint; a joint that was
        filled in has no tags. Scores (N,): mean height over all K joints, where missing and filled-in joints count as 0.
    """
    settings = settings or Grouping()
    tag_k, loc_k, val_k = (part.cpu().numpy() for part in top_k(det, tag, settings))
    groups = [match(tag_k[i], loc_k[i], val_k[i], settings) for i in range(len(det))]
    image = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    persons = np.concatenate(groups)
    scores = persons[:, :, 2].mean(1)
    missing = persons[:, :, 2] == 0
    if settings.refine:
        found = filled(det, tag, persons, image, missing)
    if settings.adjust:
        persons = adjusted(det, persons, image)
    if settings.refine:
        persons[missing, :3] = found
    ends = np.cumsum([len(group) for group in groups])[:-1]
    return list(zip(np.split(persons, ends), np.split(scores, ends), strict=True))
