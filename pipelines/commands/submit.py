"""`submit`: predictions on images without annotations, such as COCO's test-dev, in the form that an evaluation server takes."""

from __future__ import annotations

import argparse
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from components.base.errors import FarposeError, unknown_name
from components.base.files import atomic_file, read_json
from components.datasets.acquire.listing import safe_path
from components.datasets.categories import PERSON
from components.datasets.fetch import PERSONS_FILE
from components.datasets.params import SourceParams
from components.pose.people import is_people
from components.pose.persons import COCO_PERSON, UPRIGHT, category_of

AT_ONCE = 200  # images whose crops are in memory at the same time
SUFFIXES = (".json", ".zip")
FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # equal predictions give equal archives


def submit(options: argparse.Namespace) -> None:
    """Predict every image of a list and write one results file, whole or not at all.

    Images are taken as the data set's `orientation` says: as stored, as COCO's annotations are, or upright. Persons have the data set's
    category id (`persons_category`).
    """
    from components.approaches import approach
    from pipelines import devices
    from pipelines.choosing import chosen

    if options.output.suffix not in SUFFIXES:
        raise FarposeError(
            "the file must end in .json or .zip", where=options.output, fix="such as person_keypoints_test-dev2017_farpose_results.zip"
        )
    files = listed(options.images, options.folder)
    subject = chosen(options.variant, options.weights, model=options.model)
    for note in subject.notes:
        print(f"note: {note}")
    shown = approach(subject.built.variant.approach)
    if shown.takes_boxes != (options.boxes is not None):
        variant = subject.built.variant.name
        problem = f"{variant} finds the persons of whole images and takes no boxes" if options.boxes else f"{variant} needs persons' boxes"
        raise FarposeError(problem, fix="remove --boxes" if options.boxes else "--boxes FILE, a detector's COCO results on these images")
    name, source = data_set(options.data_set, subject.built.variant.dataset)
    category_id = persons_category(options.images, name, source)
    threshold = subject.evaluate.detector_score_threshold
    boxes, scores = detected(options.boxes, files, threshold, category_id) if shown.takes_boxes else ({}, {})
    upright = source is not None and source.orientation == UPRIGHT
    records: list[dict[str, Any]] = []
    for part in _parts(boxes if shown.takes_boxes else files):
        given = {number: boxes[number] for number in part} if shown.takes_boxes else None
        inputs = _files(subject, files, part, given, scores, upright)
        found, person_scores = shown.find(subject.built, inputs, subject.evaluate, devices.device_name())
        records += server_records(found, person_scores, category_id)
    write(options.output, records)
    pixels = UPRIGHT if upright else "stored"
    print(f"{len(records):,} persons (category {category_id}) in {len(files):,} images ({pixels} pixels): {options.output}")


def listed(path: Path, folder: Path) -> dict[int, Path]:
    """The images of a COCO file's `images`, by id.

    Raises:
        FarposeError: not such a list, an id twice, a name that leads out of the folder, or a file that is not in it.
    """
    value = read_json(path)
    images = value.get("images") if isinstance(value, dict) else None
    if not isinstance(images, list) or not all(isinstance(i, dict) and type(i.get("id")) is int and i.get("file_name") for i in images):
        raise FarposeError(
            "expected COCO's mapping with `images`, each with id and file_name", where=path, fix="such as image_info_test-dev2017.json"
        )
    files = {image["id"]: folder / safe_path(str(image["file_name"]), path) for image in images}
    if len(files) < len(images) or not files:
        raise FarposeError("an image id appears twice" if files else "there are no images", where=path)
    missing = [file for file in files.values() if not file.is_file()]
    if missing:
        raise FarposeError(
            f"{len(missing)} of {len(files)} images are not there, such as {missing[0].name}", where=folder, fix="correct --folder"
        )
    return files


def data_set(wanted: str | None, learned: str) -> tuple[str, SourceParams | None]:
    """Name and entry of the data set that the images belong to; None where params/data.yaml does not know the one that the model learned.

    Raises:
        FarposeError: the wanted one is not there.
    """
    from pipelines import settings

    sources = settings.data().sources
    if wanted is not None and wanted not in sources:
        raise unknown_name("data set", wanted, sources, where="--data-set")
    name = wanted or learned
    return name, sources.get(name)


