"""Our OKS evaluator against pycocotools and faster-coco-eval, from predictions in memory to the ten numbers.

Run: python -m benchmarks.evaluator. faster-coco-eval is no package of the lock; without `uv pip install --no-deps faster-coco-eval==1.7.2`
its row is left out, which is said. All have the same annotations and results in memory; its index of the annotations is made within its
time, as users of it do.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import report
from benchmarks.nms import detections
from components.evaluate.oks import NAMES, evaluate
from components.evaluate.predictions import Predictions
from components.pose.persons import Persons
from components.pose.skeleton import COCO_17

# persons, images and detections of COCO val2017 with the published detector boxes
PERSONS, IMAGES, DETECTIONS, TARGET = 6_352, 5_000, 104_125, 8.0


def scenes(persons: int, images: int, count: int, seed: int, levels: int | None) -> tuple[Persons, Predictions, np.ndarray]:
    """Random detections and annotated persons near some of them; crowd regions and persons without joints included.

    Args:
        levels: number of distinct scores (ties); None for all distinct.
    """
    rng = np.random.default_rng(seed)
    image, keypoints, scores, areas = detections(count, images, seed)
    scores = scores if levels is None else np.ceil(scores * levels) / levels
    truth = np.sort(rng.choice(count, persons, replace=False))
    visible = rng.integers(0, 3, (persons, 17)) * (rng.random((persons, 1)) > 0.3)
    joints = np.concatenate([keypoints[truth] * (visible[..., None] > 0), visible[..., None]], -1)
    low, extent = keypoints.min(1), np.ptp(keypoints, axis=1)
    boxes = np.concatenate([low, extent], 1)
    frame = pd.DataFrame(
        {
            "annotation_id": np.arange(1, persons + 1), "image_id": image[truth], "area": 0.53 * extent[truth].prod(1),
            "num_keypoints": (visible > 0).sum(1), "iscrowd": rng.random(persons) < 0.03,
        }
    )  # fmt: skip
    predictions = Predictions(image, np.full(count, -1), keypoints, np.repeat(scores[:, None], 17, 1), scores, boxes, areas)
    return Persons(frame, boxes[truth], joints, COCO_17), predictions, scores


def as_coco(persons: Persons, predictions: Predictions, scores: np.ndarray, images: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same persons and predictions as COCO's annotation mapping and results list."""
    annotations = [
        {
            "id": int(row.annotation_id), "image_id": int(row.image_id), "category_id": 1, "area": float(row.area), "bbox": box.tolist(),
            "iscrowd": int(row.iscrowd), "num_keypoints": int(row.num_keypoints), "keypoints": joints.ravel().tolist(),
        }
        for row, box, joints in zip(persons.frame.itertuples(), persons.bbox_xywh, persons.keypoints, strict=True)
    ]  # fmt: skip
    joints = np.concatenate([predictions.keypoints_image, predictions.keypoint_scores[..., None]], -1).reshape(len(scores), -1)
    results = [
        {"image_id": int(i), "category_id": 1, "keypoints": row.tolist(), "score": float(score)}
        for i, row, score in zip(predictions.image_id, joints, scores, strict=True)
    ]
    categories = [{"id": 1, "name": "person", "keypoints": list(COCO_17.keypoint_names), "skeleton": []}]
    return {"images": [{"id": i} for i in range(images)], "annotations": annotations, "categories": categories}, results


def by_pycocotools(coco: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return _ten_numbers(COCO, COCOeval, coco, results)


def by_faster_coco_eval(coco: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, float]:
    other = importlib.import_module("faster_coco_eval")  # by name, because the lock does not have it
    return _ten_numbers(other.COCO, other.COCOeval_faster, coco, results)


def _ten_numbers(annotations: Any, evaluation: Any, coco: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, float]:
    """What both packages compute through classes of the same form."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = annotations()
        truth.dataset = coco
        truth.createIndex()
        evaluator = evaluation(truth, truth.loadRes(results), "keypoints")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return dict(zip(NAMES, map(float, evaluator.stats[: len(NAMES)]), strict=True))


OTHERS: dict[str, Callable[[dict[str, Any], list[dict[str, Any]]], dict[str, float]]] = {"pycocotools": by_pycocotools}
if importlib.util.find_spec("faster_coco_eval"):
    OTHERS["faster-coco-eval"] = by_faster_coco_eval


def largest_difference(persons: int, images: int, count: int, seed: int, levels: int | None) -> float:
    """Largest difference between our ten numbers and those of the other evaluators on one set."""
    made = scenes(persons, images, count, seed, levels)
    ours = evaluate(*made, np.arange(images))
    found = [other(*copy.deepcopy(as_coco(*made, images))) for other in OTHERS.values()]
    return max(abs(ours[name] - theirs[name]) for theirs in found for name in NAMES)


def main() -> None:
    if len(OTHERS) == 1:
        print("faster-coco-eval is not installed, so its row is left out", file=sys.stderr)
    sets = [(300, 100, 2_500, seed, levels) for seed in range(3) for levels in (None, 10)] + [(PERSONS, IMAGES, DETECTIONS, 0, 1000)]
    differences = [largest_difference(*each) for each in sets]
    if max(differences) > 1e-9:
        raise SystemExit(f"the ten numbers differ by up to {max(differences):g}")
    made = scenes(PERSONS, IMAGES, DETECTIONS, 0, None)
    coco, results = as_coco(*made, IMAGES)
    subjects: dict[str, Callable[[], Any]] = {name: partial(_on_copies, other, coco, results) for name, other in OTHERS.items()}
    seconds = report.interleave(
        subjects | {"copies": partial(copy.deepcopy, (coco, results)), "ours": partial(evaluate, *made, np.arange(IMAGES))}
    )
    facts: dict[str, Any] = {"persons": PERSONS, "images": IMAGES, "detections": DETECTIONS}
    facts |= {"sets_equal": len(sets), "largest_difference": max(differences)}
    rows = []
    for name in OTHERS:
        theirs = [took - copied for took, copied in zip(seconds[name], seconds["copies"], strict=True)]
        rows.append(report.row(f"{name} / ours", theirs, seconds["ours"], TARGET, **facts))
    report.write("evaluator", rows, seconds=seconds)


def _on_copies(other: Callable[..., Any], coco: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, float]:
    """The others write into what they are given; the time of copying is subtracted."""
    found: dict[str, float] = other(*copy.deepcopy((coco, results)))
    return found


if __name__ == "__main__":
    main()
