"""Which of the detected persons have a right pose, by person's score: from which one `farpose predict` draws.

Run: python -m benchmarks.drawn --data coco

`farpose predict` runs with the released model on every fourth image of a COCO keypoint annotation file. A pose is right if its OKS with
an annotated person is above 0.4. A box is on no person if it overlaps no annotated person by more than 0.4 (intersection over union) and
less than half of it lies in a crowd's region. The record goes to results/detector/drawn.json.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.detector import about
from components.base.files import read_json, sha256_of, write_json
from components.detect.boxes import areas, intersections, overlaps
from components.evaluate.matching import object_keypoint_similarity
from components.pose.skeleton import COCO_17
from components.registry import released
from pipelines import paths

EDGES = (0.0, 0.1, 0.15, 0.2, 0.3, 0.4, 1.01)
EVERY, MOST = 4, 120
RIGHT = 0.4  # OKS
NEAR, INSIDE = 0.4, 0.5  # overlap with a person, share of a box in a crowd's region
MODEL = paths.RELEASED.name
COMMAND = "python -m benchmarks.drawn --data coco"


def predictions(files: list[Path], folder: Path) -> list[dict[str, Any]]:
    """What `farpose predict` writes for the images, with the index of the image."""
    command = [sys.executable, "-m", "pipelines.cli", "predict", *map(str, files), "--model", MODEL, "--no-draw", "--output", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    numbers = {int(number): record["file"] for number, record in read_json(folder / "images.json").items()}
    index = {path.name: place for place, path in enumerate(files)}
    found = read_json(folder / "predictions.json")
    return [{**record, "image": index[Path(numbers[record["image_id"]]).name]} for record in found]


def similarities(found: np.ndarray, persons: list[dict[str, Any]]) -> np.ndarray:
    """(N,) OKS of joints (K, 2), px, with N annotated persons."""
    truth = np.array([person["keypoints"] for person in persons], float).reshape(len(persons), -1, 3)
    sizes = np.array([person["area"] for person in persons], float)
    boxes = np.array([person["bbox"] for person in persons], float).reshape(-1, 4)
    return object_keypoint_similarity(np.repeat(found[None], len(persons), 0), truth, sizes, boxes, np.array(COCO_17.sigmas))


def corners(persons: list[dict[str, Any]]) -> np.ndarray:
    """(N, 4) left, top, right, bottom of annotations, px."""
    boxes = np.array([person["bbox"] for person in persons], float).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def judged(record: dict[str, Any], persons: list[dict[str, Any]]) -> dict[str, bool]:
    """Whether the pose is right, the box is on no person, and it lies in a crowd's region."""
    joints = np.array(record["keypoints"], float).reshape(-1, 3)[:, :2]
    box = corners([record])
    labelled = [person for person in persons if person["num_keypoints"] > 0 and not person.get("iscrowd")]
    crowds = corners([person for person in persons if person.get("iscrowd")])
    single = corners([person for person in persons if not person.get("iscrowd")])
    in_crowd = bool((intersections(box, crowds) > INSIDE * areas(box)).any())
    near = bool((overlaps(box, single) > NEAR).any())
    right = bool(labelled) and bool((similarities(joints, labelled) > RIGHT).any())
    return {"right": right, "nobody": not near and not in_crowd, "crowd": in_crowd}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with annotations/ and images")
    parser.add_argument("--part", default="val2017", help="name of the images' folder and end of the annotation file's name")
    parser.add_argument("--output", type=Path, default=Path("results/detector/drawn.json"))
    options = parser.parse_args()
    annotations = read_json(options.data / "annotations" / f"person_keypoints_{options.part}.json")
    images = annotations["images"][::EVERY][:MOST]
    persons: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for person in annotations["annotations"]:
        persons[person["image_id"]].append(person)
    with tempfile.TemporaryDirectory() as folder:
        found = predictions([options.data / options.part / image["file_name"] for image in images], Path(folder))
    verdicts = [judged(record, persons[images[record["image"]]["id"]]) for record in found]
    scores = [float(record["score"]) for record in found]
    rows = []
    for low, high in itertools.pairwise(EDGES):
        inside = [verdict for verdict, score in zip(verdicts, scores, strict=True) if low < score <= high]
        shares = {
            key: round(float(np.mean([verdict[key] for verdict in inside])), 3) if inside else None for key in ("right", "nobody", "crowd")
        }
        rows.append({"above": low, "up_to": min(high, 1.0), "persons": len(inside), **shares})
        print(rows[-1], flush=True)
    model = sha256_of(released.FOLDER / MODEL / "model.safetensors")
    single = [(verdict, score) for verdict, score in zip(verdicts, scores, strict=True) if not verdict["crowd"]]
    lost = {  # outside of crowds' regions, by the score up to which nothing is drawn: right poses and boxes on no person left out
        f"{edge:g}": {
            "right": sum(verdict["right"] for verdict, _ in single),
            "right_left_out": sum(verdict["right"] and score <= edge for verdict, score in single),
            "nobody": sum(verdict["nobody"] for verdict, _ in single),
            "nobody_left_out": sum(verdict["nobody"] and score <= edge for verdict, score in single),
        }
        for edge in (0.08, 0.1, 0.12, 0.15, 0.2)
    }
    print(lost)
    head = {**about(), "command": COMMAND, "versions": report.versions(), "images": len(images), "weights_sha256": model}
    write_json(options.output, {**head, "rows": rows, "left_out": lost})


if __name__ == "__main__":
    main()
