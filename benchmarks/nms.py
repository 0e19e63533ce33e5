"""OKS suppression, ours for all images at once against a loop over persons. Run: python -m benchmarks.nms"""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks import report
from components.evaluate.nms import MAX_SOFT, suppress
from components.pose.skeleton import COCO_17

SIGMAS = np.array(COCO_17.sigmas)
DETECTIONS, IMAGES, TARGET = 104_125, 5_000, 5.0


def one_by_one(
    image_id: np.ndarray, keypoints: np.ndarray, scores: np.ndarray, areas: np.ndarray, sigmas: np.ndarray, threshold: float, soft: bool
) -> list[int]:
    """The published way: per image, each chosen person is compared with the others one after another."""
    by_image = np.argsort(image_id, kind="stable")
    sorted_ids = image_id[by_image]
    kept: list[int] = []
    for image in np.unique(image_id):
        rows = by_image[np.searchsorted(sorted_ids, image) : np.searchsorted(sorted_ids, image, side="right")]
        places = _one_image(keypoints[rows], scores[rows], areas[rows], sigmas, threshold, soft)
        kept += rows[places].tolist()
    return kept


def _one_image(keypoints: np.ndarray, scores: np.ndarray, areas: np.ndarray, sigmas: np.ndarray, threshold: float, soft: bool) -> list[int]:
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
    """Predicted persons as from a detector's boxes: clusters of near copies of five persons per image, sorted by image."""
    rng = np.random.default_rng(seed)
    image = np.sort(rng.integers(0, images, count))
    height = np.exp(rng.uniform(np.log(40), np.log(400), images * 5))
    cluster = image * 5 + rng.integers(0, 5, count)
    anchors = rng.uniform(0, 300, (images * 5, 1, 2)) + rng.uniform(0, 1, (images * 5, 17, 2)) * height[:, None, None] * [0.4, 1]
    keypoints = anchors[cluster] + rng.normal(0, 0.03, (count, 17, 2)) * height[cluster, None, None]
    return image, keypoints, rng.random(count), 0.4 * 1.5625 * height[cluster] ** 2


def main() -> None:
    image, keypoints, scores, areas = detections(DETECTIONS, IMAGES)
    rows = []
    for name, soft in (("oks_nms", False), ("soft_oks_nms", True)):
        ours = partial(suppress, image, keypoints, scores, areas, SIGMAS, 0.9, soft)
        published = partial(one_by_one, image, keypoints, scores, areas, SIGMAS, 0.9, soft)
        if ours().tolist() != published():
            raise SystemExit(f"{name}: the two implementations keep different persons")
        seconds = report.interleave({"published": published, "ours": ours})
        facts = {"detections": DETECTIONS, "images": IMAGES, "identical_keeps": True, "seconds": seconds}
        rows.append(report.row(name, seconds["published"], seconds["ours"], TARGET, **facts))
    report.write("nms", rows)


if __name__ == "__main__":
    main()
