"""From a detector's boxes to crops."""

from __future__ import annotations

import numpy as np

from components.base.errors import FarposeError
from components.degrade.params import ShardSpec
from components.degrade.shards import Boxes, EvalCrops, crop_boxes
from components.evaluate.approach import EvaluationContext
from components.evaluate.predictions import Detections, read_detections


def detector_crops(context: EvaluationContext) -> tuple[EvalCrops, np.ndarray]:
    """Crops of a detector's person boxes, as the annotated boxes were cropped, and their (N,) scores.

    Raises:
        FarposeError: what `read_detections` raises, a box on an image that is not of the split, or no box is left.
    """
    data, params = context.data, context.params
    own, file = data.inputs, data.data_root / str(params.detections)
    found = read_detections(file, data.images["image_id"].tolist())
    kept = usable(found, params.detector_score_threshold)
    if not len(kept):
        problem = f"none of {len(found)} boxes has an area and a score of at least {params.detector_score_threshold:g}"
        raise FarposeError(problem, where=file, fix="lower evaluate.detector_score_threshold")
    paths = dict(zip(data.images["image_id"].tolist(), data.images["image_path"].tolist(), strict=True))
    image_paths = np.array([paths[i] for i in kept.image_id.tolist()], dtype=object)
    spec, convention = ShardSpec(own.geometry.input_size, own.protocol), own.geometry.convention
    boxes = Boxes(data.data_root, image_paths, kept.image_id, kept.bbox_xywh, own.upright)
    return crop_boxes(boxes, convention, spec, data.degrade, own.skeleton), kept.scores


def usable(found: Detections, score_threshold: float) -> Detections:
    """The boxes that can be cropped and are likely enough to be persons."""
    rows = (found.bbox_xywh[:, 2:] > 0).all(1) & (found.scores >= score_threshold)
    return Detections(found.image_id[rows], found.bbox_xywh[rows], found.scores[rows])
