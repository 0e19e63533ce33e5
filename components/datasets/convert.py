"""Any data set's persons → COCO keypoint files, one per split."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from components.base.errors import FarposeError
from components.base.files import atomic_file
from components.datasets.categories import PERSON
from components.datasets.found_images import with_found
from components.datasets.params import SourceParams
from components.datasets.reader import AnnotationFile, read_split
from components.pose.skeleton import Skeleton

UNKNOWN = "unknown"  # the images table's word for no licence


@dataclass(frozen=True)
class Written:
    """One file that was written."""

    path: Path
    images: int
    persons: int
    category_ids: tuple[int, ...]


def to_coco(name: str, source: SourceParams, root: Path, out: Path) -> dict[str, Written]:
    """Write `out`/<split>.json for every split of a data set's files.

    Persons are those that the files have: nothing is filtered, cut to its image or renumbered. Coordinates refer to the same pixels as
    before (`orientation`), file names are relative to the split's folder of images, and categories keep their ids. Read again by
    `format: coco` with the table's skeleton, a file gives the same persons. CrowdPose's index is the images' `crowdIndex`, which
    `format: crowdpose` reads; MPII's head size is the persons' `headsize`, which no reader here takes from a COCO file.

    Args:
        name: of the data set.
        root: its folder, data/<source>.
    Raises:
        FarposeError: `out` is a file, or a split cannot be read (`read_split`). Nothing is written then.
    """
    if out.exists() and not out.is_dir():
        raise FarposeError("not a folder", where=out, fix="give another one")
    texts, written = {}, {}
    for split, files in source.splits.items():
        read, _, _ = with_found(read_split(name, source, root, split), root, files.images)
        value = coco_value(read, source, files.images)
        path = out / f"{split}.json"
        texts[path] = json.dumps(value, allow_nan=False)
        ids = tuple(category["id"] for category in value["categories"])
        written[split] = Written(path, len(value["images"]), len(value["annotations"]), ids)
    for path, text in texts.items():
        with atomic_file(path) as temporary:
            temporary.write_text(text + "\n")
    return written


def coco_value(read: AnnotationFile, source: SourceParams, folder: str) -> dict[str, Any]:
    """COCO's mapping of one split.

    Args:
        folder: of its images, which file names are relative to.
    """
    persons = read.persons
    ids = [int(record.get("category_id", persons.category_id)) for record in read.records]
    named = source.person_category if isinstance(source.person_category, str) else PERSON
    licences = {text: number for number, text in enumerate(sorted(set(read.images["licence"]) - {UNKNOWN}), start=1)}
    return {
        "info": {"description": source.description},
        "licenses": [{"id": number, "name": text} for text, number in licences.items()],
        "categories": [_category(number, named, persons.skeleton) for number in sorted({*ids, persons.category_id})],
        "images": _images(read, licences, folder),
        "annotations": _annotations(read, ids),
    }


def _category(number: int, name: str, skeleton: Skeleton) -> dict[str, Any]:
    limbs = [[skeleton.index(one) + 1, skeleton.index(other) + 1] for one, other in skeleton.limbs]  # COCO counts from 1
    return {"id": number, "name": name, "supercategory": PERSON, "keypoints": list(skeleton.keypoint_names), "skeleton": limbs}


def _images(read: AnnotationFile, licences: dict[str, int], folder: str) -> list[dict[str, Any]]:
    crowding = read.persons.frame.drop_duplicates("image_id").set_index("image_id")["crowd_index"].dropna().to_dict()
    entries = []
    for row in read.images.to_dict("records"):
        path = PurePosixPath(row["image_path"])
        inside = path.relative_to(folder) if path.is_relative_to(folder) else path
        entry = {"id": row["image_id"], "file_name": str(inside), "width": row["image_width"], "height": row["image_height"]}
        if row["licence"] in licences:
            entry["license"] = licences[row["licence"]]
        if crowding:
            entry["crowdIndex"] = crowding.get(row["image_id"], 0.0)  # nobody crowds an image without persons
        entries.append(entry)
    return entries


def _annotations(read: AnnotationFile, category_ids: list[int]) -> list[dict[str, Any]]:
    persons = read.persons
    rows = zip(
        persons.frame.to_dict("records"), category_ids, persons.bbox_xywh.tolist(), _triples(persons.keypoints), read.records, strict=True
    )
    return [_annotation(*row) for row in rows]


def _annotation(
    row: dict[Any, Any], category_id: int, bbox_xywh: list[float], keypoints: list[float], record: dict[str, Any]
) -> dict[str, Any]:
    entry = {
        "id": row["annotation_id"],
        "image_id": row["image_id"],
        "category_id": category_id,
        "iscrowd": int(row["iscrowd"]),
        "bbox": bbox_xywh,
        "area": row["area"],
        "num_keypoints": row["num_keypoints"],
        "keypoints": keypoints,
    }
    if row["area_range_px2"] != row["area"]:
        entry["orig_area"] = row["area_range_px2"]
    if not pd.isna(row["head_size"]):
        entry["headsize"] = row["head_size"]
    if record.get("segmentation"):
        entry["segmentation"] = record["segmentation"]
    return entry


def _triples(keypoints: np.ndarray) -> list[list[float]]:
    """x, y, visibility of every joint in one row per person; visibility as an integer, as COCO has it."""
    flat = keypoints.reshape(len(keypoints), -1).tolist()
    for row in flat:
        row[2::3] = [int(flag) for flag in row[2::3]]
    return flat
