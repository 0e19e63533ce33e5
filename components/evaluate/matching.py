"""Greedy matching of detections to annotated persons, for all images, thresholds and ranges at once.

The rules are those of pycocotools' keypoint evaluation: in descending score (ties in file order) each detection takes the
free person of highest OKS (ties: the later one), a counted person before an ignored one; crowd regions are never used up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CELLS_PER_CHUNK = 1 << 18  # keeps the working arrays of a chunk of images in the cache
PAIRS_PER_CHUNK = 1 << 15


@dataclass(frozen=True)
class Matches:
    """The outcome of every detection, enough to accumulate AP again for any resampling of the images.

    A ranges of size (such as all, medium, large), T OKS thresholds, D detections in descending score, I images.

    Attributes:
        image_ids: (I,) int64, ascending.
        image: (D,) index into `image_ids`.
        scores: (D,) descending.
        matched: (A, T, D) bool.
        ignored: (A, T, D) bool, neither right nor wrong.
        positives: (A, I) number of persons to be found.
    """

    image_ids: np.ndarray
    image: np.ndarray
    scores: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    positives: np.ndarray


def object_keypoint_similarity(
    keypoints: np.ndarray, persons: np.ndarray, areas: np.ndarray, bbox_xywh: np.ndarray, sigmas: np.ndarray
) -> np.ndarray:
    """OKS of M (prediction, person) pairs, as pycocotools computes it.

    For a person without labelled joints the distance is that to its box, doubled on all sides.

    Args:
        keypoints: (M, K, 2) predicted, image px.
        persons: (M, K, 3) annotated, image px and visibility.
        areas: (M,) annotated area, px².
        bbox_xywh: (M, 4) annotated box, image px.
        sigmas: (K,).
    Returns:
        (M,) float64 in [0, 1].
    """
    labelled = persons[..., 2] > 0
    count = labelled.sum(1)
    difference = keypoints - persons[..., :2]
    bare = count == 0
    if bare.any():
        corner, extent = bbox_xywh[bare, None, :2], bbox_xywh[bare, None, 2:]
        low, high, points = corner - extent, corner + extent * 2, keypoints[bare]
        difference[bare] = np.maximum(0, low - points) + np.maximum(0, points - high)
        labelled = labelled | bare[:, None]
        count = np.where(bare, labelled.shape[1], count)
    similarity = joint_similarity(difference[..., 0] ** 2 + difference[..., 1] ** 2, areas[:, None], sigmas)
    return np.where(labelled, similarity, 0.0).sum(1) / count


def joint_similarity(squared_px: np.ndarray, areas: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """KS, the similarity of one joint: exp(−d² / (2 · area · (2σ)²)), as pycocotools computes it.

    Args:
        squared_px: (..., K) squared distances, px².
        areas: of the persons, px²; must broadcast.
        sigmas: (K,).
    """
    return np.exp(-squared_px / (sigmas * 2) ** 2 / (areas + np.spacing(1)) / 2)


def by_image(image_id: np.ndarray) -> dict[int, np.ndarray]:
    """Image → its rows, ascending."""
    order = np.argsort(image_id, kind="stable")
    images, first = np.unique(image_id[order], return_index=True)
    return dict(zip(images.tolist(), np.split(order, first[1:]), strict=True)) if len(images) else {}


def rows_of(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(N,) the row of `ids` (M,) that holds each of `wanted` (N,), the first one of equals; -1 where there is none."""
    if not len(ids):
        return np.full(len(wanted), -1)
    order = np.argsort(ids, kind="stable")
    rows = order[np.searchsorted(ids, wanted, sorter=order).clip(max=len(ids) - 1)]
    return np.where(ids[rows] == wanted, rows, -1)