def persons_category(path: Path, name: str, source: SourceParams | None) -> int:
    """The category id that an evaluation of these images expects of persons.

    That of the list's own `categories`, if it has any; or else the id that the data set's entry names as `person_category`, or that its
    persons table has; or else COCO's 1.

    Args:
        path: COCO's list of the images.
        name: of the data set.
    Raises:
        FarposeError: no category of the list, or more than one, is meant by `person_category`.
    """
    from pipelines import paths, settings

    wanted = source.person_category if source is not None else PERSON
    categories = [item for item in read_json(path).get("categories") or [] if isinstance(item, dict) and type(item.get("id")) is int]
    if isinstance(wanted, str) and categories:
        return _meant(categories, wanted, path, name)
    if not isinstance(wanted, str):
        return wanted if isinstance(wanted, int) else wanted[0]
    table = paths.PERSONS / PERSONS_FILE
    return category_of(table) if settings.data().source == name and table.is_file() else COCO_PERSON


def _meant(categories: list[dict[str, Any]], wanted: str, path: Path, name: str) -> int:
    """Of several with the wanted name, those with joints count, as for annotation files."""
    titles = [str(item.get("name")) for item in categories]
    chosen = [item for item, title in zip(categories, titles, strict=True) if title == wanted]
    if not chosen and wanted == PERSON:
        chosen = [item for item, title in zip(categories, titles, strict=True) if is_people(title)]
    chosen = [item for item in chosen if item.get("keypoints")] or chosen
    if len(chosen) != 1:
        listed = ", ".join(f"{title!r} (id {item['id']})" for item, title in zip(categories[:10], titles, strict=False))
        fix = f"set `person_category` of data.sources.{name} in params/data.yaml to an id, or name the images' data set by --data-set"
        raise FarposeError(f"{len(chosen)} categories are named {wanted!r}, expected one, among {listed}", where=path, fix=fix)
    return int(chosen[0]["id"])


def detected(
    path: Path, files: dict[int, Path], threshold: float, category_id: int = COCO_PERSON
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """A detector's boxes (n, 4) and their scores (n,), by image id; images without boxes are left out.

    Raises:
        FarposeError: what `boxes_of_images` raises, or no box scores enough.
    """
    from components.evaluate.boxes import boxes_of_images

    found = boxes_of_images(path, dict.fromkeys(files), category_id)
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
    subject: Any,
    files: dict[int, Path],
    part: list[int],
    boxes: dict[int, np.ndarray] | None,
    scores: dict[int, np.ndarray],
    upright: bool,
) -> Any:
    from components.evaluate.approach import Files

    paths, own = {number: files[number] for number in part}, {number: scores[number] for number in part} if boxes is not None else None
    return Files(paths, boxes, subject.spec, subject.degrade, own, upright=upright)


def server_records(found: Any, scores: np.ndarray, category_id: int = COCO_PERSON) -> list[dict[str, Any]]:
    """COCO's keypoint results, with no other keys: image_id, category_id, keypoints as x, y, 1, and score."""
    joints = np.concatenate([found.keypoints_image.round(2), np.ones((*found.keypoints_image.shape[:2], 1))], 2).reshape(len(found), -1)
    rows = zip(found.image_id.tolist(), joints.tolist(), scores.tolist(), strict=True)
    return [{"image_id": image, "category_id": category_id, "keypoints": joint, "score": round(score, 6)} for image, joint, score in rows]


def write(path: Path, records: list[dict[str, Any]]) -> None:
    """The records as JSON, or as an archive with one JSON file of its name, which COCO's server takes."""
    text = json.dumps(records, allow_nan=False)
    with atomic_file(path) as temporary:
        if path.suffix == ".json":
            temporary.write_text(text)
            return
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(zipfile.ZipInfo(f"{path.stem}.json", FIRST_DAY), text, zipfile.ZIP_DEFLATED)
