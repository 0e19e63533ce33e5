"""Persons' boxes of a detector's or an annotation file, read strictly: for `evaluate` (detector boxes) and for `predict --boxes`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np

from components.base.errors import FarposeError
from components.base.files import read_json
from components.pose.people import is_people
from components.pose.persons import COCO_PERSON

CLASS_KEYS = ("category_name", "class_name", "category", "class", "label", "name")  # of a record's class, where it has a name
HUGE = 10.0  # sides of the image that a box's side may have
LISTED = 3
EXPECTED = OTHER_IMAGE, OTHER_CLASS, CROWD = "on other images", "of other classes", "crowd regions"  # reasons to leave a box out
NO_AREA, OUTSIDE = "without an area", "outside their image"
FORM = "give a COCO annotation file, or a list of detections, each with image_id, bbox (left, top, width, height) and score"

Size = tuple[float, float]  # width, height, px


@dataclass(frozen=True)
class PersonBoxes:
    """N boxes of persons.

    Attributes:
        image_id: (N,) int64 of the caller's images.
        bbox_xywh: (N, 4) float64, px of the image; each has an area, part of which is in the image.
        scores: (N,) float64; 1 where the file has none.
        category_id: of persons in the file.
        left_out: by reason the number of records that are not among them.
        notes: what was taken for what and what was left out, in words.
    """

    image_id: np.ndarray
    bbox_xywh: np.ndarray
    scores: np.ndarray
    category_id: int
    left_out: Mapping[str, int]
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.image_id)


def boxes_of_images(path: Path, sizes: Mapping[int, Size | None], category_id: int = COCO_PERSON) -> PersonBoxes:
    """A detector's boxes for a data set's images, by image id. Boxes of other images are left out, and counted.

    Args:
        sizes: of the images that are used, px; None where unknown.
        category_id: of persons in the data set.
    Raises:
        FarposeError: another kind of file, a record that is malformed, a box that is not finite, negative or huge (names the record),
            no class that is plainly persons, or no box of these images.
    """
    records, names, _ = _contents(path, scored=True)

    def pick(record: dict[str, Any], where: str) -> int | None:
        number = _integer(record, where)
        return number if number in sizes else None

    found = _persons(path, records, names, pick, sizes, category_id)
    if records and not {record["image_id"] for record in records} & sizes.keys():
        problem = f"no box is on one of these images: its {len(records):,} boxes are on others than these {len(sizes):,}"
        raise FarposeError(problem, where=path, fix="give the detections of the same images")
    return found


def boxes_of_files(path: Path, files: Mapping[int, Path], sizes: Mapping[int, Size | None]) -> PersonBoxes:
    """Boxes for a user's image files: by file name where the file has names, or else by the images' numbers.

    A name means the file with the same full path, or with the longest common end of it; a base name alone must be the only one.

    Args:
        files: by number.
        sizes: of the upright images by number, px.
    Raises:
        FarposeError: see `boxes_of_images`; or a name means several files.
    """
    records, names, file_of = _contents(path, scored=False)
    named = {image: name for image, name in file_of.items() if isinstance(name, str)}
    own = {record.get("file_name", record["image_id"]) for record in records if isinstance(record["image_id"], int | str)}
    number_of = _numbers_of(path, {*named.values(), *(name for name in own if isinstance(name, str))}, files)

    def pick(record: dict[str, Any], where: str) -> int | None:
        number = record["image_id"]
        name = record.get("file_name", named.get(number) if isinstance(number, int) else number)
        if isinstance(name, str):
            return number_of.get(name)
        number = _integer(record, where)
        return number if number in files and not file_of else None

    return _persons(path, records, names, pick, sizes, COCO_PERSON)


def _contents(path: Path, scored: bool) -> tuple[list[dict[str, Any]], dict[int, str], dict[Any, Any]]:
    """The records with a box each, the categories' names, and the images' file names by id."""
    value = read_json(path)
    names, files = {}, {}
    if isinstance(value, dict) and "images" not in value:
        raise FarposeError("expected a list of COCO results, or COCO annotations", where=path, fix=FORM)
    if isinstance(value, dict):
        try:
            names = {int(entry["id"]): str(entry["name"]) for entry in value.get("categories", [])}
            files = {entry["id"]: entry["file_name"] for entry in value["images"]}
            records = value["annotations"]
        except (KeyError, TypeError, ValueError) as error:
            raise FarposeError(f"neither COCO annotations nor COCO detections: {error!r}", where=path, fix=FORM) from error
        scored = False
    else:
        records = value
    if not isinstance(records, list):
        raise FarposeError("expected a list of COCO results", where=path, fix=FORM)
    for row, record in enumerate(records):
        if not isinstance(record, dict):
            raise FarposeError(f"expected a mapping, got {record!r:.60}", where=f"{path}: record {row}", fix=FORM)
        for key in ("image_id", "bbox", *(["score"] if scored or isinstance(value, list) else [])):
            if key not in record:
                raise FarposeError(f"{key} is missing", where=f"{path}: record {row}", fix=FORM)
    return records, names, files


def _integer(record: dict[str, Any], where: str) -> int:
    if type(record["image_id"]) is not int:
        raise FarposeError(f"image_id is no integer: {record['image_id']!r}", where=where, fix="give the images' numbers, or `file_name`")
    return int(record["image_id"])


def _persons(
    path: Path,
    records: Sequence[dict[str, Any]],
    names: Mapping[int, str],
    pick: Callable[[dict[str, Any], str], int | None],
    sizes: Mapping[int, Size | None],
    own: int,
) -> PersonBoxes:
    places = [f"{path}: record {row}" + (f" (id {record['id']})" if "id" in record else "") for row, record in enumerate(records)]
    images = [pick(record, where) for record, where in zip(records, places, strict=True)]
    is_person, category_id, notes = _classes(path, records, names, own)
    left_out = dict.fromkeys((*EXPECTED, NO_AREA, OUTSIDE), 0)
    first: dict[str, list[str]] = {}
    kept: list[tuple[int, list[float], float]] = []
    for record, where, image, person in zip(records, places, images, is_person, strict=True):
        reason = _unwanted(image, person, record)
        if not reason and image is not None:
            box, score = _box(record, where, sizes.get(image)), _number(record.get("score", 1.0), "score", where)
            reason = _unusable(box, sizes.get(image))
            if not reason:
                kept.append((image, box, score))
        if reason:
            left_out[reason] += 1
            first.setdefault(reason, []).append(where.rpartition(": ")[2])
    for reason, count in left_out.items():
        some = f" ({', '.join(first[reason][:LISTED])}{', ...' * (count > LISTED)})" if count and reason not in EXPECTED else ""
        notes += [f"{count:,} of {len(records):,} boxes are {reason} and were left out{some}"] if count else []
    return PersonBoxes(
        np.array([image for image, _, _ in kept], np.int64),
        np.array([box for _, box, _ in kept], np.float64).reshape(-1, 4),
        np.array([score for _, _, score in kept], np.float64),
        category_id,
        {reason: count for reason, count in left_out.items() if count},
        tuple(notes),
    )


def _unwanted(image: int | None, person: bool, record: dict[str, Any]) -> str:
    """Why a box is not asked for; empty if it is."""
    if image is None:
        return OTHER_IMAGE
    if not person:
        return OTHER_CLASS
    return CROWD if record.get("iscrowd") else ""


def _classes(path: Path, records: Sequence[dict[str, Any]], names: Mapping[int, str], own: int) -> tuple[list[bool], int, list[str]]:
    """Which records are persons, the persons' category id, and what had to be decided.

    Names decide where the file has them. Otherwise it is the data set's own id; or, where only class 0 or COCO's 1 is there, that one,
    because detectors count from either and persons come first.
    """
    titles = [_title(record, names) for record in records]
    if names or any(title is not None for title in titles):
        people = [title is not None and is_people(title) for title in titles]
        known = sorted({*names.values(), *(title for title in titles if title is not None)})
        if not any(is_people(title) for title in known):
            fix = "name the persons' class 'person' in its categories, or remove the other boxes and the names"
            raise FarposeError(f"no class is called person; its classes: {', '.join(known)}", where=path, fix=fix)
        found = [record["category_id"] for record, person in zip(records, people, strict=True) if person and "category_id" in record]
        return people, int(found[0]) if found and type(found[0]) is int else own, []
    ids = sorted({record.get("category_id", own) for record in records}, key=str)
    if not records or (own in ids and (own != COCO_PERSON or 0 not in ids)):
        return [record.get("category_id", own) == own for record in records], own, []
    if ids in ([0], [COCO_PERSON]):
        return [True] * len(records), own, [f"class {ids[0]} is taken for persons, because {path.name} has no other class and no names"]
    numbers = ", ".join(map(str, ids[:10]))
    fix = f"keep the persons' boxes alone, as class {own}, or give the classes' names as `category_name` of each record"
    raise FarposeError(f"its classes have the ids {numbers} and no names: it is not plain which are persons", where=path, fix=fix)


def _title(record: dict[str, Any], names: Mapping[int, str]) -> str | None:
    """The name of a record's class."""
    if record.get("category_id") in names:
        return names[record["category_id"]]
    return next((record[key] for key in CLASS_KEYS if isinstance(record.get(key), str)), None)


