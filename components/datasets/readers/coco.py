"""COCO keypoint annotations (Lin et al. 2014, cocodataset.org/#format-data) → the persons table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from components.datasets.categories import person_ids
from components.datasets.derived import RULES, with_derived
from components.datasets.file_names import relative
from components.datasets.params import SourceParams
from components.datasets.reader import AnnotationFile, Reader
from components.datasets.records import Records, load_annotation_file
from components.pose.images import IMAGE_COLUMNS
from components.pose.persons import SCALAR_COLUMNS, Persons
from components.pose.skeleton import Skeleton


@dataclass(frozen=True)
class CocoForm:
    """Differences from COCO's files.

    Attributes:
        joint_names: joints with other names in the files: the skeleton's name → the files' name.
        area_of_box: the persons' area as a share of their box before it is cut to the image; None: the annotation's `area`.
        crowd_index: key of the images' crowding; None: no such key.
        boxes_drawn: every person has a `bbox`; where that is not so, it is derived from the joints.
    """

    joint_names: Mapping[str, str] = field(default_factory=dict)
    area_of_box: float | None = None
    crowd_index: str | None = None
    boxes_drawn: bool = True


COCO = CocoForm()
DRAWN = CocoForm(boxes_drawn=False)  # what labelling tools export in forms of their own


def read(name: str, source: SourceParams, root: Path, split: str, form: CocoForm = COCO) -> AnnotationFile:
    """Read the COCO keypoint file of one split.

    Missing `area`, `iscrowd` and `num_keypoints` are derived (`datasets.derived`). Besides COCO's keys, three keys of resized copies of
    COCO are supported: `orig_area` of an annotation (px² of the original image, decides AP(M) and AP(L); default `area`), and
    `source_split` and `license` of an image.

    Args:
        name: of the data set, as in params/data.yaml.
        root: its folder, data/<source>.
        form: differences from COCO's files.
    Raises:
        FarposeError: malformed JSON, a missing key, keypoints of the wrong length, a number that is not finite, a negative
            size, an annotation without its image, a repeated annotation id, image entries that contradict each other, or a
            category or joints that differ from the entry's. Names the file and the record's id.
    """
    path = Path(root) / source.splits[split].annotations
    return of_value(name, source, path, load_annotation_file(path), split, form)


def of_value(name: str, source: SourceParams, path: Path, value: dict[str, Any], split: str, form: CocoForm = COCO) -> AnnotationFile:
    """The contents of a loaded annotation file; `path` is named in errors. Arguments and errors as in `read`."""
    files, skeleton = source.splits[split], source.skeleton_named(name)
    entries, repeated = _distinct_images(Records.of(path, value, "images", "image"))
    images = _images_frame(entries, value, files.images, split)
    annotations = Records.of(path, value, "annotations", "annotation")
    categories = Records.of(path, value, "categories", "category")
    wanted = person_ids(categories, source.person_category, skeleton, form.joint_names, source.file_joints)
    is_person, category_id = _is_person(annotations, categories, wanted)
    origins = np.array([f"{name}/{entry.get('source_split', files.images)}" for entry in entries], dtype=object)
    others = annotations.select(~is_person)
    underivable = {"area": form.area_of_box is not None, "bbox": form.boxes_drawn}
    rules = [key for key in RULES if not underivable.get(key, False)]
    records, derived = with_derived(annotations.select(is_person), skeleton.counted_mask, rules)
    of_image = {"origin": origins, "crowd_index": _crowd_index(entries, form)}
    of_others = [image_id if isinstance(image_id := other.get("image_id"), int) else -1 for other in others]
    persons = replace(_persons(records, images, of_image, skeleton, form), category_id=category_id)
    return AnnotationFile(persons, records, images, repeated, np.array(of_others, dtype=np.int64), derived)


READER = Reader("coco", read)


def _distinct_images(images: Records) -> tuple[Records, np.ndarray]:
    """The image entries without repeats (some published files list an image once per annotation), and the repeats' ids."""
    first: dict[int, dict[str, Any]] = {}
    repeated = []
    for i, (image_id, entry) in enumerate(zip(images.column("id", int), images, strict=True)):
        known = first.setdefault(image_id, entry)
        if known is not entry and known != entry:
            differing = next(key for key in sorted(known.keys() | entry.keys()) if known.get(key) != entry.get(key))
            problem = f"listed twice with different {differing!r}: {known.get(differing)!r} and {entry.get(differing)!r}"
            raise images.error(i, problem, "give each image its own id")
        if known is not entry:
            repeated.append(image_id)
    return Records(images.file, images.kind, list(first.values())), np.array(repeated, dtype=np.int64)


def _images_frame(images: Records, value: dict[str, Any], folder: str, split: str) -> pd.DataFrame:
    names = [relative(name) for name in images.column("file_name", str)]
    outside = np.array([not name or ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute() for name in names], dtype=bool)
    fix = "write the path relative to that folder"
    images.refuse(outside, lambda i: f"'file_name' is {images.items[i]['file_name']!r}, expected a path inside {folder}", fix)
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


def _is_person(annotations: Records, categories: Records, wanted: list[int]) -> tuple[np.ndarray, int]:
    """(N,) bool: which annotations are of the `wanted` categories; and the one that most of them have."""
    category: np.ndarray = annotations.integers("category_id")
    known = np.isin(category, categories.column("id", int))
    annotations.refuse(~known, lambda i: f"its category {category[i]} is not listed in 'categories'")
    frequent = max(wanted, key=lambda number: (category == number).sum())  # the first, of equals
    return np.asarray(np.isin(category, wanted)), frequent


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
