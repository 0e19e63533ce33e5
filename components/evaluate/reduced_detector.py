"""The whole chain at low resolution: the shipped detector looks at reduced images, and crops are cut from the same reduced images.

Annotated boxes, and those that a detector found at full resolution, are better than a low-resolution camera would allow.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from components.base import origins
from components.degrade.area import area_mean, to_uint8
from components.degrade.images import read_image
from components.degrade.params import ShardSpec
from components.degrade.shards import Boxes, EvalCrops, crop_boxes
from components.detect.detector import NAME, SCORE, Found, PersonDetector
from components.evaluate.approach import EvaluationContext


def reduced_detector_crops(context: EvaluationContext, reduction: int) -> tuple[EvalCrops, np.ndarray]:
    """Crops of the boxes that the shipped detector finds in the split's images, each reduced `reduction` times, and their (N,) scores.

    Boxes are px of the original image. There may be none.

    Raises:
        FarposeError: an image is missing or damaged, or the detector's file is.
    """
    data = context.data
    own = data.inputs
    images, image_ids = tuple(data.images["image_path"].tolist()), data.images["image_id"].to_numpy(np.int64)
    found = _detections(data.data_root, tuple((path, _written(data.data_root / path)) for path in images), own.upright, reduction)
    counts = [len(one.scores) for one in found]
    boxes = np.concatenate([one.bbox_xywh * reduction for one in found]).reshape(-1, 4)
    scores = np.concatenate([one.scores for one in found])
    paths, ids = np.repeat(np.array(images, dtype=object), counts), np.repeat(image_ids, counts)
    given = Boxes(data.data_root, paths, ids, boxes, own.upright)
    spec, convention = ShardSpec(own.geometry.input_size, own.protocol), own.geometry.convention
    crops = crop_boxes(given, convention, spec, data.degrade, own.skeleton, reduction=reduction)
    return crops, scores.astype(np.float64)


@functools.lru_cache(maxsize=4)  # several models that are scored in one process see the same images
def _detections(root: Path, images: tuple[tuple[str, int], ...], upright: bool, reduction: int) -> list[Found]:
    """What the detector finds in each reduced image, px of it.

    Args:
        images: path and time of writing of each; a changed image is looked at anew.
    """
    finder = PersonDetector.open()
    return [finder.find(reduced(read_image(root / path, upright), reduction), SCORE) for path, _ in images]


def _written(image: Path) -> int:
    """ns; 0 for a missing image, of which reading it says what is wrong."""
    return image.stat().st_mtime_ns if image.is_file() else 0


def reduced(image: np.ndarray, reduction: int) -> np.ndarray:
    """(H // reduction, W // reduction, 3) uint8: means of squares of the image (H, W, 3), from its top left corner on."""
    height, width = (max(1, side // reduction) for side in image.shape[:2])
    first = (reduction - 1) / 2  # centre of the first square, px of the image
    return image if reduction == 1 else to_uint8(area_mean(image, (first, first), (float(reduction), float(reduction)), (height, width)))


def origin_of(reduction: int) -> dict[str, Any]:
    """For the provenance of the prediction file."""
    return {"detector": NAME, "detector_sha256": origins.load("detector")[NAME].sha256, "detector_score": SCORE, "reduction": reduction}