def _box(record: dict[str, Any], where: str, size: Size | None) -> list[float]:
    """Left, top, width, height, px: finite, not negative and not huge."""
    value = record["bbox"]
    if not isinstance(value, list) or len(value) != 4:
        raise FarposeError(f"bbox needs 4 numbers, got {value!r:.60}", where=where, fix=FORM)
    box = [_number(number, "bbox", where) for number in value]
    if min(box[2:]) < 0:
        fix = "give left, top, width and height, in this order"
        raise FarposeError(f"the box has a negative size: {value}", where=where, fix=fix)
    if size is not None and (box[2] > HUGE * size[0] or box[3] > HUGE * size[1]):
        problem = f"the box {value} is more than {HUGE:g} times as large as its image of {size[0]:g}x{size[1]:g} px"
        raise FarposeError(problem, where=where, fix="give px of the image, not of another one")
    return box


def _number(value: Any, key: str, where: str) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise FarposeError(f"{key} holds {value!r}, which is no finite number", where=where, fix="correct or remove the box")
    return float(value)


def _unusable(box: Sequence[float], size: Size | None) -> str:
    """Why a box can show nobody; empty if it can."""
    left, top, width, height = box
    if min(width, height) == 0:
        return NO_AREA
    if size is not None and (left >= size[0] or top >= size[1] or left + width <= 0 or top + height <= 0):
        return OUTSIDE
    return ""


