"""From a detector's boxes to crops."""

from __future__ import annotations

import numpy as np
import pandas as pd

from components.base.errors import FarposeError
from components.degrade.params import ShardSpec
from components.degrade.shards import Boxes, EvalCrops, crop_boxes
from components.evaluate.approach import EvaluationContext
from components.evaluate.boxes import PersonBoxes, boxes_of_images


def detector_crops(context: EvaluationContext) -> tuple[EvalCrops, np.ndarray, PersonBoxes]:
    """Crops of a detector's person boxes, as the annotated boxes were cropped, and their (N,) scores, and all boxes of the file.

    Raises:
        FarposeError: what `boxes_of_images` raises, or no box is left.
    """
    data, params = context.data, context.params
    own, file = data.inputs, data.data_root / str(params.detections)
    found = boxes_of_images(file, _sizes(data.images), data.persons.category_id)
    kept = found.scores >= params.detector_score_threshold
    if not kept.any():
        problem = f"none of {len(found)} boxes has an area and a score of at least {params.detector_score_threshold:g}"
        raise FarposeError(problem, where=file, fix="lower evaluate.detector_score_threshold")
    paths = dict(zip(data.images["image_id"].tolist(), data.images["image_path"].tolist(), strict=True))
    image_paths = np.array([paths[i] for i in found.image_id[kept].tolist()], dtype=object)
    spec, convention = ShardSpec(own.geometry.input_size, own.protocol), own.geometry.convention
    boxes = Boxes(data.data_root, image_paths, found.image_id[kept], found.bbox_xywh[kept], own.upright)
    return crop_boxes(boxes, convention, spec, data.degrade, own.skeleton), found.scores[kept], found


def _sizes(images: pd.DataFrame) -> dict[int, tuple[float, float] | None]:
    """Width and height of the images by id, where the table has them."""
    ids = images["image_id"].tolist()
    if "image_width" not in images:
        return dict.fromkeys(ids)
    return dict(zip(ids, zip(images["image_width"].tolist(), images["image_height"].tolist(), strict=True), strict=True))
