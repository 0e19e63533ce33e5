"""Shards of crops, one person each: training crops for the device, evaluation crops as evaluated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from components.base.errors import unknown_name
from components.base.files import digest_of
from components.degrade.images import Work, for_each_image
from components.degrade.limit import limited
from components.degrade.params import DegradeParams, ShardSpec
from components.degrade.protocol import View
from components.degrade.regions import box_center_and_size, plan_regions
from components.degrade.shard import TRAIN, TRAIN_PIXELS, Layout, Opened, Plan, Rows, Source, Stored, eval_input, inputs_file
from components.pose.crop import CONVENTIONS, Convention, CropGeometry
from components.pose.persons import UPRIGHT, Persons
from components.pose.skeleton import Skeleton


def plan_crops(source: Source, spec: ShardSpec) -> Plan:
    """A shard of every labelled person.

    Raises:
        FarposeError: a split is missing or has no labelled person.
    """
    train = source.trained
    evaluated = {split: _evaluated(source.labelled(split), spec) for split in source.evaluated}
    return Plan(_rows(train, "annotation_id", "image_id"), plan_regions(train, spec), evaluated)


def _rows(persons: Persons, *names: str) -> Rows:
    frame = persons.frame
    columns = {name: frame[name].to_numpy() for name in names}
    columns |= {"bbox_xywh": persons.bbox_xywh, "keypoints": persons.keypoints.reshape(len(persons), 3 * len(persons.skeleton))}
    sizes, ids = (frame[list(pair)].to_numpy(np.int64) for pair in (("image_width", "image_height"), ("image_id", "annotation_id")))
    return Rows(frame["image_path"].to_numpy(dtype=object), sizes, ids, columns)


def _evaluated(persons: Persons, spec: ShardSpec) -> tuple[Rows, dict[str, Layout]]:
    center, size = box_center_and_size(persons.bbox_xywh, spec)
    sizes = np.tile(np.array(spec.input_size, np.int64), (len(persons), 1))
    layouts: dict[str, Layout] = {name: Layout(spec.geometry(name).image_to_crop(center, size), sizes, name) for name in CONVENTIONS}
    return _rows(persons, "annotation_id", "image_id", "image_path", "area"), layouts


@dataclass(frozen=True, kw_only=True)
class TrainCrops(Stored):
    """N training crops with margin for augmentation; persons of one image may share one crop, the whole image.

    Attributes:
        center, size: (N, 2) padded box, image px.
        annotation_id: (N,) int64.
        margin_scale: largest zoom-out at which the crops contain the image around the person.
    """

    highest: ClassVar[int] = 2

    center: Tensor
    size: Tensor
    annotation_id: Tensor
    margin_scale: float

    @classmethod
    def open(cls, directory: str | Path) -> TrainCrops:
        """Open a shard's training crops.

        Raises:
            FarposeError: the shard is missing, cut short, of whole images or of another format version.
        """
        opened = Opened.of(directory, False, TRAIN, TRAIN_PIXELS)
        columns = opened.columns()
        keypoints = columns["keypoints"].reshape(len(columns["image_id"]), -1, 3)
        center, size = box_center_and_size(columns["bbox_xywh"], opened.spec)
        return cls(
            **opened.stored(columns),
            keypoints_image=torch.from_numpy(keypoints[..., :2].copy()),
            visible=torch.from_numpy(keypoints[..., 2] > 0),
            center=torch.from_numpy(center),
            size=torch.from_numpy(size),
            annotation_id=torch.from_numpy(columns["annotation_id"]),
            margin_scale=opened.spec.margin_scale,
        )


@dataclass(frozen=True)
class EvalCrops:
    """N upright crops as they are evaluated.

    Attributes:
        pixels: (N, 3, H, W) uint8 RGB.
        annotation_id, image_id: (N,) int64.
        image_path: (N,) text, relative to the data set's root.
        center, size: (N, 2) padded box, image px.
        bbox_xywh: (N, 4) box, image px.
        keypoints_image: (N, K, 3) x, y in image px and visibility; zeros for detector boxes.
        area: (N,) px² of the annotation; of the box for detector boxes.
        geometry: of the crops; its heatmap size is not used.
        upright: coordinates refer to the images as EXIF turns them.
    """

    pixels: np.ndarray
    annotation_id: np.ndarray
    image_id: np.ndarray
    image_path: np.ndarray
    center: np.ndarray
    size: np.ndarray
    bbox_xywh: np.ndarray
    keypoints_image: np.ndarray
    area: np.ndarray
    skeleton: Skeleton
    protocol: str
    geometry: CropGeometry
    upright: bool = False

    def __len__(self) -> int:
        return len(self.pixels)

    def rows(self, part: slice) -> EvalCrops:
        """A part of the crops, without a copy."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        cut: dict[str, Any] = {name: column[part] for name, column in columns.items() if isinstance(column, np.ndarray)}
        return replace(self, **cut)

    @classmethod
    def open(cls, directory: str | Path, convention: Convention, split: str = "val") -> EvalCrops:
        """Open a shard's evaluation crops of one split and one crop convention, memory-mapped.

        Raises:
            FarposeError: unknown convention, no such split, or the shard is missing, cut short or of another format version.
        """
        if convention not in CONVENTIONS:
            raise unknown_name("crop convention", convention, CONVENTIONS)
        opened = Opened.of(directory, False, split, inputs_file(split, convention))
        columns, spec = opened.columns(), opened.spec
        center, size = box_center_and_size(columns["bbox_xywh"], spec)
        return cls(
            pixels=opened.pixels(inputs_file(split, convention)).reshape(len(center), 3, *spec.input_size),
            annotation_id=columns["annotation_id"],
            image_id=columns["image_id"],
            image_path=columns["image_path"],
            center=center,
            size=size,
            bbox_xywh=columns["bbox_xywh"],
            keypoints_image=columns["keypoints"].reshape(len(center), -1, 3),
            area=columns["area"],
            skeleton=opened.skeleton,
            protocol=spec.protocol,
            geometry=spec.geometry(convention),
            upright=opened.about.get("orientation") == UPRIGHT,
        )


