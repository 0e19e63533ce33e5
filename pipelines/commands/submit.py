"""`submit`: predictions on images without annotations, such as COCO's test-dev, in the form that an evaluation server takes."""

from __future__ import annotations

import argparse
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from components.base.errors import FarposeError
from components.base.files import atomic_file, read_json

AT_ONCE = 200  # images whose crops are in memory at the same time
SUFFIXES = (".json", ".zip")
FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # equal predictions give equal archives


def submit(options: argparse.Namespace) -> None:
    """Predict every image of a list and write one results file, whole or not at all.

    Images are taken as stored, EXIF orientation ignored, as COCO's annotations are.
    """
    from components.approaches import approach
    from pipelines import stages
    from pipelines.commands.predict import chosen

    if options.output.suffix not in SUFFIXES:
        raise FarposeError(
            "the file must end in .json or .zip", where=options.output, fix="such as person_keypoints_test-dev2017_farpose_results.zip"
        )
    files = listed(options.images, options.folder)
    subject = chosen(options.variant, options.weights)
    shown = approach(subject.built.variant.approach)
    if shown.takes_boxes != (options.boxes is not None):
        name = subject.built.variant.name
        problem = f"{name} finds the persons of whole images and takes no boxes" if options.boxes else f"{name} needs persons' boxes"
        raise FarposeError(problem, fix="remove --boxes" if options.boxes else "--boxes FILE, a detector's COCO results on these images")
    boxes, scores = detected(options.boxes, files, subject.evaluate.detector_score_threshold) if shown.takes_boxes else ({}, {})
    records: list[dict[str, Any]] = []
    for part in _parts(boxes if shown.takes_boxes else files):
        given = {number: boxes[number] for number in part} if shown.takes_boxes else None
        found, person_scores = shown.find(
            subject.built, _files(subject, files, part, given, scores), subject.evaluate, stages.device_name()
        )
        records += server_records(found, person_scores)
    write(options.output, records)
    print(f"{len(records):,} persons in {len(files):,} images: {options.output}")


def listed(path: Path, folder: Path) -> dict[int, Path]:
    """The images of a COCO file's `images`, by id.

    Raises:
        FarposeError: not such a list, an id twice, or a file that is not in the folder.
    """
    value = read_json(path)
    images = value.get("images") if isinstance(value, dict) else None
    if not isinstance(images, list) or not all(isinstance(i, dict) and type(i.get("id")) is int and i.get("file_name") for i in images):
        raise FarposeError(
            "expected COCO's mapping with `images`, each with id and file_name", where=path, fix="such as image_info_test-dev2017.json"
        )
    files = {image["id"]: folder / str(image["file_name"]) for image in images}
    if len(files) < len(images) or not files:
        raise FarposeError("an image id appears twice" if files else "there are no images", where=path)
    missing = [file for file in files.values() if not file.is_file()]
    if missing:
        raise FarposeError(
            f"{len(missing)} of {len(files)} images are not there, such as {missing[0].name}", where=folder, fix="correct --folder"
        )
    return files


def detected(path: Path, files: dict[int, Path], threshold: float) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """A detector's boxes (n, 4) and their scores (n,), by image id; images without boxes are left out.

    Raises:
        FarposeError: what `boxes_of_images` raises, or no box scores enough.
    """
    from components.evaluate.boxes import boxes_of_images

    found = boxes_of_images(path, dict.fromkeys(files))
    for note in found.notes:
        print(f"note: {note}")
    kept = found.scores >= threshold
    if not kept.any():
        problem = f"none of {len(found)} boxes has a score of at least {threshold:g}"
        raise FarposeError(problem, where=path, fix="lower evaluate.detector_score_threshold")
    own = {number: np.flatnonzero(kept & (found.image_id == number)) for number in np.unique(found.image_id[kept]).tolist()}
    return {n: found.bbox_xywh[r] for n, r in own.items()}, {n: found.scores[r] for n, r in own.items()}


def _parts(numbers: Any) -> Iterator[list[int]]:
    every = sorted(numbers)
    for start in range(0, len(every), AT_ONCE):
        yield every[start : start + AT_ONCE]


def _files(
    subject: Any, files: dict[int, Path], part: list[int], boxes: dict[int, np.ndarray] | None, scores: dict[int, np.ndarray]
) -> Any:
    from components.evaluate.approach import Files

    paths, own = {number: files[number] for number in part}, {number: scores[number] for number in part} if boxes is not None else None
    return Files(paths, boxes, subject.spec, subject.degrade, own, upright=False)


def server_records(found: Any, scores: np.ndarray) -> list[dict[str, Any]]:
    """COCO's keypoint results, with no other keys: image_id, category_id 1, keypoints as x, y, 1, and score."""
    joints = np.concatenate([found.keypoints_image.round(2), np.ones((*found.keypoints_image.shape[:2], 1))], 2).reshape(len(found), -1)
    rows = zip(found.image_id.tolist(), joints.tolist(), scores.tolist(), strict=True)
    return [{"image_id": image, "category_id": 1, "keypoints": joint, "score": round(score, 6)} for image, joint, score in rows]


def write(path: Path, records: list[dict[str, Any]]) -> None:
    """The records as JSON, or as an archive with one JSON file of its name, which COCO's server takes."""
    text = json.dumps(records, allow_nan=False)
    with atomic_file(path) as temporary:
        if path.suffix == ".json":
            temporary.write_text(text)
            return
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(zipfile.ZipInfo(f"{path.stem}.json", FIRST_DAY), text, zipfile.ZIP_DEFLATED)