def pair_rows(detection_image: np.ndarray, person_image: np.ndarray, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Row pairs (detection, person) that share an image; both inputs must be sorted by image. Persons vary fastest."""
    persons_per_image = np.bincount(person_image, minlength=images)
    first_person = np.concatenate([[0], np.cumsum(persons_per_image)[:-1]])
    repeats = persons_per_image[detection_image]
    detections = np.repeat(np.arange(len(detection_image)), repeats)
    starts = np.cumsum(repeats) - repeats
    persons = np.arange(len(detections)) - np.repeat(starts - first_person[detection_image], repeats)
    return detections, persons


def greedy(
    similarity: np.ndarray,
    detection_image: np.ndarray,
    person_image: np.ndarray,
    person_ignored: np.ndarray,
    crowd: np.ndarray,
    thresholds: np.ndarray,
    images: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Match P persons with D detections, both sorted by image and the detections of an image by descending score.

    Args:
        similarity: OKS of the pairs, in the order of `pair_rows`.
        detection_image: (D,) index of the image.
        person_image: (P,) index of the image.
        person_ignored: (A, P) bool, not to be found in this range.
        crowd: (P,) bool.
        thresholds: (T,).
    Returns:
        matched (A, T, D) bool and matched_ignored (A, T, D) bool: matched to an ignored person.
    """
    num_detections = np.bincount(detection_image, minlength=images)
    num_persons = np.bincount(person_image, minlength=images)
    first_detection = np.cumsum(num_detections) - num_detections
    first_person = np.cumsum(num_persons) - num_persons
    first_pair = np.cumsum(num_detections * num_persons) - num_detections * num_persons
    shape = (len(detection_image), len(person_ignored), len(thresholds))
    matched, matched_ignored = np.zeros(shape, bool), np.zeros(shape, bool)
    for chunk in _chunks(num_persons, num_detections, len(person_ignored) * len(thresholds)):
        size = num_persons[chunk[0]]
        columns = first_person[chunk] + np.arange(size)[:, None]  # (G, n)
        counted = ~person_ignored[:, columns].transpose(1, 2, 0)  # (G, n, A)
        free = np.ones((*counted.shape, len(thresholds)), bool)
        reusable = crowd[columns][..., None, None]
        for rank in range(num_detections[chunk].max()):
            active = np.flatnonzero(num_detections[chunk] > rank)
            if len(active) < len(chunk):  # images sorted by number of detections: the active ones come last
                chunk, counted, free, reusable = chunk[active], counted[:, active], free[:, active], reusable[:, active]
            row = similarity[first_pair[chunk] + rank * size + np.arange(size)[:, None]]  # (G, n)
            best, taken = _take(row, counted, free, thresholds)
            free &= ~taken | reusable
            detections = first_detection[chunk] + rank
            matched[detections] = best > 0
            matched_ignored[detections] = (best > 0) & (best <= size)
    return matched.transpose(1, 2, 0), matched_ignored.transpose(1, 2, 0)


def _take(similarity: np.ndarray, counted: np.ndarray, free: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Preference (n, A, T) of the person taken by each image's detection (0: none), and who it is, (G, n, A, T) one-hot.

    A preference is 1 + the rank of the person's OKS (ties: later persons rank higher), plus G for counted persons.
    """
    size = len(similarity)
    order = np.argsort(similarity, axis=0, kind="stable")
    preference = np.empty_like(order)
    np.put_along_axis(preference, order, np.arange(1, size + 1)[:, None], axis=0)
    kind = np.uint8 if 2 * size < 256 else np.int32
    keys = (preference[..., None] + size * counted).astype(kind)[..., None]  # (G, n, A, 1)
    reached = similarity[..., None] >= np.minimum(thresholds, 1 - 1e-10)  # (G, n, T)
    offers = keys * (free & reached[:, :, None])
    best = offers.max(0)
    return best, (offers == best) & (best > 0)


def _chunks(num_persons: np.ndarray, num_detections: np.ndarray, cells: int) -> list[np.ndarray]:
    """Images that have both, grouped by number of persons, few enough at a time, by ascending number of detections."""
    images = np.flatnonzero((num_persons > 0) & (num_detections > 0))
    images = images[np.lexsort((num_detections[images], num_persons[images]))]
    _, starts = np.unique(num_persons[images], return_index=True)
    chunks = []
    for group in np.split(images, starts[1:]):
        if len(group):
            step = max(1, CELLS_PER_CHUNK // (cells * int(num_persons[group[0]])))
            chunks += [group[i : i + step] for i in range(0, len(group), step)]
    return chunks
