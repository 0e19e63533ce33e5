"""OKS suppression: ours for all images at once against one person at a time. Run: python -m benchmarks.nms"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from components.evaluate.nms import MAX_SOFT, suppress
from components.pose.skeleton import COCO_17

SIGMAS = np.array(COCO_17.sigmas)
DETECTIONS, IMAGES, REPEATS, TARGET = 104_125, 5_000, 5, 5.0


def one_by_one(
    image_id: np.ndarray, keypoints: np.ndarray, scores: np.ndarray, areas: np.ndarray, sigmas: np.ndarray, threshold: float, soft: bool
) -> list[int]:
    """The published way: per image, each chosen person is compared with the others one after another."""
    kept: list[int] = []
    for image in np.unique(image_id):
        rows = np.flatnonzero(image_id == image) if len(image_id) < 10_000 else _rows(image_id, image)
        places = _one_image(keypoints[rows], scores[rows], areas[rows], sigmas, threshold, soft)
        kept += rows[places].tolist()
    return kept


def _rows(image_id: np.ndarray, image: int) -> np.ndarray:
    """Rows of an image in a table sorted by image, without a scan that would slow the published way down."""
    return np.arange(np.searchsorted(image_id, image), np.searchsorted(image_id, image, side="right"))


def _one_image(
    keypoints: np.ndarray, scores: np.ndarray, areas: np.ndarray, sigmas: np.ndarray, threshold: float, soft: bool
) -> list[int]:
    order = np.argsort(scores, kind="stable")[::-1]
    left = scores[order]
    kept: list[int] = []
    while len(order) and (not soft or len(kept) < MAX_SOFT):
        best, order, left = order[0], order[1:], left[1:]
        kept.append(int(best))
        overlap = np.array([_oks(keypoints[best], keypoints[i], areas[best], areas[i], sigmas) for i in order])
        if soft:
            left = left * np.exp(-(overlap**2) / threshold) if len(order) else left
            again = np.argsort(left, kind="stable")[::-1]
            order, left = order[again], left[again]
        else:
            order, left = order[overlap <= threshold], left[overlap <= threshold]
    return kept


def _oks(first: np.ndarray, second: np.ndarray, first_area: float, second_area: float, sigmas: np.ndarray) -> float:
    dx, dy = second[:, 0] - first[:, 0], second[:, 1] - first[:, 1]
    error = (dx**2 + dy**2) / (sigmas * 2) ** 2 / ((first_area + second_area) / 2 + np.spacing(1)) / 2
    return float(np.sum(np.exp(-error)) / len(error))


def detections(count: int, images: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Predicted persons as a detector's boxes give them: clusters of near copies around five persons an image, sorted by image."""
    rng = np.random.default_rng(seed)
    image = np.sort(rng.integers(0, images, count))
    height = np.exp(rng.uniform(np.log(40), np.log(400), images * 5))
    cluster = image * 5 + rng.integers(0, 5, count)
    anchors = rng.uniform(0, 300, (images * 5, 1, 2)) + rng.uniform(0, 1, (images * 5, 17, 2)) * height[:, None, None] * [0.4, 1]
    keypoints = anchors[cluster] + rng.normal(0, 0.03, (count, 17, 2)) * height[cluster, None, None]
    return image, keypoints, rng.random(count), 0.4 * 1.5625 * height[cluster] ** 2


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    from benchmarks import report

    image, keypoints, scores, areas = detections(DETECTIONS, IMAGES)
    rows = []
    for soft in (False, True):
        arguments = (image, keypoints, scores, areas, SIGMAS, 0.9, soft)
        if suppress(*arguments).tolist() != one_by_one(*arguments):
            raise SystemExit("the two ways keep different persons")
        slow, fast = zip(*((seconds(lambda: one_by_one(*arguments)), seconds(lambda: suppress(*arguments))) for _ in range(REPEATS)), strict=True)  # noqa: B023
        ratios = [a / b for a, b in zip(slow, fast, strict=True)]
        rows.append(
            {
                "name": "soft_oks_nms" if soft else "oks_nms",
                "ratio": statistics.median(ratios), "target": TARGET, "n": REPEATS, "spread": max(ratios) - min(ratios),
                "one_by_one_s": statistics.median(slow), "ours_s": statistics.median(fast), "detections": DETECTIONS,
                "images": IMAGES, "identical_keeps": True,
            }
        )  # fmt: skip
    report.write("nms", rows)


if __name__ == "__main__":
    main()
