"""Whole images with people, and networks that make no error on them; shared by the tests of bottom-up evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from components import codecs
from components.degrade.augment import normalise
from components.degrade.image_shards import EvalImages
from components.evaluate.approach import EvaluationData
from components.evaluate.predict_images import Inputs
from components.evaluate.targets import perfect_outputs
from components.pose.crop import CropGeometry
from components.pose.persons import Persons
from components.pose.skeleton import COCO_17, Skeleton
from components.pose.whole_image import ImageGeometry
from tests import evaluation_cases as cases

SIZE = 256
SCENES = [
    ((60, 60), 1, "train", ""),
    ((100, 150), 2, "val", ""),
    ((150, 100), 1, "val", "crowd"),
    ((90, 120), 0, "val", ""),
    ((120, 120), 3, "val", ""),
    ((100, 150), 2, "val", "crowd"),
    ((160, 90), 2, "val", ""),
]
LARGE_ID = 1 << 40  # beyond int32
MOST_PEOPLE = 30  # a crowd is left as it is


def codec_of(stride: int = 4, size: int = SIZE, skeleton: Skeleton = COCO_17, **settings: Any) -> Any:
    return codecs.build("associative_embedding", CropGeometry((size, size), (size // stride,) * 2), skeleton, **settings)


def data_of(shard: Path, fit: Any = "short_side") -> EvaluationData:
    """The shard's validation images, under ids beyond int32; one person is half labelled, another one not at all."""
    images = EvalImages.open(shard, fit)
    persons, keypoints = images.persons, images.persons.keypoints.copy()
    rows = np.flatnonzero(persons.frame["num_keypoints"].to_numpy() > 0)
    if len(rows) < MOST_PEOPLE:
        keypoints[rows[2], :9], keypoints[rows[1]] = 0, 0
    frame = persons.frame.assign(image_id=persons.frame["image_id"] + LARGE_ID, num_keypoints=(keypoints[..., 2] > 0).sum(1))
    persons = replace(persons, frame=frame, keypoints=keypoints)
    return data_of_images(replace(images, image_id=images.image_id + LARGE_ID, persons=persons), shard.parent)


def data_of_images(images: EvalImages, data_root: Path) -> EvaluationData:
    """Evaluation data that hold nothing but these images and their persons."""
    table = pd.DataFrame({"image_id": images.image_id, "image_path": images.image_path})
    return EvaluationData(images, images.persons, table, data_root)


def with_skeleton(images: EvalImages, skeleton: Skeleton) -> EvalImages:
    """The same images, annotated with the first joints only, under another skeleton's names."""
    persons = images.persons
    fewer = Persons(persons.frame, persons.bbox_xywh, persons.keypoints[:, : len(skeleton)], skeleton)
    return replace(images, persons=fewer, skeleton=skeleton)


class Perfect(nn.Module):
    """Outputs a perfect network's maps for the images of a shard, upright or mirrored; it knows them by their pixels.

    Args:
        change: moves or multiplies the persons of an image.
        scales: test scales; other scales than 1 need the images' folder, `data_root`.
    """

    def __init__(
        self,
        codec: Any,
        images: EvalImages,
        change: Callable[[Persons], Persons] = lambda persons: persons,
        scales: tuple[float, ...] = (1.0,),
        data_root: Path | None = None,
    ) -> None:
        super().__init__()
        self.known: dict[bytes, tuple[Tensor, ...]] = {}
        self.batches: list[tuple[int, ...]] = []
        inputs, labelled = Inputs(images, scales, data_root), images.persons.labelled()
        owner = labelled.frame["image_id"].to_numpy()
        for row in range(len(images)):
            own = change(labelled.select(owner == images.image_id[row]))
            swapped = replace(own, keypoints=own.keypoints[:, list(images.skeleton.flip_permutation)])
            for scale in scales:
                pixels = normalise(inputs.pixels(np.array([row]), scale))
                for seen, persons, mirrored in ((pixels, own, False), (pixels.flip(3), swapped, True)):
                    shown: Any = replace(images, geometry=Shown(images.geometry, scale, min(scales), mirrored))  # type: ignore[arg-type]
                    self.known[seen.numpy().tobytes()] = perfect_outputs(codec, Inputs(shown, (1.0,)), row, persons)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        self.batches.append(tuple(images.shape))
        outputs = [self.known[image.numpy().tobytes()] for image in images[:, None].contiguous()]
        return tuple(torch.cat(maps) for maps in zip(*outputs, strict=True))


class Shown:
    """A geometry whose inputs are those of a test scale, mirrored or not."""

    def __init__(self, geometry: ImageGeometry, scale: float, smallest: float, mirrored: bool) -> None:
        self.geometry, self.scale, self.smallest, self.mirrored = geometry, scale, smallest, mirrored
        self.size = round(geometry.size * scale)

    def input_size(self, width: int, height: int, *_: float) -> tuple[int, int]:
        return self.geometry.input_size(width, height, self.scale, self.smallest)

    def image_to_map(self, size: tuple[int, int], width: int, height: int) -> np.ndarray:
        matrix = self.geometry.image_to_map(size, width, height)
        return matrix * [[-1], [1]] + [[0, 0, size[1] - 1], [0, 0, 0]] if self.mirrored else matrix


def coco_of(images: EvalImages) -> dict[str, Any]:
    """The shard's annotations as a COCO file's mapping."""
    persons, rows = images.persons, range(len(images.persons))
    annotations = [
        {
            "id": int(persons.frame["annotation_id"][row]), "image_id": int(persons.frame["image_id"][row]), "category_id": 1,
            "bbox": persons.bbox_xywh[row].tolist(), "area": float(persons.frame["area"][row]),
            "iscrowd": int(persons.frame["iscrowd"][row]), "keypoints": persons.keypoints[row].ravel().tolist(),
            "num_keypoints": int(persons.frame["num_keypoints"][row]),
        }
        for row in rows
    ]  # fmt: skip
    return cases.coco_of([{"id": int(i)} for i in images.image_id], annotations)


def without_pixels(persons: Persons, geometry: ImageGeometry, step: int = 1) -> EvalImages:
    """Every `step`th image of a table, of which only the size is known: enough for perfect targets."""
    frame = persons.labelled().frame.drop_duplicates("image_id").iloc[::step]
    width, height = frame["image_width"].to_numpy(), frame["image_height"].to_numpy()
    sizes = np.array([geometry.input_size(int(w), int(h)) for w, h in zip(width, height, strict=True)])
    kept = persons.select(persons.frame["image_id"].isin(frame["image_id"]).to_numpy())
    ids, nothing = frame["image_id"].to_numpy(), np.zeros(0, np.uint8)
    paths = frame["image_path"].to_numpy(dtype=object)
    return EvalImages(ids, paths, width, height, sizes, kept, kept.skeleton, geometry, "direct", nothing, np.zeros(len(ids), np.int64))
