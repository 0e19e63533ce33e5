"""The synthetic data set on disk: images and COCO keypoint annotations."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from components.base.files import atomic_directory
from components.datasets.synthetic.exact import Draw
from components.datasets.synthetic.params import SyntheticParams
from components.datasets.synthetic.scene import SyntheticPerson, render_scene
from components.pose.skeleton import COCO_17

SPLITS = {"train": 0, "val": 1}
LICENCE = {"id": 1, "name": "CC0 1.0 Universal", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}
# COCO's own drawing order, joints counted from 1 (person_keypoints_val2017.json).
COCO_LIMBS = (
    (16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9), (8, 10), (9, 11), (2, 3), (1, 2),
    (1, 3), (2, 4), (3, 5), (4, 6), (5, 7),
)  # fmt: skip


@dataclass(frozen=True)
class Further:
    """What forms other than COCO's label of one person.

    Attributes:
        joints: x, y and visibility of the joints of `person.FURTHER`.
        head_px: from the neck to the top of the head, px.
    """

    joints: list[list[float]]
    head_px: float


Job = tuple[Path, SyntheticParams, str, int]
Record = tuple[dict[str, Any], list[dict[str, Any]], list[Further]]  # an image's entry, its annotations, and more of each person
Annotate = Callable[[str, list[Record]], tuple[str, Any]]  # split and its records → file name and JSON value
IDS_PER_SPLIT = 1_000_000  # keeps image ids of the splits apart; annotation ids are 10 × the image id + the person's number


def write_synthetic(
    root: Path, params: SyntheticParams, progress: bool = True, workers: int | None = None, annotate: Annotate | None = None
) -> None:
    """Render both splits into `root`: `train/`, `val/`, `annotations/person_keypoints_{train,val}.json`.

    The folder appears whole or not at all and replaces an earlier one. Its bytes do not depend on the number of workers.

    Args:
        progress: show a progress bar on stderr.
        workers: processes; by default one per usable processor.
        annotate: writes the annotations in another form than COCO's, see `forms`.
    Raises:
        FarposeError: the disk is full.
    """
    workers = workers or len(os.sched_getaffinity(0))
    with atomic_directory(root) as folder:
        (folder / "annotations").mkdir()
        jobs = []
        for split, count in (("train", params.train_images), ("val", params.val_images)):
            (folder / split).mkdir()
            jobs += [(folder, params, split, index) for index in range(count)]
        records = list(_progress(_run(jobs, workers), len(jobs), progress))
        for split in SPLITS:
            own = [record for record, job in zip(records, jobs, strict=True) if job[2] == split]
            name, value = (annotate or _annotate)(split, own)
            text = json.dumps(value, separators=(",", ":"), allow_nan=False)
            (folder / "annotations" / name).write_text(text + "\n")


def _run(jobs: list[Job], workers: int) -> Iterable[Record]:
    if workers == 1:
        yield from map(write_labelled_image, jobs)
        return
    # Spawned, not forked, because the caller may have threads and locks.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_end_with_parent) as pool:
        yield from pool.map(write_labelled_image, jobs, chunksize=4)


def _end_with_parent() -> None:
    """Leave Ctrl-C to the parent, and exit if the parent is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=follow, daemon=True).start()


def _progress(records: Iterable[Record], total: int, shown: bool) -> Iterable[Record]:
    from tqdm import tqdm

    return tqdm(records, total=total, desc="synthetic people", unit="image", disable=not shown)


def write_image(job: Job) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Render and store one image.

    Returns:
        Its entry of COCO's `images` and the entries of `annotations`.
    """
    return write_labelled_image(job)[:2]


def write_labelled_image(job: Job) -> Record:
    """Render and store one image; also returns what other forms label of each person."""
    import cv2

    folder, params, split, index = job
    image, persons = render_scene(Draw(params.seed, SPLITS[split], index), params)
    image_id = SPLITS[split] * IDS_PER_SPLIT + index + 1
    name = f"{image_id:012d}.jpg"
    # JPEG's integer transform gives the same bytes with and without vector units (PNG's deflate may vary).
    settings = [cv2.IMWRITE_JPEG_QUALITY, params.jpeg_quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    encoded = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), settings)[1]
    (folder / split / name).write_bytes(encoded.tobytes())
    height, width = image.shape[:2]
    entry = {"id": image_id, "file_name": name, "width": width, "height": height, "license": LICENCE["id"]}
    annotations = [_annotation(image_id, number, person) for number, person in enumerate(persons)]
    return entry, annotations, [Further(person.further.tolist(), person.head_px) for person in persons]


def _annotation(image_id: int, number: int, person: SyntheticPerson) -> dict[str, Any]:
    rows, columns = np.nonzero(person.mask)
    left, top = int(columns.min()), int(rows.min())
    keypoints = [[_plain(x), _plain(y), int(v)] for x, y, v in person.keypoints.tolist()]
    return {
        "id": image_id * 10 + number,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1],
        "area": int(person.mask.sum()),
        "num_keypoints": sum(1 for _, _, v in keypoints if v > 0),
        "keypoints": [value for point in keypoints for value in point],
        "segmentation": {"size": list(person.mask.shape), "counts": run_lengths(person.mask)},
    }


def _plain(value: float) -> float | int:
    return int(value) if value == int(value) else value


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths: column by column, beginning with zeros."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = [0, *changes.tolist(), len(flat)]
    runs = [end - start for start, end in pairwise(edges)]
    return [0, *runs] if flat[0] else runs


def _annotate(split: str, records: list[Record]) -> tuple[str, Any]:
    return f"person_keypoints_{split}.json", coco_of(split, records)


def coco_of(split: str, records: list[Record]) -> dict[str, Any]:
    return {
        "info": {"description": f"Farpose synthetic people, {split}", "version": "1", "url": "", "contributor": "Farpose"},
        "licenses": [LICENCE],
        "categories": [
            {
                "supercategory": "person",
                "id": 1,
                "name": "person",
                "keypoints": list(COCO_17.keypoint_names),
                "skeleton": [list(limb) for limb in COCO_LIMBS],
            }
        ],
        "images": [entry for entry, _, _ in records],
        "annotations": [annotation for _, annotations, _ in records for annotation in annotations],
    }
