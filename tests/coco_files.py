"""Small random data sets in COCO's form, for the tests of reading, fetching and validating."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from components.base.config import PARAMS, load_yaml, parse
from components.base.files import sha256_of
from components.datasets.params import DataParams, SourceParams, SplitFiles
from components.datasets.reader import AnnotationFile, read_split
from components.pose.skeleton import COCO_17

PERSON = {"id": 1, "name": "person", "keypoints": list(COCO_17.keypoint_names)}
CHAIR = {"id": 62, "name": "chair"}


COMMITTED: dict[str, SourceParams] = parse(DataParams, load_yaml(PARAMS / "data.yaml")["data"], "data").sources


def source(splits: dict[str, SplitFiles], dataset: str = "coco", **changes: Any) -> SourceParams:
    """A data set's committed entry with other files, unchecked by a manifest."""
    return dataclasses.replace(COMMITTED[dataset], splits=splits, manifest=None, **changes)


def read_file(root: Path, annotations: str, images: str, dataset: str = "coco", split: str = "val", **changes: Any) -> AnnotationFile:
    """One annotation file, read as the data set's committed entry says."""
    return read_split(dataset, source({split: SplitFiles(annotations, images)}, dataset, **changes), root, split)


def random_coco(seed: int, first_id: int = 1, num_images: int = 6, extension: str = "png") -> dict[str, Any]:
    """A COCO value: 0 to 3 persons an image, inside their boxes and images; ids start at `first_id`."""
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    for i in range(num_images):
        width, height = (int(n) for n in rng.integers(48, 80, 2))
        image_id = first_id + i
        images.append({"id": image_id, "file_name": f"{image_id:06d}.{extension}", "width": width, "height": height, "license": 4})
        for _ in range(rng.integers(0, 4) if i else 2):
            box = np.array([rng.uniform(0, 8), rng.uniform(0, 8), rng.uniform(20, width - 9), rng.uniform(20, height - 9)]).round(2)
            annotations.append(random_annotation(rng, first_id * 10 + len(annotations), image_id, box.tolist()))
    return {
        "images": images,
        "annotations": annotations,
        "categories": [dict(PERSON), dict(CHAIR)],
        "licenses": [{"id": 4, "name": "Attribution License"}],
    }


def random_annotation(rng: np.random.Generator, annotation_id: int, image_id: int, box: list[float]) -> dict[str, Any]:
    flags = rng.integers(0, 3, 17)
    flags[rng.integers(17)] = 2
    xy = (np.array(box[:2]) + rng.uniform(0, 1, (17, 2)) * np.array(box[2:])).round(2) * (flags > 0)[:, None]
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": box,
        "area": float(np.round(box[2] * box[3] * 0.53, 3)),
        "num_keypoints": int((flags > 0).sum()),
        "keypoints": np.column_stack([xy, flags]).ravel().tolist(),
    }


def unlabel(annotation: dict[str, Any], iscrowd: int = 0) -> None:
    """Make the annotation one that COCO's evaluation ignores."""
    annotation.update(keypoints=[0] * 51, num_keypoints=0, iscrowd=iscrowd)


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_images(folder: Path, value: dict[str, Any], seed: int) -> None:
    """A different picture for every image entry."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for entry in value["images"]:
        pixels = rng.integers(0, 256, (entry["height"], entry["width"], 3), dtype=np.uint8)
        (folder / entry["file_name"]).write_bytes(cv2.imencode(Path(entry["file_name"]).suffix, pixels)[1].tobytes())


def write_dataset(root: Path, train: dict[str, Any], val: dict[str, Any], seed: int = 0) -> DataParams:
    """Write both splits with their images; returns the parameters to fetch them."""
    splits = {}
    for i, (name, value) in enumerate({"train": train, "val": val}.items()):
        write_json(root / "annotations" / f"{name}.json", value)
        write_images(root / name, value, seed + i)
        splits[name] = SplitFiles(f"annotations/{name}.json", name)
    return DataParams(source="coco", sources={"coco": source(splits)})


def digests(directory: Path) -> dict[str, str]:
    """SHA-256 of every file below the directory."""
    return {str(path.relative_to(directory)): sha256_of(path) for path in directory.rglob("*") if path.is_file()}
