"""How many persons the shipped detector finds, by height, with tiles and without. Run: python -m benchmarks.detector

Images are those of a COCO keypoint annotation file (`--data`, its part `--part`), each alone and as mosaics: n x n images side by side,
in their own px, which makes large images whose persons' heights are known. A person counts who has a labelled joint and whose box a
detection overlaps by at least 0.5 (intersection over union), each detection for one person, the best pairs first. A detection is
`wrong` if it overlaps no annotated person by 0.5, those without labelled joints included, and lies for less than half of it in a crowd.

The record goes to results/detector/recall.json. `cpu_seconds` is the median processor time of a scene; ONNX Runtime has one thread.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from components.base.files import read_json, write_json
from components.degrade.images import read_image
from components.detect.boxes import areas, intersections, overlaps
from components.detect.detector import PersonDetector

HEIGHTS = (0, 24, 32, 40, 48, 64, 96, 128, 192, 256, 100_000)  # px of the image: edges of the bins
SCORES = (0.2, 0.25, 0.3, 0.35, 0.4, 0.5)
SAME = 0.5
COMMAND = "python -m benchmarks.detector --data coco"
PLAN = ((2, None), (2, 520), (2, 416), (4, None), (4, 520), (1, None), (4, 416))  # mosaic, and side of the smallest tiles, px
IMAGES = {1: None, 2: 80, 4: 80}  # the first ones of the part; None: all


@dataclass(frozen=True)
class Scene:
    """An image with its annotated boxes (N, 4), left, top, right, bottom, px; `wanted` (N,) have joints, the `crowd` (N,) are regions."""

    image: np.ndarray
    boxes: np.ndarray
    wanted: np.ndarray
    crowd: np.ndarray


def scenes(annotations: dict[str, Any], folder: Path, grid: int, most: int | None) -> Iterator[Scene]:
    """Mosaics of grid x grid consecutive images; the last one may have empty places, which are grey."""
    images = annotations["images"][:most]
    persons: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in images}
    for person in annotations["annotations"]:
        persons.get(person["image_id"], []).append(person)
    for start in range(0, len(images), grid * grid):
        group = images[start : start + grid * grid]
        read = [read_image(folder / image["file_name"]) for image in group]
        height, width = (max(image.shape[axis] for image in read) for axis in (0, 1))
        canvas = np.full((height * grid, width * grid, 3), 114, np.uint8)
        rows = []
        for place, (record, image) in enumerate(zip(group, read, strict=True)):
            top, left = place // grid * height, place % grid * width
            canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
            rows += [(left, top, person) for person in persons[record["id"]]]
        boxes = np.array([[left + p["bbox"][0], top + p["bbox"][1], *p["bbox"][2:]] for left, top, p in rows]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        crowd = np.array([bool(p.get("iscrowd")) for _, _, p in rows], bool)
        yield Scene(canvas, boxes, ~crowd & np.array([p["num_keypoints"] > 0 for _, _, p in rows], bool), crowd)


def matched(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """(N,) bool: the annotated boxes that a detection of their own overlaps by `SAME`, the best pairs first."""
    table = overlaps(truth, found)
    hit = np.zeros(len(truth), bool)
    while table.size and table.max() >= SAME:
        person, detection = np.unravel_index(table.argmax(), table.shape)
        hit[person] = True
        table[person], table[:, detection] = -1, -1
    return hit


def wrong(scene: Scene, found: np.ndarray) -> int:
    """Detections of no annotated person and of no crowd."""
    if not len(scene.boxes):
        return len(found)
    person = (overlaps(found, scene.boxes[~scene.crowd]) >= SAME).any(1)
    crowd = (intersections(found, scene.boxes[scene.crowd]) >= 0.5 * areas(found)[:, None]).any(1)
    return int((~person & ~crowd).sum())


def measure(detector: PersonDetector, given: list[Scene], tile: int | None) -> dict[str, Any]:
    """Recall and wrong detections at all `SCORES`, and the processor time of a scene."""
    heights = np.concatenate([scene.boxes[scene.wanted, 3] - scene.boxes[scene.wanted, 1] for scene in given])
    hits: dict[float, list[np.ndarray]] = {score: [] for score in SCORES}
    false = dict.fromkeys(SCORES, 0)
    seconds, passes = [], 0
    for scene in given:
        started = time.process_time()
        found = detector.find(scene.image, min(SCORES), tile)
        seconds.append(time.process_time() - started)
        passes += found.tiles
        boxes = np.concatenate([found.bbox_xywh[:, :2], found.bbox_xywh[:, :2] + found.bbox_xywh[:, 2:]], -1)
        for score in SCORES:
            strong = boxes[found.scores >= score]
            hits[score].append(matched(scene.boxes[scene.wanted], strong))
            false[score] += wrong(scene, strong)
    rows = {}
    for score in SCORES:
        hit = np.concatenate(hits[score])
        bins = [(heights >= low) & (heights < high) for low, high in itertools.pairwise(HEIGHTS)]
        rows[f"{score:g}"] = {
            "recall": round(float(hit.mean()), 4),
            "by_height": [round(float(hit[rows].mean()), 3) if rows.any() else None for rows in bins],
            "found": int(hit.sum()),
            "wrong": false[score],
        }
    counts = np.histogram(heights, HEIGHTS)[0].tolist()
    passes_each = round(passes / len(given), 2)
    return {
        "tile": tile, "scenes": len(given), "persons": counts, "passes": passes_each,
        "cpu_seconds": round(float(np.median(seconds)), 3), "scores": rows,
    }  # fmt: skip


def about() -> dict[str, Any]:
    """The record's head."""
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    versions = {
        name: version for name, version in report.versions().items() if name in ("python", "numpy", "opencv-python-headless", "onnxruntime")
    }
    return {"command": COMMAND, "date": date, "hardware": report.hardware(), "versions": versions}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with annotations/ and images")
    parser.add_argument("--part", default="val2017", help="name of the images' folder and end of the annotation file's name")
    parser.add_argument("--output", type=Path, default=Path("results/detector/recall.json"))
    options = parser.parse_args()
    annotations = read_json(options.data / "annotations" / f"person_keypoints_{options.part}.json")
    detector, results = PersonDetector.open(threads=1), []
    for grid, tile in PLAN:
        given = list(scenes(annotations, options.data / options.part, grid, IMAGES[grid]))
        row = measure(detector, given, tile)
        height, width = np.median([scene.image.shape[:2] for scene in given], axis=0).astype(int).tolist()
        results.append({"grid": grid, "median_size": f"{width}x{height}", **row})
        at = row["scores"]["0.3"]
        print(grid, tile, row["passes"], row["cpu_seconds"], at["recall"], at["by_height"], at["wrong"], flush=True)
        write_json(options.output, {**about(), "heights": HEIGHTS, "results": results})


if __name__ == "__main__":
    main()
