"""Fields that some tools leave out of annotations, and the rules by which they are derived. Each derived value is counted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from components.datasets.records import Records

# COCO's persons cover a median of 0.535 of their box, and a mean of 0.525 (1354 persons of val2017); CrowdPose's authors use 0.53.
AREA_OF_BOX = 0.53
AROUND = 0.15  # share of the joints' box that a person's box is larger on every side, as for LSP
RULES = {
    "bbox": f"{AROUND:.0%} around the labelled joints",
    "area": f"{AREA_OF_BOX} of the box's area",
    "iscrowd": "0, a single person",
    "num_keypoints": "the number of joints with a visibility above 0",
}


def with_derived(annotations: Records, counted: np.ndarray, keys: Iterable[str] = RULES) -> tuple[Records, dict[str, np.ndarray]]:
    """The annotations with every one of the `keys` of `RULES`, and by key the (N,) bool mask of derived values.

    Args:
        annotations: of persons; values that are there stay as they are.
        keys: those that are derived.
        counted: (K,) bool, joints that count in `num_keypoints`.
    """
    missing = {key: np.array([key not in item for item in annotations], dtype=bool) for key in keys}
    derived = {key: rows for key, rows in missing.items() if rows.any()}
    if not derived:
        return annotations, {}
    items = [dict(item) for item in annotations]
    for key, rows in derived.items():
        of = Records(annotations.file, annotations.kind, [items[row] for row in np.flatnonzero(rows)])
        for row, value in zip(np.flatnonzero(rows).tolist(), _values(key, of, counted), strict=True):
            items[row][key] = value
    return Records(annotations.file, annotations.kind, items), derived


def box_around(joints: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """(N, 4) boxes around the labelled joints, `AROUND` larger on every side.

    Args:
        joints: (N, K, 2) px.
        labelled: (N, K) bool, at least one per person.
    """
    low = np.where(labelled[..., None], joints, np.inf).min(1)
    extent = np.maximum(np.where(labelled[..., None], joints, -np.inf).max(1) - low, 1.0)  # px; a single joint
    return np.hstack([low - AROUND * extent, (1 + 2 * AROUND) * extent])


def _values(key: str, annotations: Records, counted: np.ndarray) -> list[Any]:
    if key == "bbox":
        joints = annotations.matrix("keypoints", 3 * len(counted), "each joint x, y, visibility").reshape(len(annotations), -1, 3)
        labelled = joints[..., 2] > 0
        fix = "draw a box around the person, or leave it out"
        annotations.refuse(np.asarray(~labelled.any(1)), lambda i: "it has neither a 'bbox' nor labelled joints", fix)
        return box_around(joints[..., :2], labelled).tolist()
    if key == "area":
        sides = annotations.matrix("bbox", 4, "left, top, width, height")[:, 2:]
        return (AREA_OF_BOX * np.maximum(sides, 0).prod(axis=1)).tolist()
    if key == "num_keypoints":
        flags = annotations.matrix("keypoints", 3 * len(counted), "each joint x, y, visibility")[:, 2::3]
        return [int(number) for number in (flags > 0)[:, counted].sum(axis=1)]
    return [0] * len(annotations)
