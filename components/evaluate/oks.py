"""Average precision over object keypoint similarity (OKS): the ten numbers of COCO's keypoint evaluation.

Equal to pycocotools (Lin et al. 2014; Ronchi & Perona 2017) to 1e-9, on arrays instead of per-image loops.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from components.base.errors import FarposeError
from components.evaluate.matching import PAIRS_PER_CHUNK, Matches, greedy, object_keypoint_similarity, pair_rows, rows_of
from components.evaluate.predictions import Predictions
from components.pose.persons import Persons

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = 20  # per image, the ones of highest score
AREA_RANGES = {"all": (0.0, 1e5**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e5**2)}  # px² of the original image
NAMES = ("AP", "AP50", "AP75", "AP_M", "AP_L", "AR", "AR50", "AR75", "AR_M", "AR_L")


@dataclass(frozen=True)
class Ranges:
    """A ranges of person size: persons (A, P) bool and predictions (A, N) bool that are outside of each."""

    persons_outside: np.ndarray
    predictions_outside: np.ndarray


def evaluate(persons: Persons, predictions: Predictions, scores: np.ndarray, image_ids: np.ndarray | None = None) -> dict[str, float]:
    """The ten numbers `NAMES`; -1 where there is no person to be found, as in pycocotools.

    Args:
        persons: all rows of the split, crowd regions and persons without labelled joints included.
        scores: (N,) score of each predicted person.
        image_ids: images to score, those without persons included; None takes the images of `persons`. Persons and
            predictions on other images are left out.
    Raises:
        FarposeError: a score or coordinate is not finite, or the joints are of another skeleton.
    """
    return summarise(match(persons, predictions, scores, image_ids))


def match(
    persons: Persons,
    predictions: Predictions,
    scores: np.ndarray,
    image_ids: np.ndarray | None = None,
    ranges: Ranges | None = None,
) -> Matches:
    """Match predictions to persons in every range (`area_ranges` by default); arguments and errors as in `evaluate`."""
    _check(persons, predictions, scores)
    ranges = area_ranges(persons, predictions) if ranges is None else ranges
    images = np.unique(persons.frame["image_id"].to_numpy() if image_ids is None else np.asarray(image_ids, np.int64))
    rows, row_image = _on(images, persons.frame["image_id"].to_numpy())
    rows, row_image = (values[np.argsort(row_image, kind="stable")] for values in (rows, row_image))
    found, found_image = _best(images, predictions.image_id, scores)
    crowd = persons.frame["iscrowd"].to_numpy(bool)[rows]
    hidden = crowd | (persons.frame["num_keypoints"].to_numpy()[rows] == 0)
    ignored = ranges.persons_outside[:, rows] | hidden

    similarity = _similarities(persons.select(rows), predictions.keypoints_image[found], found_image, row_image, len(images))
    matched, dropped = greedy(similarity, found_image, row_image, ignored, crowd, THRESHOLDS, len(images))
    dropped |= ~matched & ranges.predictions_outside[:, None, found]
    order = np.argsort(-scores[found], kind="stable")
    positives = np.stack([np.bincount(row_image[~mask], minlength=len(images)) for mask in ignored])
    return Matches(images, found_image[order], scores[found][order], matched[..., order], dropped[..., order], positives)


def area_ranges(persons: Persons, predictions: Predictions) -> Ranges:
    """COCO's ranges: all, medium, large, by annotated area and by the extent of the predicted joints, px² of the original.

    Where the images were reduced, the table's `area_range_px2` holds the original area of each person; predictions on the
    same image are scaled alike.
    """
    annotated = persons.frame["area"].to_numpy(np.float64)
    original = persons.frame["area_range_px2"].to_numpy(np.float64) if "area_range_px2" in persons.frame else annotated
    joints = predictions.keypoints_image
    extent = np.ptp(joints, axis=1).prod(-1) if len(joints) else np.zeros(0)
    if original is not annotated:
        extent = extent * _enlargement(persons, original, annotated, predictions.image_id)
    return ranges_of(original, extent, tuple(AREA_RANGES.values()))


def ranges_of(person_sizes: np.ndarray, prediction_sizes: np.ndarray, limits: tuple[tuple[float, float], ...]) -> Ranges:
    """Ranges [low, high] (both included, as in pycocotools) of any measure of size."""
    outside = lambda sizes: np.stack([(sizes < low) | (sizes > high) for low, high in limits])  # noqa: E731
    return Ranges(outside(person_sizes), outside(prediction_sizes))


def _enlargement(persons: Persons, original: np.ndarray, annotated: np.ndarray, image_id: np.ndarray) -> np.ndarray:
    """(N,) original area per annotated area of the image; 1 for images without persons."""
    known = (annotated > 0) & (original > 0)
    images, first = np.unique(persons.frame["image_id"].to_numpy()[known], return_index=True)
    return np.append((original[known] / annotated[known])[first], 1.0)[rows_of(images, image_id)]


def summarise(matches: Matches) -> dict[str, float]:
    """The ten numbers from matches over `AREA_RANGES`."""
    weights = np.ones((1, len(matches.image_ids)), np.int32)
    (precision, recall), medium, large = (tuple(v[0] for v in accumulate(matches, i, weights)) for i in range(3))
    values = [precision.mean(), precision[0], precision[5], medium[0].mean(), large[0].mean()]
    values += [recall.mean(), recall[0], recall[5], medium[1].mean(), large[1].mean()]
    return dict(zip(NAMES, map(float, np.nan_to_num(values, nan=-1.0)), strict=True))


def accumulate(matches: Matches, index: int, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision (B, T), mean over 101 recalls, and recall (B, T) in range `index`, for B weightings of the images.

    An image of weight w counts as w copies of it; NaN where no person is to be found.

    Args:
        weights: (B, I) integers.
    """
    # weightings lie along the last axis, so that what runs over detections works on whole rows
    per_detection = np.ascontiguousarray(weights.T, np.int32)[matches.image]  # (D, B)
    positives = weights @ matches.positives[index]  # (B,)
    reached, column = _recalls_reached(positives)
    all_seen = np.cumsum(per_detection, axis=0, dtype=np.int32)
    precision, recall = np.zeros((2, len(weights), matches.matched.shape[1]))
    for t, (matched, ignored) in enumerate(zip(matches.matched[index], matches.ignored[index], strict=True)):
        right = np.flatnonzero(matched & ~ignored)
        if not len(right):
            continue
        seen = all_seen if not ignored.any() else np.cumsum(per_detection * ~ignored[:, None], axis=0, dtype=np.int32)
        found = np.cumsum(per_detection[right], axis=0, dtype=np.int32)
        with np.errstate(invalid="ignore", divide="ignore"):
            recall[:, t] = found[-1] / positives
        # precision only rises at a right detection, so its envelope needs no other positions
        envelope = np.maximum.accumulate((found / (seen[right] + np.spacing(1)))[::-1], axis=0)[::-1]
        steps = np.diff(reached[found, column], axis=0, prepend=np.int8(0))
        precision[:, t] = np.einsum("rb,rb->b", envelope, steps) / len(RECALLS)
    empty = positives == 0
    precision[empty] = recall[empty] = np.nan
    return precision, recall


