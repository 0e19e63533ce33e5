"""Inputs of images that are in memory or are read one by one, such as a user's files and frames of a video."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from components.base.files import digest_of
from components.degrade.image_shards import EvalImages, eval_image, fitted
from components.degrade.images import usable_cores
from components.degrade.params import DegradeParams, ShardSpec
from components.degrade.protocol import View
from components.degrade.regions import box_center_and_size
from components.degrade.shard import eval_input
from components.degrade.shards import EvalCrops
from components.pose.crop import Convention
from components.pose.skeleton import Skeleton
from components.pose.whole_image import Fit

Read = Callable[[int], np.ndarray]  # image number -> (H, W, 3) uint8 BGR


def crops_of(
    read: Read, boxes: Mapping[int, np.ndarray], convention: Convention, spec: ShardSpec, params: DegradeParams, skeleton: Skeleton
) -> EvalCrops:
    """Crops of boxes, image by image, equal to those that `degrade.shards.crop_boxes` makes of the same pixels.

    Args:
        read: called once per image that has a box, from several threads.
        boxes: by image number (n, 4) left, top, width, height, px of the image.
    """
    numbers = np.array([number for number, rows in boxes.items() for _ in rows], np.int64)
    bbox_xywh = np.concatenate([np.asarray(rows, np.float64).reshape(-1, 4) for rows in boxes.values()] or [np.zeros((0, 4))])
    center, size = box_center_and_size(bbox_xywh, spec)
    geometry = spec.geometry(convention)
    matrices = geometry.image_to_crop(center, size)
    pixels = np.zeros((len(bbox_xywh), 3, *spec.input_size), np.uint8)

    def cut(number: int) -> None:
        image = read(number)
        for row in np.flatnonzero(numbers == number).tolist():
            seed = int(digest_of(np.round(bbox_xywh[row], 2).tolist())[:15], 16)
            pixels[row] = eval_input(image, View(matrices[row], spec.input_size, convention), spec.protocol, params, (number, seed))

    with ThreadPoolExecutor(params.threads or usable_cores()) as pool:
        list(pool.map(cut, [number for number, rows in boxes.items() if len(rows)]))
    return EvalCrops(
        pixels=pixels,
        annotation_id=np.arange(len(bbox_xywh)),
        image_id=numbers,
        image_path=numbers.astype(str).astype(object),
        center=center,
        size=size,
        bbox_xywh=bbox_xywh,
        keypoints_image=np.zeros((len(bbox_xywh), len(skeleton), 3)),
        area=bbox_xywh[:, 2] * bbox_xywh[:, 3],
        skeleton=skeleton,
        protocol=spec.protocol,
        geometry=geometry,
        upright=True,
    )


@dataclass(frozen=True)
class HeldImages(EvalImages):
    """Whole images whose further test scales are made from `read` instead of files.

    Attributes:
        read: by image id.
    """

    read: Read = field(kw_only=True)

    def at_scale(self, index: int, scale: float, smallest: float, data_root: str | Path, params: DegradeParams) -> np.ndarray:
        number = int(self.image_id[index])
        return eval_image(self.read(number), self._spec, self.geometry.fit, params, number, scale, smallest)


def images_held(read: Read, numbers: list[int], spec: ShardSpec, skeleton: Skeleton, fit: Fit, params: DegradeParams) -> HeldImages:
    """Whole images as a bottom-up network takes them, under their own numbers.

    Args:
        numbers: at least one.
    """
    names = [str(number) for number in numbers]
    made = vars(fitted(map(read, numbers), names, spec, skeleton, fit, params))
    return HeldImages(**{**made, "image_id": np.array(numbers, np.int64), "upright": True}, read=read)
