"""PCK at half the head or torso size, against a loop over persons and joints."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from components.evaluate.pck import pck
from components.evaluate.predictions import Predictions
from components.pose.persons import Persons
from components.pose.skeleton import COCO_17, Skeleton
from tests import evaluation_cases as cases


def people() -> Persons:
    return cases.persons_of(cases.random_coco(5, images=20))


def found_near(persons: Persons, seed: int = 0, noise: float = 0.25, own: bool = True) -> Predictions:
    """One prediction for most persons, of an error relative to the person's size, in any order."""
    rng = np.random.default_rng(seed)
    labelled = persons.labelled()
    rows = rng.permutation(len(labelled))[: int(0.9 * len(labelled))]
    scale = np.sqrt(labelled.frame["area"].to_numpy()[rows])[:, None, None] * noise
    keypoints = labelled.keypoints[rows, :, :2] + scale * rng.normal(0, 1, (len(rows), 17, 2))
    frame = labelled.frame
    annotation = frame["annotation_id"].to_numpy()[rows] if own else None
    return cases.predictions_of(frame["image_id"].to_numpy()[rows], keypoints, np.ones(len(rows)), annotation)


def by_hand(persons: Persons, predictions: Predictions, head: bool) -> tuple[float, int]:
    near = total = left_out = 0
    for row in range(len(persons)):
        frame, joints = persons.frame.iloc[row], persons.keypoints[row]
        if frame["iscrowd"] or frame["num_keypoints"] == 0:
            continue
        shoulder, hip = joints[5], joints[12]  # COCO's left shoulder and right hip
        length = frame["head_size"] if head else math.dist(shoulder[:2], hip[:2]) if shoulder[2] > 0 and hip[2] > 0 else math.nan
        if math.isnan(length):
            left_out += 1
            continue
        own = np.flatnonzero(predictions.annotation_id == frame["annotation_id"])
        for k in range(17):
            if joints[k, 2] > 0:
                total += 1
                near += len(own) > 0 and math.dist(predictions.keypoints_image[own[0], k], joints[k, :2]) <= length / 2
    return near / total, left_out


def test_half_the_torso() -> None:
    persons = people()
    predictions = found_near(persons)
    expected, left_out = by_hand(persons, predictions, head=False)
    assert pck(persons, predictions) == {"PCK_torso": pytest.approx(expected), "PCK_torso_left_out": left_out}
    assert 0.2 < expected < 0.8 and left_out > 3


def test_half_the_head_where_the_table_has_one() -> None:
    persons = people()
    sizes = 0.2 * persons.bbox_xywh[:, 3]
    sizes[::7] = np.nan
    persons.frame["head_size"] = sizes
    predictions = found_near(persons, noise=0.1)
    expected, left_out = by_hand(persons, predictions, head=True)
    assert pck(persons, predictions) == {"PCK_head": pytest.approx(expected), "PCK_head_left_out": left_out}
    assert 0.2 < expected < 0.8 and left_out > 3


def test_without_boxes_predictions_are_paired_with_persons() -> None:
    """Exact joints of everybody in any order; a person without a prediction counts as not found."""
    persons = people()
    exact = found_near(persons, noise=0.0, own=False)
    known = found_near(persons, noise=0.0)
    assert pck(persons, exact) == pytest.approx(pck(persons, known))
    assert 0.8 < pck(persons, exact)["PCK_torso"] < 1
    nobody = exact.select(np.zeros(len(exact), bool))
    assert pck(persons, nobody)["PCK_torso"] == 0


def test_a_skeleton_without_torso_or_head_has_no_pck() -> None:
    persons = people()
    names = tuple(f"joint_{name}" for name in COCO_17.keypoint_names)
    other = replace(persons, skeleton=Skeleton("joints_17", names, COCO_17.sigmas))
    assert pck(other, found_near(persons)) == {}
    assert pck(persons.select(np.zeros(len(persons), bool)), found_near(persons)) == {}
