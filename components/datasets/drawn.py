"""What people draw in labelling tools, boxes and named joints → COCO's entries."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from components.base.errors import FarposeError
from components.datasets.categories import spellings
from components.pose.people import compact, is_people
from components.pose.skeleton import Skeleton

PERSONS_PER_IMAGE = 1000  # annotation ids are this times the image's id plus the object's number in its image
HIDDEN, VISIBLE = 1.0, 2.0

Joint = tuple[float, float, float]  # x, y in px of the image, `HIDDEN` or `VISIBLE`


@dataclass(frozen=True)
class Drawn:
    """One object of an image.

    Attributes:
        label: its class.
        where: names it in errors.
        joints: by their names in the file; those that are missing are not labelled.
        bbox_xywh: px of the image; None: nobody drew one.
    """

    image_id: int
    label: str
    where: str
    joints: Mapping[str, Joint] = field(default_factory=dict)
    bbox_xywh: tuple[float, float, float, float] | None = None


def coco_of(
    images: Sequence[dict[str, Any]],
    objects: Iterable[Drawn],
    skeleton: Skeleton,
    file_joints: Sequence[str] | None,
    declared: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """COCO's mapping. Each class is a category, numbered from 1 in the order of their names.

    A category has the skeleton's joints if all names of joints that its objects use, or that the file declares for it, are the skeleton's,
    however they are written; or else the names as they are, so that it is none of persons (`categories.person_ids`).

    Args:
        images: COCO's entries.
        file_joints: the entry's `file_joints`.
        declared: the classes that the file lists, each with the joints of its skeleton in any order, if it has one.
    Raises:
        FarposeError: one joint twice in an object, by two spellings.
    """
    objects = list(objects)
    own = list(file_joints or skeleton.keypoint_names)
    index = {spelling: k for k, name in enumerate(own) for spelling in spellings(name)}
    listed: dict[str, list[str]] = {label: list(names) for label, names in (declared or {}).items() if names}
    used: dict[str, dict[str, None]] = {label: {} for label in sorted({item.label for item in objects} | {*(declared or ())})}
    for item in objects:
        used[item.label] |= dict.fromkeys(item.joints)
    fits = {}
    for label, names in used.items():
        found = [index.get(compact(name)) for name in listed.get(label, names)]
        whole = sorted(k for k in found if k is not None) == list(range(len(own))) or label not in listed
        fits[label] = bool(found) and None not in found and whole
    if not any(fits.values()):  # nobody drew a joint: persons are there, but not labelled
        fits |= {label: True for label, names in used.items() if is_people(label) and not names and label not in listed}
    ids = {label: number for number, label in enumerate(used, start=1)}
    names_of = {label: own if fits[label] else listed.get(label, list(names)) for label, names in used.items()}
    categories = [{"id": ids[label], "name": label, "keypoints": names} for label, names in names_of.items()]
    counts: dict[int, int] = {}
    annotations = []
    for item in objects:
        counts[item.image_id] = counts.get(item.image_id, 0) + 1
        entry: dict[str, Any] = {"id": item.image_id * PERSONS_PER_IMAGE + counts[item.image_id], "image_id": item.image_id}
        entry |= {"category_id": ids[item.label]}
        if fits[item.label]:
            entry["keypoints"] = _row(item, index, len(own))
        if item.bbox_xywh is not None:
            entry["bbox"] = list(item.bbox_xywh)
        annotations.append(entry)
    return {"images": list(images), "annotations": annotations, "categories": categories}


def _row(item: Drawn, index: Mapping[str, int], joints: int) -> list[float]:
    row = [0.0] * (3 * joints)
    for name, joint in item.joints.items():
        at = 3 * index[compact(name)]
        if row[at + 2]:
            raise FarposeError(f"the joint {name!r} is there twice", where=item.where, fix="remove one")
        row[at : at + 3] = joint
    return row


def path_id(path: str) -> int:
    """An image's id, where the files state none: 40 bits of its path's SHA-256, so that it stays when others are added."""
    return int.from_bytes(hashlib.sha256(str(PurePosixPath(path)).encode()).digest()[:5], "big")


def upright_box(
    left: float, top: float, width: float, height: float, degrees: float, about_center: bool
) -> tuple[float, float, float, float]:
    """The upright box around one that is turned clockwise.

    Args:
        degrees: of the turn.
        about_center: the turn is about the box's centre, not about its left upper corner.
    """
    if not degrees % 360:
        return left, top, width, height
    angle = math.radians(degrees)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])  # clockwise, as y points downwards
    pivot = np.array([left + width / 2, top + height / 2] if about_center else [left, top])
    corners = np.array([[left, top], [left + width, top], [left, top + height], [left + width, top + height]])
    places = (corners - pivot) @ turn.T + pivot
    low, high = places.min(0), places.max(0)
    return float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])