def _numbers_of(path: Path, names: set[Any], files: Mapping[int, Path]) -> dict[str, int]:
    """File names → numbers of the user's files."""
    parts_of = {name: _parts(name) for name in names}
    numbers: dict[str, int] = {}
    for number, file in files.items():
        own, stem = _parts(str(file.absolute())), _parts(str(file.absolute().with_suffix("")))
        common = {name: max(_common(parts, own), _common(parts, stem)) for name, parts in parts_of.items()}
        most = max(common.values(), default=0)
        if not most:
            continue
        best = [name for name, count in common.items() if count == most]
        whole = [name for name in best if most == len(parts_of[name])]  # the whole name is an end of the file's path
        chosen = whole if len(whole) == 1 else best
        if len(chosen) > 1:
            fix = "give the path in the same folders as in the file, or remove the other image from the file"
            raise FarposeError(f"{' and '.join(sorted(chosen)[:LISTED])} could both be {file}", where=path, fix=fix)
        numbers[chosen[0]] = number
    return numbers


def _parts(name: str) -> tuple[str, ...]:
    return PurePosixPath(name.replace("\\", "/")).parts if "\\" in name else PurePath(name).parts


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """How many last parts two paths have in common."""
    count = 0
    for a, b in zip(reversed(first), reversed(second), strict=False):
        if a != b:
            break
        count += 1
    return count
