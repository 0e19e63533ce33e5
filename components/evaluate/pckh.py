"""PCKh, MPII's number (Andriluka et al. 2014): the share of labelled joints within a part of the head's size, by joint and over 14 joints.

The mean leaves out pelvis and thorax and weighs joints by how often they are labelled, as the authors' evaluation does. HRNet's code
prints as "Mean@0.1" what is PCKh at 0.11; published tables took that over. Here `PCKh_10` is at 0.10, and `PCKh_11_legacy` is theirs.
"""

from __future__ import annotations

import numpy as np

from components.base.errors import FarposeError
from components.evaluate.matching import rows_of
from components.evaluate.pck import own_joints
from components.evaluate.predictions import Predictions
from components.evaluate.resampling import Shares
from components.pose.persons import Persons

LEFT_OUT = ("pelvis", "thorax")  # of the mean
THRESHOLDS = {"50": 0.5, "10": 0.1, "11_legacy": 0.11}  # of the head's size
SIDED = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")


def pckh_numbers(persons: Persons, predictions: Predictions) -> dict[str, float]:
    """`PCKh_50`, `PCKh_10`, `PCKh_11_legacy` over the joints of the mean; `PCKh_50_<joint>`; `PCKh_left_out`, persons without a head size.

    A group of two joints, such as the shoulders, is the plain mean of left and right, as published. A person without a prediction counts as
    not found. Predictions belong to persons as in `pck`.

    Args:
        persons: all rows of the split; the labelled ones count.
        predictions: in image px.
    Returns:
        Fractions of 1.
    Raises:
        FarposeError: a head size is zero, negative or infinite, or no labelled person has one.
    """
    kept, distance, seen, mean, left_out = _measured(persons, predictions)
    names = kept.skeleton.keypoint_names
    numbers = {f"PCKh_{name}": _share(distance <= limit, mean) for name, limit in THRESHOLDS.items()}
    near = distance <= THRESHOLDS["50"]
    for group, joints in _groups(names).items():
        shares = [_share(near[:, joint], seen[:, joint]) for joint in joints]
        numbers[f"PCKh_50_{group}"] = float(np.mean(shares))
    kept_numbers = {name: value for name, value in numbers.items() if np.isfinite(value)}
    return kept_numbers | {"PCKh_left_out": float(left_out)}


def pckh_joints(persons: Persons, predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Joint by joint, what `PCKh_50` counts, so that parts of the persons can be looked at.

    Returns:
        (P, K) bool of the labelled persons: the joint is near its true place; the joint counts. Of a person without a head size none does.
    """
    labelled = persons.labelled()
    sizes = labelled.frame["head_size"].to_numpy(np.float64)
    near, counted = np.zeros((2, len(labelled), len(labelled.skeleton)), bool)
    if (known := ~np.isnan(sizes)).any():
        _, distance, _, mean, _ = _measured(labelled, predictions)
        near[known], counted[known] = (distance <= THRESHOLDS["50"]) & mean, mean
    return near, counted


def pckh_shares(persons: Persons, predictions: Predictions, image_ids: np.ndarray) -> Shares:
    """What `PCKh_50` is made of, per image. Arguments and errors as in `pckh_numbers`.

    Args:
        image_ids: (I,) every image of the split.
    """
    kept, distance, _, mean, _ = _measured(persons, predictions)
    images = np.unique(image_ids)
    place = rows_of(images, kept.frame["image_id"].to_numpy())
    near, there = (distance <= THRESHOLDS["50"]) & mean, place >= 0
    counts = [np.bincount(place[there], joints[there].sum(1), len(images)).astype(np.int64) for joints in (near, mean)]
    return Shares(images, *counts)


def _measured(persons: Persons, predictions: Predictions) -> tuple[Persons, np.ndarray, np.ndarray, np.ndarray, int]:
    """
    Returns:
        The P labelled persons with a head size; (P, K) distances in head sizes; (P, K) bool: the joint is labelled; it belongs to the
        mean; how many labelled persons are left out.
    Raises:
        FarposeError: see `pckh_numbers`.
    """
    labelled = persons.labelled()
    sizes = _head_sizes(labelled)
    known = ~np.isnan(sizes)
    kept = labelled.select(known)
    seen = kept.keypoints[..., 2] > 0
    distance = np.linalg.norm(own_joints(kept, predictions) - kept.keypoints[..., :2], axis=-1) / sizes[known, None]
    return kept, distance, seen, seen & ~np.isin(kept.skeleton.keypoint_names, LEFT_OUT), int((~known).sum())


def check_pckh(persons: Persons) -> None:
    """Raises what `pckh_numbers` does."""
    _head_sizes(persons.labelled())


def _head_sizes(labelled: Persons) -> np.ndarray:
    """(P,) px of the image, NaN where it is not known. Raises what `pckh_numbers` does."""
    sizes = labelled.frame["head_size"].to_numpy(np.float64)
    wrong = ~np.isnan(sizes) & ~((sizes > 0) & np.isfinite(sizes))
    if wrong.any():
        row = labelled.frame[wrong].iloc[0]
        problem = f"the head of annotation {row['annotation_id']} ({row['image_path']}) has the size {row['head_size']:g} px"
        raise FarposeError(problem, where="persons table", fix="give its size in px, or leave it out")
    if np.isnan(sizes).all():
        problem = f"the evaluator 'pckh' needs head sizes, none of {len(labelled)} labelled persons has one"
        raise FarposeError(problem, where="persons table", fix="name another evaluator for this data set in params/data.yaml")
    return sizes


def _groups(names: tuple[str, ...]) -> dict[str, list[int]]:
    """The rows of the published tables → their joints."""
    groups = {"head": ["head_top"], **{name: [f"left_{name}", f"right_{name}"] for name in SIDED}}
    return {group: [names.index(joint) for joint in joints] for group, joints in groups.items() if set(joints) <= set(names)}


def _share(near: np.ndarray, counted: np.ndarray) -> float:
    """Share of the counted joints that are near; NaN where none is counted."""
    return float((near & counted).sum() / counted.sum()) if counted.any() else float("nan")