def _recalls_reached(positives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many of `RECALLS` are at most n / p: (largest p + 1, kinds of p) for each n and p, and (B,) the column of each of `positives`.

    The quotients are compared as pycocotools compares them, in floating point.
    """
    kinds, column = np.unique(positives, return_inverse=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        recalls = np.arange(kinds[-1] + 1)[:, None] / kinds
    return np.searchsorted(RECALLS, recalls, side="right").astype(np.int8), column


def _check(persons: Persons, predictions: Predictions, scores: np.ndarray) -> None:
    if predictions.keypoints_image.shape[1:] != (len(persons.skeleton), 2):
        got = predictions.keypoints_image.shape[1]
        raise FarposeError(f"predictions have {got} joints, the persons are annotated with {len(persons.skeleton)}")
    if not (np.isfinite(scores).all() and np.isfinite(predictions.keypoints_image).all()):
        raise FarposeError("a predicted coordinate or score is not finite", fix="look at this model's loss and weights")


def _on(images: np.ndarray, image_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows on `images` (sorted), and the index of their image."""
    place = rows_of(images, image_id)
    rows = np.flatnonzero(place >= 0)
    return rows, place[rows]


def _best(images: np.ndarray, image_id: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The `MAX_DETECTIONS` best rows of each image, by image and descending score, and the index of their image."""
    rows, image = _on(images, image_id)
    order = np.lexsort((-scores[rows], image))
    rows, image = rows[order], image[order]
    first = np.searchsorted(image, np.arange(len(images)))
    kept = np.arange(len(rows)) - first[image] < MAX_DETECTIONS if len(rows) else np.zeros(0, bool)
    return rows[kept], image[kept]


def _similarities(persons: Persons, keypoints: np.ndarray, image: np.ndarray, person_image: np.ndarray, images: int) -> np.ndarray:
    detections, rows = pair_rows(image, person_image, images)
    areas, sigmas = persons.frame["area"].to_numpy(np.float64), np.asarray(persons.skeleton.sigmas)
    similarity = np.empty(len(rows))
    for start in range(0, len(rows), PAIRS_PER_CHUNK):
        part = slice(start, start + PAIRS_PER_CHUNK)
        d, p = detections[part], rows[part]
        similarity[part] = object_keypoint_similarity(keypoints[d], persons.keypoints[p], areas[p], persons.bbox_xywh[p], sigmas)
    return similarity
