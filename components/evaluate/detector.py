"""From a detector's boxes to crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from components.base.errors import FarposeError
from components.degrade.params import DegradeParams, ShardSpec
from components.degrade.shards import EvalCrops, crop_boxes
from components.evaluate.predictions import Detections, read_detections
from components.pose.crop import Convention
from components.pose.skeleton import Skeleton


def detector_crops(
    detections_file: Path,
    images: pd.DataFrame,
    data_root: Path,
    convention: Convention,
    spec: ShardSpec,
    degrade: DegradeParams,
    skeleton: Skeleton,
    score_threshold: float = 0.0,
) -> tuple[EvalCrops, np.ndarray]:
    """Crops of a detector's person boxes and their (N,) scores.

    Args:
        detections_file: COCO results list with `bbox` and `score`.
        images: rows `image_id` and `image_path` of the split; boxes on other images are an error.
    Raises:
        FarposeError: what `read_detections` raises, or no box is left.
    """
    found = read_detections(detections_file, images["image_id"].tolist())
    kept = usable(found, score_threshold)
    if not len(kept):
        problem = f"none of {len(found)} boxes has an area and a score of at least {score_threshold:g}"
        raise FarposeError(problem, where=detections_file, fix="lower evaluate.detector_score_threshold")
    paths = dict(zip(images["image_id"].tolist(), images["image_path"].tolist(), strict=True))
    image_paths = np.array([paths[i] for i in kept.image_id.tolist()], dtype=object)
    crops = crop_boxes(data_root, image_paths, kept.image_id, kept.bbox_xywh, convention, spec, degrade, skeleton)
    return crops, kept.scores


def usable(found: Detections, score_threshold: float) -> Detections:
    """The boxes that can be cropped and are likely enough to be persons."""
    rows = (found.bbox_xywh[:, 2:] > 0).all(1) & (found.scores >= score_threshold)
    return Detections(found.image_id[rows], found.bbox_xywh[rows], found.scores[rows])
