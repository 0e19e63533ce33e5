"""PCK: the share of labelled joints that are predicted near their true place. It measures localisation alone; AP mixes it with ranking."""

from __future__ import annotations

import numpy as np

from components.evaluate.assignment import assign
from components.evaluate.matching import rows_of
from components.evaluate.predictions import Predictions
from components.pose.persons import Persons

NEAR = 0.5  # of the reference length
TORSO = ("left_shoulder", "right_hip")


def pck(persons: Persons, predictions: Predictions) -> dict[str, float]:
    """Share of labelled joints within half of the head's or the torso's size.

    `PCK_head` where the table has head sizes (PCKh@0.5 over all labelled joints; Andriluka et al. 2014, MPII Human Pose); else
    `PCK_torso`, whose length is from left shoulder to right hip, as in the PCK of FLIC (Sapp & Taskar 2013) and LSP. `PCK_head_left_out`
    or `PCK_torso_left_out` counts the persons that are left out because their head size, or one of these joints, is not
    annotated.

    A prediction belongs to the person whose box was cropped; without such boxes predictions and persons of an image are paired for
    the largest sum of OKS. The joints of a person without a prediction are not found.

    Args:
        persons: all rows of the split; the labelled ones count.
        predictions: in image px.
    Returns:
        The two numbers; nothing for a skeleton without these joints or where every person is left out.
    """
    name, near, counted, left_out = joints_near(persons, predictions)
    if not counted.any():
        return {}
    return {f"PCK_{name}": float(near.sum() / counted.sum()), f"PCK_{name}_left_out": float(left_out)}


def joints_near(persons: Persons, predictions: Predictions) -> tuple[str, np.ndarray, np.ndarray, int]:
    """Joint by joint, what `pck` counts.

    Returns:
        Which length serves, "head" or "torso"; (P, K) bool of the labelled persons: the joint is near its true place; the joint counts; and
        how many persons are left out.
    """
    labelled = persons.labelled()
    name, lengths = _lengths(labelled)
    known = np.isfinite(lengths) & (lengths > 0)
    joints, found = labelled.keypoints, own_joints(labelled, predictions)
    counted = (joints[..., 2] > 0) & known[:, None]
    distance = np.linalg.norm(found - joints[..., :2], axis=-1)
    near = distance <= NEAR * np.where(known, lengths, 0.0)[:, None]
    return name, near & counted, counted, int((~known).sum())


def _lengths(persons: Persons) -> tuple[str, np.ndarray]:
    """Which length serves, "head" or "torso", and (P,) lengths in image px; NaN where it is not annotated."""
    heads = persons.frame["head_size"].to_numpy(np.float64)
    names = persons.skeleton.keypoint_names
    if np.isfinite(heads).any() or not set(TORSO) <= set(names):
        return "head", heads
    first, second = (persons.keypoints[:, names.index(joint)] for joint in TORSO)
    both = (first[:, 2] > 0) & (second[:, 2] > 0)
    return "torso", np.where(both, np.linalg.norm(first[:, :2] - second[:, :2], axis=-1), np.nan)


def own_joints(persons: Persons, predictions: Predictions) -> np.ndarray:
    """(P, K, 2) the joints predicted for each person, image px; infinite without a prediction."""
    found = np.full((len(persons), len(persons.skeleton), 2), np.inf)
    if (predictions.annotation_id >= 0).all():
        own = rows_of(persons.frame["annotation_id"].to_numpy(), predictions.annotation_id)
        found[own[own >= 0]] = predictions.keypoints_image[own >= 0]
        return found
    _, rows = assign(persons, predictions)
    found[rows >= 0] = predictions.keypoints_image[rows[rows >= 0]]
    return found
