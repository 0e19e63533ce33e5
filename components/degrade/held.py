"""Inputs of images that are in memory or are read one by one, such as a user's files and frames of a video."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from components.degrade.image_shards import EvalImages, eval_image, fitted
from components.degrade.images import Work, usable_cores
from components.degrade.params import DegradeParams, ShardSpec
from components.degrade.shards import Boxes, EvalCrops, cut_boxes
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
    given = Boxes("", numbers.astype(str).astype(object), numbers, bbox_xywh, upright=True)

    def each_image(work: Work[np.ndarray]) -> None:
        def one(number: int) -> None:
            rows = np.flatnonzero(numbers == number)
            work.put(rows, work.make(read(number), work.job(rows)))

        with ThreadPoolExecutor(params.threads or usable_cores()) as pool:
            list(pool.map(one, [number for number, rows in boxes.items() if len(rows)]))

    return cut_boxes(given, convention, spec, params, skeleton, each_image)


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
