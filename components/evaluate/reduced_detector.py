"""The whole chain at low resolution: the shipped detector looks at reduced images, and crops are cut from the same reduced images.

Annotated boxes, and those that a detector found at full resolution, are better than a low-resolution camera would allow.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from components.base import origins
from components.degrade.area import area_mean, to_uint8
from components.degrade.images import read_image
from components.degrade.params import ShardSpec
from components.degrade.shards import Boxes, EvalCrops, crop_boxes
from components.detect.detector import NAME, SCORE, PersonDetector
from components.evaluate.approach import EvaluationContext


def reduced_detector_crops(context: EvaluationContext, reduction: int) -> tuple[EvalCrops, np.ndarray]:
    """Crops of the boxes that the shipped detector finds in the split's images, each reduced `reduction` times, and their (N,) scores.

    Boxes are px of the original image. There may be none.

    Raises:
        FarposeError: an image is missing or damaged, or the detector's file is.
    """
    data, finder = context.data, PersonDetector.open()
    own = data.inputs
    paths, ids, boxes, scores = [], [], [], []
    for image_id, path in zip(data.images["image_id"].tolist(), data.images["image_path"].tolist(), strict=True):
        found = finder.find(reduced(read_image(data.data_root / path, own.upright), reduction), SCORE)
        paths += [path] * len(found.scores)
        ids += [image_id] * len(found.scores)
        boxes.append(found.bbox_xywh * reduction)
        scores.append(found.scores)
    given = Boxes(data.data_root, np.array(paths, dtype=object), np.array(ids, np.int64), np.concatenate(boxes).reshape(-1, 4), own.upright)
    spec, convention = ShardSpec(own.geometry.input_size, own.protocol), own.geometry.convention
    crops = crop_boxes(given, convention, spec, data.degrade, own.skeleton, reduction=reduction)
    return crops, np.concatenate(scores).astype(np.float64)


def reduced(image: np.ndarray, reduction: int) -> np.ndarray:
    """(H // reduction, W // reduction, 3) uint8: means of squares of the image (H, W, 3), from its top left corner on."""
    height, width = (max(1, side // reduction) for side in image.shape[:2])
    first = (reduction - 1) / 2  # centre of the first square, px of the image
    return image if reduction == 1 else to_uint8(area_mean(image, (first, first), (float(reduction), float(reduction)), (height, width)))


def origin_of(reduction: int) -> dict[str, Any]:
    """For the provenance of the prediction file."""
    return {"detector": NAME, "detector_sha256": origins.load("detector")[NAME].sha256, "detector_score": SCORE, "reduction": reduction}
