"""Annotated scenes, predictions on them, and pycocotools as the oracle; shared by the evaluation tests."""

from __future__ import annotations

import contextlib
import copy
import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from components.degrade.shards import EvalCrops
from components.evaluate.oks import NAMES
from components.evaluate.predictions import Predictions
from components.pose.crop import CropGeometry
from components.pose.persons import Persons
from components.pose.skeleton import COCO_17, Skeleton


def persons_of(coco: dict[str, Any], skeleton: Skeleton = COCO_17) -> Persons:
    """The persons table of a COCO keypoint annotation mapping."""
    annotations, sizes = coco["annotations"], {image["id"]: image for image in coco["images"]}
    frame = pd.DataFrame(
        {
            "annotation_id": [a["id"] for a in annotations],
            "image_id": [a["image_id"] for a in annotations],
            "image_path": [f"{a['image_id']:012d}.jpg" for a in annotations],
            "image_width": [sizes[a["image_id"]].get("width", 640) for a in annotations],
            "image_height": [sizes[a["image_id"]].get("height", 480) for a in annotations],
            "area": [float(a["area"]) for a in annotations],
            "num_keypoints": [a["num_keypoints"] for a in annotations],
            "iscrowd": [bool(a["iscrowd"]) for a in annotations],
            "head_size": np.nan,
            "crowd_index": np.nan,
            "split": "val",
            "source": "test",
            "licence": "",
        }
    )
    boxes = np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4)
    keypoints = np.array([a["keypoints"] for a in annotations], np.float64).reshape(-1, len(skeleton), 3)
    return Persons(frame, boxes, keypoints, skeleton)


def image_ids_of(coco: dict[str, Any]) -> np.ndarray:
    return np.unique([image["id"] for image in coco["images"]])


def random_coco(seed: int, images: int = 30, sizes: tuple[float, float] = (10, 250)) -> dict[str, Any]:
    """Scenes with crowd regions, persons without labelled joints, empty images and persons of all area ranges."""
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    for image in range(1, images + 1):
        for _ in range(int(rng.integers(0, 7))):
            height = float(np.exp(rng.uniform(*np.log(sizes))))
            box = [*rng.uniform(0, 300, 2), 0.5 * height, height]
            xy = rng.uniform(0, 1, (17, 2)) * box[2:] + box[:2]
            visible = rng.integers(0, 3, 17) * (rng.random() > 0.15)
            joints = np.concatenate([xy * (visible[:, None] > 0), visible[:, None]], 1)
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": image, "category_id": 1, "bbox": box,
                    "area": float(box[2] * box[3] * rng.uniform(0.4, 0.9)), "iscrowd": int(rng.random() < 0.1),
                    "keypoints": joints.ravel().tolist(), "num_keypoints": int((visible > 0).sum()),
                }
            )  # fmt: skip
    return coco_of([{"id": i, "width": 640, "height": 480} for i in range(1, images + 1)], annotations)


