"""The array evaluator against pycocotools."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.base.errors import FarposeError
from components.evaluate import oks
from tests import evaluation_cases as cases


def assert_equal_to_pycocotools(coco: dict[str, Any], predictions: Any, scores: np.ndarray, image_ids: np.ndarray | None = None) -> None:
    images = cases.image_ids_of(coco) if image_ids is None else image_ids
    ours = oks.evaluate(cases.persons_of(coco), predictions, scores, images)
    assert ours == pytest.approx(cases.oracle(coco, cases.records_of(predictions, scores), image_ids), abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("levels", [None, 4], ids=["distinct scores", "tied scores"])
def test_random_scenes(seed: int, levels: int | None) -> None:
    coco = cases.random_coco(seed)
    assert_equal_to_pycocotools(coco, *cases.noisy_predictions(coco, seed + 100, levels=levels))


@pytest.mark.parametrize("size", [(5, 25), (45, 120), (150, 400)], ids=["no medium", "medium", "large only"])
def test_area_ranges_may_be_empty(size: tuple[float, float]) -> None:
    coco = cases.random_coco(7, sizes=size)
    assert_equal_to_pycocotools(coco, *cases.noisy_predictions(coco, 8))


def test_only_the_best_twenty_detections_of_an_image_count() -> None:
    coco = cases.random_coco(3, images=4)
    predictions, scores = cases.noisy_predictions(coco, 4, per_person=12, levels=7)
    assert np.bincount(predictions.image_id).max() > oks.MAX_DETECTIONS
    assert_equal_to_pycocotools(coco, predictions, scores)


def test_one_joint_persons_and_exact_copies_tie() -> None:
    coco = cases.random_coco(11, images=10)
    for annotation in coco["annotations"][::2]:
        joints = np.array(annotation["keypoints"]).reshape(17, 3)
        joints[:, 2] = np.arange(17) == 5
        annotation |= {"keypoints": joints.ravel().tolist(), "num_keypoints": 1}
    twins = [copy.deepcopy(a) | {"id": a["id"] + 1000} for a in coco["annotations"]]
    coco["annotations"] += twins
    assert_equal_to_pycocotools(coco, *cases.noisy_predictions(coco, 12, per_person=3, noise=0.0, levels=2))


def test_images_without_persons_and_without_detections() -> None:
    coco = cases.random_coco(5, images=12)
    coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] % 3]
    predictions, scores = cases.noisy_predictions(coco, 6)
    kept = predictions.image_id % 4 != 1
    assert set(range(1, 13)) - set(predictions.image_id[kept].tolist())
    assert_equal_to_pycocotools(coco, predictions.select(kept), scores[kept])


def test_a_subset_of_the_images() -> None:
    coco = cases.random_coco(21)
    assert_equal_to_pycocotools(coco, *cases.noisy_predictions(coco, 22), image_ids=np.array([9, 3, 17, 4]))


def test_no_detections_score_zero_and_no_persons_minus_one() -> None:
    coco = cases.random_coco(1)
    predictions, scores = cases.noisy_predictions(coco, 2)
    none = oks.evaluate(cases.persons_of(coco), predictions.select(np.zeros(0, int)), np.zeros(0))
    assert none == dict.fromkeys(oks.NAMES, 0.0)
    nobody = oks.evaluate(cases.persons_of(cases.coco_of(coco["images"], [])), predictions, scores, cases.image_ids_of(coco))
    assert nobody == dict.fromkeys(oks.NAMES, -1.0)


def test_order_of_files_does_not_matter_without_ties() -> None:
    coco = cases.random_coco(31)
    predictions, scores = cases.noisy_predictions(coco, 32)
    order = np.random.default_rng(0).permutation(len(scores))
    persons = cases.persons_of(coco)
    shuffled = persons.select(np.random.default_rng(1).permutation(len(persons)))
    images = cases.image_ids_of(coco)
    assert oks.evaluate(persons, predictions, scores, images) == pytest.approx(
        oks.evaluate(shuffled, predictions.select(order), scores[order], images), abs=1e-12
    )


def test_weights_count_an_image_several_times() -> None:
    coco = cases.random_coco(41, images=12)
    predictions, scores = cases.noisy_predictions(coco, 42)
    scores = scores + np.random.default_rng(0).uniform(0, 1e-6, len(scores))
    weights = np.random.default_rng(2).integers(0, 4, 12)
    persons = cases.persons_of(coco)
    matches = oks.match(persons, predictions, scores, np.arange(1, 13))
    weighted = [oks.accumulate(matches, i, weights[None])[0].mean() for i in range(3)]

    copies = [(i, c) for i, w in zip(range(1, 13), weights, strict=True) for c in range(w)]
    rows = [np.flatnonzero(persons.frame["image_id"] == i) for i, _ in copies]
    repeated = persons.select(np.concatenate(rows))
    repeated.frame["image_id"] = np.concatenate([np.full(len(r), i + 100 * c) for r, (i, c) in zip(rows, copies, strict=True)])
    found = [np.flatnonzero(predictions.image_id == i) for i, _ in copies]
    again = predictions.select(np.concatenate(found))
    again.image_id[:] = np.concatenate([np.full(len(r), i + 100 * c) for r, (i, c) in zip(found, copies, strict=True)])
    direct = oks.evaluate(repeated, again, scores[np.concatenate(found)], np.array([i + 100 * c for i, c in copies]))
    assert weighted == pytest.approx([direct["AP"], direct["AP_M"], direct["AP_L"]], abs=1e-12)


def test_reduced_images_keep_the_area_ranges_of_the_originals() -> None:
    coco = cases.random_coco(51)
    predictions, scores = cases.noisy_predictions(coco, 52)
    persons = cases.persons_of(coco)
    small = persons.select(np.arange(len(persons)))
    small.frame["area_range_px2"] = small.frame["area"]
    small.frame["area"] /= 16
    small.keypoints[..., :2] /= 4
    small.bbox_xywh[:] /= 4
    reduced = predictions.select(np.arange(len(predictions)))
    reduced.keypoints_image[:] /= 4
    occupied = np.unique(persons.frame["image_id"])  # an image without persons has no known reduction
    expected = oks.evaluate(persons, predictions, scores, occupied)
    assert oks.evaluate(small, reduced, scores, occupied) == pytest.approx(expected, abs=1e-9)


def test_bad_predictions_are_named() -> None:
    coco = cases.random_coco(1)
    predictions, scores = cases.noisy_predictions(coco, 2)
    with pytest.raises(FarposeError, match="not finite"):
        oks.evaluate(cases.persons_of(coco), predictions, np.where(np.arange(len(scores)) == 3, np.nan, scores))
    other = cases.predictions_of(np.ones(2), np.zeros((2, 14, 2)), np.ones(2))
    with pytest.raises(FarposeError, match="14 joints"):
        oks.evaluate(cases.persons_of(coco), other, np.ones(2))


@pytest.mark.parametrize(
    "file", ["coco/annotations/person_keypoints_val2017.json", "annotations/coco_person_keypoints_val2017_official_first_fifth.json.gz"]
)
@pytest.mark.parametrize("levels", [None, 10])
def test_real_annotations(real_data: Path, file: str, levels: int | None) -> None:
    coco = cases.read_coco(real_data / file)
    kept = set(cases.image_ids_of(coco)[:250].tolist())
    coco["images"] = [image for image in coco["images"] if image["id"] in kept]
    coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] in kept]
    assert_equal_to_pycocotools(coco, *cases.noisy_predictions(coco, 5, levels=levels))
