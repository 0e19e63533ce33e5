"""OKS suppression and person scores against the published functions' results and a loop per person."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.nms import one_by_one
from components.evaluate.nms import oks_matrix, suppress
from components.evaluate.rescoring import person_scores
from components.pose.skeleton import COCO_17

SIGMAS = np.array(COCO_17.sigmas)
GOLDEN = Path(__file__).parent / "golden" / "oks_nms.npz"  # of leoxiaobin/deep-high-resolution-net.pytorch@6f69e46, lib/nms/nms.py
CASES = ["a", "b", "c", "equal_scores"]


def crowd(seed: int, images: int = 20, most: int = 30, levels: int | None = None) -> tuple[np.ndarray, ...]:
    """Persons in clusters, so that many are near copies of each other."""
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(images) * 7 + 3, rng.integers(1, most, images))
    anchors = rng.uniform(0, 300, (images * 5, 17, 2))
    keypoints = anchors[rng.integers(0, 5, len(image)) + (image - 3) // 7 * 5] + rng.normal(0, 4, (len(image), 17, 2))
    scores = rng.random(len(image))
    if levels:
        scores = np.ceil(scores * levels) / levels
    shuffled = rng.permutation(len(image))
    return image[shuffled], keypoints[shuffled], scores[shuffled], rng.uniform(2e3, 3e4, len(image))


@pytest.mark.parametrize("case", CASES)
def test_published_results(case: str) -> None:
    stored = np.load(GOLDEN)
    joints, scores, areas = (stored[f"{case}_{name}"] for name in ("kpts", "scores", "areas"))
    keypoints, image = joints[..., :2], np.zeros(len(joints), int)
    np.testing.assert_allclose(oks_matrix(keypoints, areas, SIGMAS), stored[f"{case}_oks"], atol=1e-12)
    for threshold in (0.9, 0.5):
        assert suppress(image, keypoints, scores, areas, SIGMAS, threshold).tolist() == stored[f"{case}_oksnms_{threshold}"].tolist()
        soft = suppress(image, keypoints, scores, areas, SIGMAS, threshold, soft=True)
        assert soft.tolist() == stored[f"{case}_softoksnms_{threshold}"].tolist()
    rescored = stored[f"{case}_rescored_invis0.2_(reimplemented_from_coco.py)"]
    np.testing.assert_allclose(person_scores(joints[..., 2], scores, 0.2), rescored, atol=1e-12)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("levels", [None, 3], ids=["distinct scores", "tied scores"])
@pytest.mark.parametrize("threshold", [0.3, 0.9])
def test_all_images_at_once_equal_one_person_at_a_time(soft: bool, levels: int | None, threshold: float) -> None:
    image, keypoints, scores, areas = crowd(1, levels=levels)
    kept = suppress(image, keypoints, scores, areas, SIGMAS, threshold, soft)
    assert kept.tolist() == one_by_one(image, keypoints, scores, areas, SIGMAS, threshold, soft)
    assert 0 < len(kept) < len(image)


def test_copies_are_dropped_and_strangers_stay() -> None:
    image, keypoints, scores, areas = crowd(2, images=4, most=5)
    far = keypoints + 1e4 * np.arange(len(image))[:, None, None]
    assert sorted(suppress(image, far, scores, areas, SIGMAS)) == list(range(len(image)))
    twice = suppress(*(np.concatenate([v, v]) for v in (image, far, scores, areas)), SIGMAS)
    assert sorted(twice % len(image)) == list(range(len(image)))


def test_nobody() -> None:
    assert suppress(np.zeros(0, int), np.zeros((0, 17, 2)), np.zeros(0), np.zeros(0), SIGMAS).tolist() == []


def test_person_score_ignores_joints_below_the_threshold() -> None:
    joints = np.array([[0.9, 0.5, 0.1], [0.2, 0.1, 0.0], [0.8, 0.2, 0.2]])
    np.testing.assert_allclose(person_scores(joints, np.array([0.5, 0.5, 1.0]), 0.2), [0.35, 0.0, 0.8])
