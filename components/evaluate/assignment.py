"""How well each annotated person of a whole image was found: OKS with the prediction that fits it best, one to one."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from components.evaluate.matching import by_image, object_keypoint_similarity, rows_of
from components.evaluate.predictions import Predictions
from components.pose.persons import Persons


def assign(persons: Persons, predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """OKS (P,) of each labelled person with the prediction it is given, and that prediction's row (P,).

    Predictions are given to the persons of their image one to one, so that the sum of OKS is largest, whatever their scores:
    this measures what was found; AP also measures how well scores rank it. Without one: OKS 0, row -1.
    """
    oks, rows = np.zeros(len(persons)), np.full(len(persons), -1)
    areas, sigmas = persons.frame["area"].to_numpy(np.float64), np.asarray(persons.skeleton.sigmas)
    found = by_image(predictions.image_id)
    for image, own in by_image(persons.frame["image_id"].to_numpy()).items():
        candidates = found.get(image, np.zeros(0, np.int64))
        p, d = np.repeat(own, len(candidates)), np.tile(candidates, len(own))
        joints = predictions.keypoints_image[d]
        similarity = object_keypoint_similarity(joints, persons.keypoints[p], areas[p], persons.bbox_xywh[p], sigmas)
        similarity = similarity.reshape(len(own), len(candidates))
        first, second = linear_sum_assignment(similarity, maximize=True)
        oks[own[first]], rows[own[first]] = similarity[first, second], candidates[second]
    return oks, rows


def mean_by_image(image_ids: np.ndarray, person_image: np.ndarray, oks: np.ndarray) -> np.ndarray:
    """(I,) mean OKS of the persons of each image; NaN for images without persons."""
    images, index = np.unique(person_image, return_inverse=True)
    means = np.bincount(index, oks) / np.maximum(np.bincount(index), 1)
    return np.append(means, np.nan)[rows_of(images, image_ids)]
