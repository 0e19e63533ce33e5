"""A person's score from its box and its joints."""

from __future__ import annotations

import numpy as np


def person_scores(keypoint_scores: np.ndarray, box_scores: np.ndarray, in_vis_threshold: float) -> np.ndarray:
    """Box score times the mean score of the joints above `in_vis_threshold`; 0 where no joint is.

    Source: Xiao et al. 2018, Simple Baselines, evaluation on COCO (`IN_VIS_THRE` of the published configurations).

    Args:
        keypoint_scores: (N, K).
        box_scores: (N,).
        in_vis_threshold: the codec's `score_threshold`, such as 0.2 for heatmaps.
    Returns:
        (N,) float64.
    """
    seen = keypoint_scores > in_vis_threshold
    total = np.where(seen, keypoint_scores, 0.0).sum(-1)
    return box_scores * total / np.maximum(seen.sum(-1), 1)