def coco_of(images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> dict[str, Any]:
    categories = [{"id": 1, "name": "person", "keypoints": list(COCO_17.keypoint_names), "skeleton": []}]
    return {"images": images, "annotations": annotations, "categories": categories}


def read_coco(path: Path) -> dict[str, Any]:
    """An annotation file, gzipped or not, each image once."""
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    coco = json.loads(text)
    images = list({image["id"]: image for image in coco["images"]}.values())
    return coco_of(images, coco["annotations"])


def noisy_predictions(
    coco: dict[str, Any], seed: int, per_person: float = 1.5, noise: float = 0.06, false_alarms: int = 2, levels: int | None = None
) -> tuple[Predictions, np.ndarray]:
    """Detections around the annotated persons and elsewhere; `levels` quantises the scores to make ties.

    Some predictions are exact copies of the annotation, and the first image receives 30 detections.
    """
    rng = np.random.default_rng(seed)
    persons = persons_of(coco)
    times = rng.poisson(per_person, len(persons))
    rows = np.repeat(np.arange(len(persons)), times)
    spread = np.sqrt(persons.frame["area"].to_numpy()[rows])[:, None, None] * noise * rng.exponential(1, (len(rows), 1, 1))
    exact = rng.random((len(rows), 1, 1)) < 0.1
    near = persons.keypoints[rows, :, :2] + rng.normal(0, 1, (len(rows), 17, 2)) * np.where(exact, 0, spread)
    image = persons.frame["image_id"].to_numpy()[rows]
    alarms = np.concatenate([np.repeat(image_ids_of(coco), false_alarms), np.repeat(image_ids_of(coco)[0], 30)])
    alarms = alarms[rng.random(len(alarms)) < 0.7]
    far = rng.uniform(0, 300, (len(alarms), 1, 2)) + rng.normal(0, 1, (len(alarms), 17, 2)) * rng.uniform(3, 90, (len(alarms), 1, 1))
    keypoints, image = np.concatenate([near, far]), np.concatenate([image, alarms])
    scores = np.concatenate([1 / (1 + spread[:, 0, 0]), rng.uniform(0, 0.5, len(alarms))]) * rng.uniform(0.5, 1, len(image))
    if levels:
        scores = np.ceil(scores * levels) / levels
    order = rng.permutation(len(image))
    return predictions_of(image[order], keypoints[order], scores[order]), scores[order]


def predictions_of(image_id: np.ndarray, keypoints: np.ndarray, scores: np.ndarray, annotation_id: np.ndarray | None = None) -> Predictions:
    count = len(image_id)
    low = keypoints.min(1) if count else np.zeros((0, 2))
    extent = np.ptp(keypoints, axis=1) if count else np.zeros((0, 2))
    return Predictions(
        image_id=np.asarray(image_id, np.int64),
        annotation_id=np.full(count, -1) if annotation_id is None else np.asarray(annotation_id, np.int64),
        keypoints_image=keypoints,
        keypoint_scores=np.repeat(np.asarray(scores)[:, None], keypoints.shape[1], 1),
        box_scores=np.asarray(scores, np.float64),
        bbox_xywh=np.concatenate([low, extent], 1),
        areas=extent.prod(1) * 1.5625,
    )


def crops_of(persons: Persons, geometry: CropGeometry) -> EvalCrops:
    """Evaluation crops of all `persons` whose first pixel holds the row + 1 (red: low byte, green: high byte), else black."""
    center, size = geometry.box_to_center_size(persons.bbox_xywh)
    pixels = np.zeros((len(persons), 3, *geometry.input_size), np.uint8)
    numbers = np.arange(1, len(persons) + 1)
    pixels[:, 0, 0, 0], pixels[:, 1, 0, 0] = numbers % 256, numbers // 256
    frame = persons.frame
    return EvalCrops(
        pixels=pixels,
        annotation_id=frame["annotation_id"].to_numpy(),
        image_id=frame["image_id"].to_numpy(),
        image_path=frame["image_path"].to_numpy(dtype=object),
        center=center,
        size=size,
        bbox_xywh=persons.bbox_xywh,
        keypoints_image=persons.keypoints,
        area=frame["area"].to_numpy(),
        skeleton=persons.skeleton,
        protocol="direct",
        geometry=geometry,
    )


def truth_as_predictions(persons: Persons) -> tuple[Predictions, np.ndarray]:
    """The labelled persons' own joints as predictions of score 1."""
    labelled = persons.labelled()
    frame, count = labelled.frame, len(labelled)
    made = predictions_of(frame["image_id"].to_numpy(), labelled.keypoints[..., :2], np.ones(count), frame["annotation_id"].to_numpy())
    return made, np.ones(count)


def records_of(predictions: Predictions, scores: np.ndarray) -> list[dict[str, Any]]:
    joints = np.concatenate([predictions.keypoints_image, predictions.keypoint_scores[..., None]], -1).reshape(len(predictions), -1)
    return [
        {"image_id": int(image), "category_id": 1, "keypoints": joint.tolist(), "score": float(score)}
        for image, joint, score in zip(predictions.image_id, joints, scores, strict=True)
    ]


def oracle(
    coco: dict[str, Any],
    records: list[dict[str, Any]] | str,
    image_ids: np.ndarray | None = None,
    sigmas: tuple[float, ...] = COCO_17.sigmas,
    detection_areas: np.ndarray | None = None,
) -> dict[str, float]:
    """The ten numbers by pycocotools.

    Args:
        records: a results list or the path of a results file.
        detection_areas: of the records, px²; None: as pycocotools takes them.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(coco)
        truth.createIndex()
        found = truth.loadRes(copy.deepcopy(records))
        for row, area in enumerate([] if detection_areas is None else detection_areas.tolist()):
            found.anns[row + 1]["area"] = area
        evaluator = COCOeval(truth, found, "keypoints")
        evaluator.params.kpt_oks_sigmas = np.array(sigmas)
        if image_ids is not None:
            evaluator.params.imgIds = [int(i) for i in image_ids]
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return dict(zip(NAMES, map(float, evaluator.stats), strict=True))
