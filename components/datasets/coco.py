"""COCO keypoint annotations (Lin et al. 2014, cocodataset.org/#format-data) → the persons table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from components.base.errors import FarposeError
from components.datasets.crowdpose import CROWDPOSE
from components.datasets.form import CocoForm
from components.datasets.records import Records, load_annotation_file
from components.pose.images import IMAGE_COLUMNS
from components.pose.persons import SCALAR_COLUMNS, Persons
from components.pose.skeleton import Skeleton, skeleton_of

COCO = CocoForm()
FORMS = {"synthetic": COCO, "coco": COCO, "crowdpose": CROWDPOSE}  # by data set


@dataclass(frozen=True)
class CocoFile:
    """What one annotation file holds.

    Attributes:
        persons: one row per annotation of the category "person", in the file's order; `records` are these annotations.
        images: one row (`IMAGE_COLUMNS`) per image, with or without persons, in the file's order.
        repeated_images: image entries left out because an identical entry came before.
        other_categories: annotations left out because they are not of the category "person".
    """

    persons: Persons
    records: Records
    images: pd.DataFrame
    repeated_images: int
    other_categories: int


def read_coco(root: Path, annotation_file: str, image_folder: str, split: str, source: str) -> tuple[Persons, pd.DataFrame]:
    """The persons and images of one COCO keypoint file; see `read_coco_file`."""
    file = read_coco_file(root, annotation_file, image_folder, split, source)
    return file.persons, file.images


def read_coco_file(root: Path, annotation_file: str, image_folder: str, split: str, source: str) -> CocoFile:
    """Read one COCO keypoint file strictly: nothing is repaired, guessed or left out without being counted.

    Beyond COCO's own keys, three that a resized copy of COCO carries are understood: `orig_area` of an annotation (px² of
    the original image, decides AP(M) and AP(L); otherwise `area`), `source_split` and `license` of an image.

    Args:
        root: the data set's folder, data/<source>.
        annotation_file: `.json` or `.json.gz`, relative to `root`.
        image_folder: folder of the images, relative to `root`.
        split: written into every row ("train", "val").
        source: the data set's name; decides the skeleton and how the files differ from COCO's own.
    Raises:
        FarposeError: malformed JSON, a missing key, keypoints of the wrong length, a number that is not finite, a negative
            size, an annotation without its image, a repeated annotation id, image entries that contradict each other, or
            joints other than the skeleton's. Names the file and the record's id.
    """
    skeleton, form = skeleton_of(source), FORMS.get(source, COCO)
    path = Path(root) / annotation_file
    value = load_annotation_file(path)
    entries, repeated = _distinct_images(Records.of(path, value, "images", "image"))
    images = _images_frame(entries, value, image_folder, split)
    annotations = Records.of(path, value, "annotations", "annotation")
    is_person = _is_person(annotations, Records.of(path, value, "categories", "category"), skeleton, form)
    origins = np.array([f"{source}/{entry.get('source_split', image_folder)}" for entry in entries], dtype=object)
    records = annotations.select(is_person)
    of_image = {"origin": origins, "crowd_index": _crowd_index(entries, form)}
    return CocoFile(_persons(records, images, of_image, skeleton, form), records, images, repeated, int((~is_person).sum()))


def _distinct_images(images: Records) -> tuple[Records, int]:
    """The image entries without identical repeats (some published files list an image once per annotation)."""
    first: dict[int, dict[str, Any]] = {}
    for i, (image_id, entry) in enumerate(zip(images.column("id", int), images, strict=True)):
        known = first.setdefault(image_id, entry)
        if known is not entry and known != entry:
            differing = next(key for key in sorted(known.keys() | entry.keys()) if known.get(key) != entry.get(key))
            problem = f"listed twice with different {differing!r}: {known.get(differing)!r} and {entry.get(differing)!r}"
            raise images.error(i, problem, "give each image its own id")
    return Records(images.file, images.kind, list(first.values())), len(images) - len(first)


def _images_frame(images: Records, value: dict[str, Any], folder: str, split: str) -> pd.DataFrame:
    names = images.column("file_name", str)
    outside = np.array([not name or ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute() for name in names], dtype=bool)
    images.refuse(outside, lambda i: f"'file_name' is {names[i]!r}, expected a path inside {folder}")
    listed = Records.of(images.file, {"licenses": [], **value}, "licenses", "licence")
    licences = {str(licence.get("id")): str(licence.get("name")) for licence in listed}
    frame = {
        "image_id": images.integers("id"),
        "image_path": [str(PurePosixPath(folder) / name) for name in names],
        "image_width": images.integers("width", at_least=1),
        "image_height": images.integers("height", at_least=1),
        "split": split,
        "licence": [licences.get(str(entry.get("license")), "unknown") for entry in images],
    }
    return pd.DataFrame(frame).astype(IMAGE_COLUMNS)


def _crowd_index(images: Records, form: CocoForm) -> np.ndarray:
    """(M,) crowding of the images, NaN where the data set states none."""
    return np.full(len(images), np.nan) if form.crowd_index is None else images.numbers(form.crowd_index, at_least=0)


def _is_person(annotations: Records, categories: Records, skeleton: Skeleton, form: CocoForm) -> np.ndarray:
    """(N,) bool: which annotations are of the category "person"; its joints must be the skeleton's."""
    names = dict(zip(categories.column("id", int), categories.column("name", str), strict=True))
    persons = [category for category in categories if category["name"] == "person"]
    if len(persons) != 1:
        raise FarposeError(f"{len(persons)} categories are named 'person', expected one", where=categories.file)
    listed = persons[0].get("keypoints")
    expected = [form.joint_names.get(name, name) for name in skeleton.keypoint_names]
    if listed not in (expected, list(skeleton.keypoint_names)):
        problem = f"the category's keypoints are {listed}, expected those of {skeleton.name}: {expected}"
        raise FarposeError(problem, where=categories.file, fix="name the data set whose joints these are as the source")
    category: np.ndarray = annotations.integers("category_id")
    annotations.refuse(~np.isin(category, list(names)), lambda i: f"its category {category[i]} is not listed in 'categories'")
    return np.asarray(category == persons[0]["id"])


