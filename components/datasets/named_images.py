"""Annotations that name images by file alone, without ids or sizes (MPII, LSP) → COCO's entries."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from components.base.errors import FarposeError
from components.datasets.image_size import image_size
from components.datasets.records import Records

PERSONS_PER_IMAGE = 100  # annotation ids are this times the image's id plus the person's number in its image


def coco_value(
    records: Records, names: Sequence[str], folder: Path, annotations: Sequence[dict[str, Any]], keypoint_names: Sequence[str]
) -> dict[str, Any]:
    """COCO's mapping of one person per record.

    An image's id is the number in its file name, so ids are unique over splits and do not depend on the file's order. Its size is read
    from the file; an image without a file is as large as its annotations need, which serves annotations without images only.

    Args:
        records: named in errors.
        names: (N,) file name of each record's image.
        folder: of the images.
        annotations: (N,) each with `bbox`, `area` and `keypoints`, px counted from 0.
    Raises:
        FarposeError: a file name without a number, two names of one number, or more than `PERSONS_PER_IMAGE` persons on an image.
    """
    numbers: dict[str, int] = {}
    owner: dict[int, str] = {}
    for row, name in enumerate(names):
        if name in numbers:
            continue
        digits = re.findall(r"\d+", PurePosixPath(name).stem)
        if not digits:
            raise records.error(row, f"the image's name {name!r} has no number, which is its id", "name images by number")
        numbers[name] = int(digits[-1])
        other = owner.setdefault(numbers[name], name)
        if other != name:
            raise records.error(row, f"the images {other!r} and {name!r} have the same number, which is their id", "give each its own")
    corners: dict[str, np.ndarray] = {}
    persons, counts = [], dict.fromkeys(numbers, 0)
    for row, (name, annotation) in enumerate(zip(names, annotations, strict=True)):
        corners[name] = np.maximum(corners.get(name, np.ones(2)), _corner(annotation))
        if counts[name] == PERSONS_PER_IMAGE:
            raise records.error(row, f"more than {PERSONS_PER_IMAGE} persons on {name!r}")
        ids = {"id": numbers[name] * PERSONS_PER_IMAGE + counts[name], "image_id": numbers[name], "category_id": 1, "iscrowd": 0}
        flags = annotation["keypoints"][2::3]
        persons.append({**ids, "num_keypoints": sum(flag > 0 for flag in flags), **annotation})
        counts[name] += 1
    images = []
    for name, number in numbers.items():
        width, height = image_size(folder / name) or tuple(np.ceil(corners[name]).astype(int).tolist())
        images.append({"id": number, "file_name": name, "width": width, "height": height})
    categories = [{"id": 1, "name": "person", "keypoints": list(keypoint_names)}]
    return {"images": images, "annotations": persons, "categories": categories}


def _corner(annotation: dict[str, Any]) -> np.ndarray:
    """(2,) right and lower end of the labelled joints and of the box's centre, px."""
    joints = np.array(annotation["keypoints"], np.float64).reshape(-1, 3)
    left, top, width, height = annotation["bbox"]
    ends = np.concatenate([joints[joints[:, 2] > 0, :2], [[left + width / 2, top + height / 2]]])
    return np.asarray(ends.max(0) + 1)


def require_joints(name: str, keypoint_names: tuple[str, ...], expected: tuple[str, ...], form: str) -> None:
    """Refuse an entry with other joints than its form has.

    Raises:
        FarposeError: names the entry.
    """
    if keypoint_names != expected:
        problem = f"the format {form} has the joints {list(expected)}, the entry's skeleton others"
        raise FarposeError(problem, where=f"params/data.yaml: data.sources.{name}", fix="correct its `skeleton`")
