"""From joints in boxes to scored persons: a person's score from its box and its joints; repeated persons are dropped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from components.codecs.codec import Codec
from components.evaluate.nms import suppress
from components.evaluate.params import EvaluateParams
from components.evaluate.predictions import Predictions


def person_scores(keypoint_scores: np.ndarray, box_scores: np.ndarray, in_vis_threshold: float) -> np.ndarray:
    """Box score times the mean score of the joints above `in_vis_threshold`; 0 where no joint is.

    Source: Xiao et al. 2018, Simple Baselines, evaluation on COCO (`IN_VIS_THRE` of the published configurations).

    Args:
        keypoint_scores: (N, K), `Predictions.ranked_by`.
        box_scores: (N,).
        in_vis_threshold: the codec's `score_threshold`, such as 0.2 for heatmaps.
    Returns:
        (N,) float64.
    """
    seen = keypoint_scores > in_vis_threshold
    total = np.where(seen, keypoint_scores, 0.0).sum(-1)
    return box_scores * total / np.maximum(seen.sum(-1), 1)


def finish(predictions: Predictions, params: EvaluateParams, sigmas: Sequence[float], codec: Codec) -> tuple[Predictions, np.ndarray]:
    """Score the persons and suppress repeated ones: the persons that are kept, and their (N,) scores."""
    scores = person_scores(predictions.ranked_by, predictions.box_scores, params.visible_above(codec))
    joints, areas = predictions.keypoints_image, predictions.areas
    kept = suppress(predictions.image_id, joints, scores, areas, np.asarray(sigmas), params.oks_nms_threshold, params.soft_nms)
    return predictions.select(kept), scores[kept]
