"""Suppression of repeated persons by OKS, hard and soft, for all images at once.

The same persons are kept, in the same order, as by HRNet's published `oks_nms` and `soft_oks_nms` (Sun et al. 2019; soft:
Bodla et al. 2017 with a Gaussian decay), where equal scores are taken last first.
"""

from __future__ import annotations

import numpy as np

MAX_SOFT = 20  # persons that soft suppression keeps per image
ELEMENTS_PER_CHUNK = 1 << 19  # joint distances held at a time


def oks_matrix(keypoints: np.ndarray, areas: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """OKS between all persons of an image, relative to the mean of both areas.

    Args:
        keypoints: (..., P, K, 2) image px; leading axes are images of equally many persons.
        areas: (..., P) padded box areas, px².
        sigmas: (K,).
    Returns:
        (..., P, P) float64, symmetric, 1 on the diagonal.
    """
    persons = keypoints.shape[-3]
    first, second = np.triu_indices(persons, 1)
    x, y = np.ascontiguousarray(keypoints[..., 0]), np.ascontiguousarray(keypoints[..., 1])
    error = (x[..., second, :] - x[..., first, :]) ** 2
    error += (y[..., second, :] - y[..., first, :]) ** 2
    error /= (np.asarray(sigmas) * 2) ** 2
    error /= ((areas[..., first] + areas[..., second]) / 2 + np.spacing(1))[..., None]
    error /= -2
    matrix = np.empty((*areas.shape, persons))
    matrix[..., first, second] = matrix[..., second, first] = np.exp(error, out=error).sum(-1) / keypoints.shape[-2]
    matrix[..., np.arange(persons), np.arange(persons)] = 1.0
    return matrix


def suppress(
    image_id: np.ndarray,
    keypoints: np.ndarray,
    scores: np.ndarray,
    areas: np.ndarray,
    sigmas: np.ndarray,
    threshold: float = 0.9,
    soft: bool = False,
) -> np.ndarray:
    """Rows that are kept, by ascending image and, within an image, in the order in which they were chosen.

    Hard: the best person is kept and all above `threshold` OKS with it are dropped, and again with the rest.
    Soft: nobody is dropped, but each choice multiplies the others' scores by exp(-OKS² / threshold), and the first
    `MAX_SOFT` choices are kept. Scores themselves are not changed.

    Args:
        image_id: (N,).
        keypoints: (N, K, 2) image px.
        scores: (N,) person scores.
        areas: (N,) padded box areas, px².
        sigmas: (K,).
    """
    if not len(image_id):
        return np.zeros(0, np.int64)
    image = np.unique(image_id, return_inverse=True)[1]
    order = _descending(scores, image)
    counts = np.bincount(image)
    firsts = np.cumsum(counts) - counts
    kept_order = np.full((len(counts), MAX_SOFT if soft else counts.max()), -1)
    for persons, images in _chunks(counts, keypoints.shape[1]):
        rows = order[firsts[images][:, None] + np.arange(persons)]  # (n, P) by descending score
        similarity = oks_matrix(keypoints[rows], areas[rows], sigmas)
        choose = _soft if soft else _hard
        chosen = choose(similarity, scores[rows], threshold)  # (n, C)
        kept_order[images, : chosen.shape[1]] = np.where(chosen >= 0, np.take_along_axis(rows, np.maximum(chosen, 0), 1), -1)
    return kept_order[kept_order >= 0]


def _hard(similarity: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """(n, P) places kept, -1 where dropped; persons come by descending score."""
    images, persons = scores.shape
    alive = np.ones((images, persons), bool)
    for place in range(persons - 1):
        beaten = similarity[:, place, place + 1 :] > threshold
        alive[:, place + 1 :] &= ~(beaten & alive[:, place, None])
    return np.where(alive, np.arange(persons), -1)


def _soft(similarity: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """(n, min(P, MAX_SOFT)) places in the order of choice; persons come by descending score."""
    images, persons = scores.shape
    decay = np.exp(-(similarity**2) / threshold)
    rows = np.arange(images)
    chosen = np.empty((images, min(persons, MAX_SOFT)), np.int64)
    places = np.broadcast_to(np.arange(persons), (images, persons))  # of the persons left, best first
    for step in range(chosen.shape[1]):
        best, places = places[:, 0], places[:, 1:]
        chosen[:, step] = best
        scores = scores[:, 1:] * decay[rows[:, None], best[:, None], places]
        again = np.argsort(scores, axis=1, kind="stable")[:, ::-1]
        scores, places = np.take_along_axis(scores, again, 1), np.take_along_axis(places, again, 1)
    return chosen


def _descending(scores: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Rows by ascending image, then descending score, equal scores last first."""
    return np.lexsort((-np.arange(len(scores)), -scores, image))


def _chunks(counts: np.ndarray, joints: int) -> list[tuple[int, np.ndarray]]:
    """Images of equally many persons, few enough at a time."""
    chunks = []
    for persons in np.unique(counts):
        images = np.flatnonzero(counts == persons)
        step = max(1, ELEMENTS_PER_CHUNK // (int(persons) ** 2 * joints))
        chunks += [(int(persons), images[i : i + step]) for i in range(0, len(images), step)]
    return chunks
