"""MPII's published file, `mpii_human_pose_v1_u12_1.mat` → persons as in SimpleBaseline's JSON lists."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from components.base.errors import FarposeError
from components.datasets.matlab import load_matlab
from components.datasets.params import TRAIN
from components.datasets.records import DAMAGED
from components.pose.skeleton import MPII_16

JOINTS = len(MPII_16)
HEAD_OF_DIAGONAL = 0.6
NOBODY = -1.0  # coordinates of a joint that is not labelled


def released_persons(path: Path, split: str) -> list[dict[str, Any]]:
    """Persons with labelled joints on images that the release marks as training images; joints of the test images are not published.

    The release has no validation split. A text file `<split>_images.txt` beside it, one image name a line, chooses the split's images;
    without one all images belong to "train", of which `data.splits.dev` takes its share.

    Returns:
        One mapping per person: `image`, `center`, `scale`, `joints`, `joints_vis`, `headsize`, px counted from 1.
    Raises:
        FarposeError: not the release's form, or a split without a list of images.
    """
    release = load_matlab(path, "RELEASE")
    chosen = _chosen(path, split)
    try:
        images, training = np.atleast_1d(release.annolist), np.atleast_1d(release.img_train)
        persons = [
            person
            for image, used in zip(images, training, strict=True)
            if used and (chosen is None or str(image.image.name) in chosen)
            for person in _of_image(image)
        ]
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        raise FarposeError(f"not the form of MPII's release: {error}", where=path, fix=DAMAGED) from error
    return persons


def _chosen(path: Path, split: str) -> set[str] | None:
    listed = path.with_name(f"{split}_images.txt")
    if listed.is_file():
        return {line.strip() for line in listed.read_text().splitlines() if line.strip()}
    if split != TRAIN:
        fix = f"write one image name a line into {listed.name} beside it, or use SimpleBaseline's JSON files"
        raise FarposeError(f"the release has no split {split!r}", where=path, fix=fix)
    return None


def _of_image(image: Any) -> Iterator[dict[str, Any]]:
    for person in np.atleast_1d(image.annorect):
        points: Any = getattr(getattr(person, "annopoints", None), "point", None)
        scale: Any = getattr(person, "scale", ())
        center: Any = getattr(person, "objpos", None)
        if points is None or not np.size(scale) or not hasattr(center, "x"):
            continue
        joints, seen = np.full((JOINTS, 2), NOBODY), np.zeros(JOINTS, int)
        for point in np.atleast_1d(points):
            joints[int(point.id)], seen[int(point.id)] = (float(point.x), float(point.y)), 1
        found = {"image": str(image.image.name), "center": [float(center.x), float(center.y)], "scale": float(scale)}
        found |= {"joints": joints.tolist(), "joints_vis": seen.tolist()}
        corners: list[Any] = [getattr(person, side, ()) for side in ("x1", "y1", "x2", "y2")]
        if all(np.size(corner) == 1 for corner in corners):
            x1, y1, x2, y2 = map(float, corners)
            found["headsize"] = HEAD_OF_DIAGONAL * math.hypot(x2 - x1, y2 - y1)
        yield found
