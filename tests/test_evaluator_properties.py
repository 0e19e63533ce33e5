"""The evaluator on generated scenes: equal to pycocotools, and what must hold of any average precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.evaluate import oks
from components.evaluate.predictions import Predictions
from tests import evaluation_cases as cases

QUICK = settings(max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
JOINTS = 17

Scene = tuple[dict[str, Any], Predictions, np.ndarray]

person = st.fixed_dictionaries(
    {
        "image": st.integers(1, 4),
        "corner": st.tuples(st.integers(0, 200), st.integers(0, 200)),
        "height": st.sampled_from([8, 31, 32, 33, 64, 95, 96, 97, 200]),  # on and beside the edges of COCO's area ranges
        "seed": st.integers(0, 5),
        "labelled": st.sampled_from([0, 1, 5, JOINTS]),
        "crowd": st.booleans(),
    }
)
detection = st.fixed_dictionaries(
    {
        "image": st.integers(1, 5),  # one image more than there are persons on
        "person": st.integers(0, 7),
        "error": st.sampled_from([0.0, 0.02, 0.1, 0.3, 3.0]),  # of the person's height
        "score": st.sampled_from([0.1, 0.5, 0.5000001, 0.9]),  # few, so that ties are common
        "seed": st.integers(0, 5),
    }
)


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """Few persons and detections on few images, with ties, crowds, empty images and persons without labelled joints."""
    drawn = draw(st.lists(person, min_size=1, max_size=8))
    annotations = [_annotation(number, each) for number, each in enumerate(drawn, 1)]
    coco = cases.coco_of([{"id": i, "width": 640, "height": 480} for i in range(1, 6)], annotations)
    found = draw(st.lists(detection, min_size=1, max_size=25))
    keypoints = np.stack([_keypoints(annotations, each) for each in found])
    scores = np.array([each["score"] for each in found])
    return coco, cases.predictions_of(np.array([each["image"] for each in found]), keypoints, scores), scores


def _annotation(number: int, drawn: dict[str, Any]) -> dict[str, Any]:
    height, rng = drawn["height"], np.random.default_rng(drawn["seed"])
    xy = np.array(drawn["corner"]) + rng.uniform(0, 1, (JOINTS, 2)) * [height / 2, height]
    visibility = np.where(np.arange(JOINTS) < drawn["labelled"], 2, 0)
    joints = np.concatenate([xy * (visibility[:, None] > 0), visibility[:, None]], 1)
    return {
        "id": number, "image_id": drawn["image"], "category_id": 1, "bbox": [*map(float, drawn["corner"]), height / 2, float(height)],
        "area": float(height * height), "iscrowd": int(drawn["crowd"]), "keypoints": joints.ravel().tolist(),
        "num_keypoints": int(drawn["labelled"]),
    }  # fmt: skip


def _keypoints(annotations: list[dict[str, Any]], drawn: dict[str, Any]) -> np.ndarray:
    near = annotations[drawn["person"] % len(annotations)]
    joints = np.array(near["keypoints"]).reshape(JOINTS, 3)[:, :2]
    return joints + drawn["error"] * near["bbox"][3] * np.random.default_rng(drawn["seed"]).normal(0, 1, (JOINTS, 2))


def numbers(scene: Scene) -> dict[str, float]:
    coco, predictions, scores = scene
    return oks.evaluate(cases.persons_of(coco), predictions, scores, cases.image_ids_of(coco))


@QUICK
@given(scenes())
def test_equal_to_pycocotools(scene: Scene) -> None:
    coco, predictions, scores = scene
    assert numbers(scene) == pytest.approx(cases.oracle(coco, cases.records_of(predictions, scores)), abs=1e-9)


@QUICK
@given(scenes())
def test_ranges_and_order_of_the_numbers(scene: Scene) -> None:
    found = numbers(scene)
    assert all(value == -1 or 0 <= value <= 1 for value in found.values())
    assert found["AP50"] >= found["AP"] and found["AP50"] >= found["AP75"] and found["AR50"] >= found["AR"]
    assert found["AR"] == -1 or found["AP"] <= found["AR50"]


@QUICK
@given(scenes())
def test_only_the_order_of_the_scores_counts(scene: Scene) -> None:
    coco, predictions, scores = scene
    assert numbers((coco, predictions, np.exp(3 * scores))) == numbers(scene)


@QUICK
@given(scenes(), st.randoms(use_true_random=False))
def test_the_order_of_distinct_scores_in_the_file_does_not_count(scene: Scene, random: Any) -> None:
    coco, predictions, scores = scene
    scores = scores + 1e-9 * np.arange(len(scores))
    order = np.array(random.sample(range(len(scores)), len(scores)))
    assert numbers((coco, predictions.select(order), scores[order])) == pytest.approx(numbers((coco, predictions, scores)), abs=1e-12)


@QUICK
@given(scenes())
def test_a_worse_detection_below_all_others_never_helps_precision_nor_hurts_recall(scene: Scene) -> None:
    coco, predictions, scores = scene
    far = predictions.select(np.append(np.arange(len(predictions)), 0))
    far.keypoints_image[-1] += 1e5
    more = numbers((coco, far, np.append(scores, scores.min() - 1)))
    before = numbers(scene)
    if np.bincount(predictions.image_id).max() < oks.MAX_DETECTIONS:
        assert all(more[name] == pytest.approx(before[name], abs=1e-12) for name in oks.NAMES), "a false alarm ranked last changes nothing"


@QUICK
@given(scenes())
def test_the_truth_scores_one(scene: Scene) -> None:
    coco = scene[0]
    persons = cases.persons_of(coco)
    truth, ones = cases.truth_as_predictions(persons)
    values = oks.evaluate(persons, truth, ones, cases.image_ids_of(coco))
    assert values["AP"] == -1 or values["AP"] == pytest.approx(1)
    assert values["AR50"] in (-1, 1)