def _persons(annotations: Records, images: pd.DataFrame, of_image: dict[str, np.ndarray], skeleton: Skeleton, form: CocoForm) -> Persons:
    ids = annotations.integers("id")
    repeats = np.ones(len(ids), dtype=bool)
    repeats[np.unique(ids, return_index=True)[1]] = False
    annotations.refuse(repeats, lambda i: "the id appears twice", "give each annotation its own id")
    image_ids = annotations.integers("image_id")
    rows = np.asarray(pd.Index(images["image_id"]).get_indexer(image_ids))
    annotations.refuse(rows < 0, lambda i: f"its image {image_ids[i]} is not listed in 'images'")
    bbox_xywh = annotations.matrix("bbox", 4, "left, top, width, height")
    annotations.refuse(bbox_xywh[:, 2:].min(axis=1) < 0, lambda i: f"the box has a negative size: {bbox_xywh[i].tolist()}")
    joints = len(skeleton)
    keypoints = annotations.matrix("keypoints", 3 * joints, f"{joints} joints of {skeleton.name}, each x, y, visibility")
    iscrowd = np.array(annotations.column("iscrowd", int, bool), dtype=np.int64)
    annotations.refuse(~np.isin(iscrowd, (0, 1)), lambda i: f"'iscrowd' is {iscrowd[i]}, expected 0 or 1")
    image_rows = images.iloc[rows].reset_index(drop=True)
    frame = image_rows.assign(
        annotation_id=ids,
        **_areas(annotations, bbox_xywh, form),
        num_keypoints=annotations.integers("num_keypoints"),
        iscrowd=iscrowd.astype(bool),
        head_size=np.nan,
        crowd_index=of_image["crowd_index"][rows],
        source=of_image["origin"][rows],
    )
    return Persons(frame[list(SCALAR_COLUMNS)].astype(SCALAR_COLUMNS), bbox_xywh, keypoints.reshape(-1, joints, 3), skeleton)


def _areas(annotations: Records, bbox_xywh: np.ndarray, form: CocoForm) -> dict[str, np.ndarray]:
    share = form.area_of_box
    area = annotations.numbers("area", at_least=0) if share is None else bbox_xywh[:, 2] * bbox_xywh[:, 3] * share
    resized = np.array(["orig_area" in annotation for annotation in annotations], dtype=bool)
    original = area.copy()
    original[resized] = annotations.select(resized).numbers("orig_area", at_least=0)
    return {"area": area, "area_range_px2": original}