@dataclass(frozen=True)
class Boxes:
    """N boxes without an annotation, such as a detector's.

    Attributes:
        data_root: the folder that image paths are relative to.
        image_path, image_id: (N,) of the image that each box lies in.
        bbox_xywh: (N, 4) image px.
        upright: rotate images by their EXIF orientation; boxes are then in px of the rotated image.
    """

    data_root: str | Path
    image_path: np.ndarray
    image_id: np.ndarray
    bbox_xywh: np.ndarray
    upright: bool = False


def crop_boxes(
    boxes: Boxes,
    convention: Convention,
    spec: ShardSpec,
    params: DegradeParams,
    skeleton: Skeleton,
    most_height: float | None = None,
    reduction: float = 1.0,
) -> EvalCrops:
    """Crops of boxes, made exactly as evaluation crops are.

    `annotation_id` counts the boxes from 0. Noise depends on the image id and the box, not on that count.

    Args:
        most_height: px; around higher boxes the image is reduced until the box has this height, see `degrade.limit`. None: no limit.
        reduction: the image is reduced so many times around every box, as by `degrade.limit`; without `most_height`.
    Raises:
        FarposeError: an image is missing or damaged.
    """
    heights = np.asarray(boxes.bbox_xywh, np.float64).reshape(-1, 4)[:, 3]
    steps = np.full(len(heights), float(reduction)) if most_height is None else heights / most_height

    def each_image(work: Work[np.ndarray]) -> None:
        for_each_image(boxes.image_path, Path(boxes.data_root), work, params.threads, upright=boxes.upright)

    return cut_boxes(boxes, convention, spec, params, skeleton, each_image, steps)


def cut_boxes(
    boxes: Boxes,
    convention: Convention,
    spec: ShardSpec,
    params: DegradeParams,
    skeleton: Skeleton,
    each_image: Callable[[Work[np.ndarray]], None],
    steps: np.ndarray | None = None,
) -> EvalCrops:
    """As `crop_boxes`, of images from anywhere.

    Args:
        each_image: has the work that it is given done once per image, (H, W, 3) uint8 BGR, and its rows of `boxes`, in several threads
            if it likes.
        steps: (N,) how many times the image is reduced around each box; None: not at all.
    """
    bbox_xywh = np.asarray(boxes.bbox_xywh, np.float64).reshape(-1, 4)
    center, size = box_center_and_size(bbox_xywh, spec)
    matrices = spec.geometry(convention).image_to_crop(center, size)
    pixels = np.zeros((len(bbox_xywh), 3, *spec.input_size), np.uint8)
    seeds = [int(digest_of(np.round(box, 2).tolist())[:15], 16) for box in bbox_xywh]
    ids = np.stack([np.asarray(boxes.image_id, np.int64), np.array(seeds, np.int64)], 1)
    reductions = np.ones(len(bbox_xywh)) if steps is None else steps

    def put(rows: np.ndarray, made: np.ndarray) -> None:
        pixels[rows] = made

    make = partial(_limited_crops, convention, spec, params)
    each_image(Work(make, lambda rows: (matrices[rows], reductions[rows], ids[rows]), put, 3 * spec.input_size[0] * spec.input_size[1]))
    return EvalCrops(
        pixels=pixels,
        annotation_id=np.arange(len(bbox_xywh)),
        image_id=np.asarray(boxes.image_id, np.int64),
        image_path=np.asarray(boxes.image_path, dtype=object),
        center=center,
        size=size,
        bbox_xywh=bbox_xywh,
        keypoints_image=np.zeros((len(bbox_xywh), len(skeleton), 3)),
        area=bbox_xywh[:, 2] * bbox_xywh[:, 3],
        skeleton=skeleton,
        protocol=spec.protocol,
        geometry=spec.geometry(convention),
        upright=boxes.upright,
    )


def _limited_crops(
    convention: Convention, spec: ShardSpec, params: DegradeParams, image: np.ndarray, job: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> np.ndarray:
    """(n, 3, H, W) uint8 RGB: the crops of one image's boxes.

    Args:
        job: of each box its matrix (n, 2, 3), step (n,), and ids (n, 2) that decide its noise.
    """
    made = []
    for matrix, step, (image_id, seed) in zip(*job, strict=True):
        near, view = limited(image, View(matrix, spec.input_size, convention), float(step))
        made.append(eval_input(near, view, spec.protocol, params, (int(image_id), int(seed))))
    return np.stack(made)
