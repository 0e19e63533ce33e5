"""Which part of an image a training crop must hold, and at what density."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from components.degrade.area import area_mean, to_uint8
from components.degrade.half_body import SMALLEST_SIZE, choose_half, half_body_box
from components.degrade.params import ShardSpec
from components.degrade.protocol import protocol
from components.pose.persons import Persons

BORDER = 1  # black px around every stored crop, so that samples clamped to the crop are zero outside the image


@dataclass(frozen=True)
class Regions:
    """Where N training crops lie and how they are stored.

    Attributes:
        corners: (N, 4) int64 left, top, right, bottom (past the end), image px.
        step: (N,) image px per stored px; 1 is native density.
        heights, widths: (N,) int64 stored px, the black border included.
        offsets: (N,) int64 first pixel of each crop in the flat array; crops with the same offset are the same.
        pixels: length of the flat array.
    """

    corners: np.ndarray
    step: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    offsets: np.ndarray
    pixels: int

    def of(self, rows: np.ndarray) -> Regions:
        """Those of some rows, in the same flat array."""
        return Regions(self.corners[rows], self.step[rows], self.heights[rows], self.widths[rows], self.offsets[rows], self.pixels)

    @property
    def image_to_stored(self) -> np.ndarray:
        """(N, 2, 3) affine matrices from image px to px of the stored crop (border included)."""
        matrix = np.zeros((len(self.step), 2, 3))
        for axis in (0, 1):
            matrix[:, axis, axis] = 1 / self.step
            matrix[:, axis, 2] = (0.5 - self.corners[:, axis]) / self.step - 0.5 + BORDER
        return matrix


def stored_crops(image: np.ndarray, regions: Regions) -> list[np.ndarray]:
    """(h, w, 4) uint8 each: the training crops of one image as they are stored, red, green, blue and 0, with their black borders."""
    crops = []
    for row in range(len(regions.step)):
        crop = np.zeros((regions.heights[row], regions.widths[row], 4), np.uint8)
        crop[BORDER:-BORDER, BORDER:-BORDER, :3] = _stored_crop(image, regions, row)[..., ::-1]
        crops.append(crop)
    return crops


def _stored_crop(image: np.ndarray, regions: Regions, row: int) -> np.ndarray:
    """(h, w, 3) uint8 BGR: one training crop without its black border, clean, at the density that `regions` planned."""
    left, top, right, bottom = regions.corners[row]
    step = float(regions.step[row])
    if step == 1:
        return image[top:bottom, left:right]
    size = int(regions.heights[row]) - 2 * BORDER, int(regions.widths[row]) - 2 * BORDER
    return to_uint8(area_mean(image, (left + step / 2 - 0.5, top + step / 2 - 0.5), (step, step), size))


def box_center_and_size(bbox_xywh: np.ndarray, spec: ShardSpec) -> tuple[np.ndarray, np.ndarray]:
    """Centre and size (N, 2) of (N, 4) boxes with their padding, image px; the same in every convention.

    Sizes are at least 2 px, so that a degenerate box still has a finite scale.
    """
    center, size = spec.geometry("classic").box_to_center_size(np.asarray(bbox_xywh, np.float64))
    return center, np.maximum(size, SMALLEST_SIZE)


def regions_of(corners: np.ndarray, step: np.ndarray, owner: np.ndarray | None = None) -> Regions:
    """Regions one after another in the flat array.

    Args:
        corners: (N, 4) int64 left, top, right, bottom (past the end), image px.
        step: (N,) image px per stored px.
        owner: (N,) for each row, the first row that shares its region; None: no row shares.
    """
    owner = np.arange(len(step)) if owner is None else owner
    stored = np.ceil((corners[:, 2:] - corners[:, :2]) / step[:, None] - 1e-9).astype(np.int64) + 2 * BORDER
    counts = np.where(owner == np.arange(len(owner)), stored.prod(1), 0)
    offsets = (np.cumsum(counts) - counts)[owner]
    return Regions(corners, step, stored[:, 1], stored[:, 0], offsets, int(counts.sum()))


def plan_regions(persons: Persons, spec: ShardSpec) -> Regions:
    """Regions that contain every crop that augmentation can ask for, clipped to the image, at the protocol's density.

    A crop that is zoomed out by `margin_scale` and rotated by any angle stays in a circle around its centre. The region is the
    square around the circles of the whole person and of the half-body boxes. If a protocol keeps the image's own px and the
    crops of one image together have more px than the image, the whole image is stored once instead.
    """
    center, size = box_center_and_size(persons.bbox_xywh, spec)
    low, high = _square(center, size, spec.margin_scale)
    for half_center, half_size, exists in _half_bodies(persons, spec):
        half_low, half_high = _square(half_center, half_size, spec.margin_scale)
        low = np.where(exists[:, None], np.minimum(low, half_low), low)
        high = np.where(exists[:, None], np.maximum(high, half_high), high)
    limits = persons.frame[["image_width", "image_height"]].to_numpy(np.int64)
    first = np.clip(np.floor(low).astype(np.int64) - 1, 0, limits - 1)
    last = np.clip(np.ceil(high).astype(np.int64) + 2, first + 1, limits)
    owner, how = np.arange(len(persons)), protocol(spec.protocol)
    if how.density is None:
        whole, first_row = _fuller_than_image(last - first, limits, persons.frame["image_id"].to_numpy())
        first[whole], last[whole], owner[whole] = 0, limits[whole], first_row[whole]
    return regions_of(np.concatenate([first, last], 1), how.stored_step(size[:, 0] / spec.input_size[1]), owner)


def _fuller_than_image(sides: np.ndarray, limits: np.ndarray, image_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per crop: whether the crops of its image have more pixels than the image (N,) bool, and the first row of that image (N,)."""
    _, first_row, image = np.unique(image_id, return_index=True, return_inverse=True)
    held = np.bincount(image, weights=sides.prod(1))
    return held[image] > limits.prod(1), first_row[image]


def _square(center: np.ndarray, size: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    reach = 0.5 * scale * np.hypot(size[:, 0], size[:, 1])[:, None]
    return center - reach, center + reach


def _half_bodies(persons: Persons, spec: ShardSpec) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    keypoints, visible = torch.from_numpy(persons.keypoints[..., :2].copy()), torch.from_numpy(persons.keypoints[..., 2] > 0)
    upper_body = torch.from_numpy(persons.skeleton.upper_body_mask)
    boxes = []
    for prefers_upper in (True, False):
        chosen = choose_half(visible, upper_body, torch.full((len(persons),), prefers_upper))
        center, size, exists = half_body_box(keypoints, chosen, spec.input_size[1] / spec.input_size[0])
        boxes.append((center.numpy(), size.numpy(), exists.numpy()))
    return boxes
