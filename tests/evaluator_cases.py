"""Random scenes of every benchmark's joints, with predictions on them, and each benchmark's numbers by independent means."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from components.evaluate.predictions import Predictions
from components.pose.persons import Persons
from components.pose.skeleton import CROWDPOSE_14, MPII_16, WHOLEBODY_133, Skeleton
from tests import evaluation_cases as cases

# of the authors' files, counted out here again
PARTS = {"body": (0, 17), "foot": (17, 23), "face": (23, 91), "lefthand": (91, 112), "righthand": (112, 133)}
MPII_GROUPS = {"head": (9,), "shoulder": (12, 13), "elbow": (11, 14), "wrist": (10, 15), "hip": (2, 3), "knee": (1, 4), "ankle": (0, 5)}
Scene = tuple[Persons, Predictions, np.ndarray]


def scene(seed: int, skeleton: Skeleton, images: int = 12, levels: int | None = None) -> Scene:
    """Persons of any skeleton, crowd regions and persons without labelled joints or parts included, and detections on them."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 4 * images))
    image = np.sort(rng.integers(1, images + 1, count))
    height = np.exp(rng.uniform(*np.log((10, 250)), count))
    boxes = np.stack([*rng.uniform(0, 300, (2, count)), 0.5 * height, height], 1)
    joints = boxes[:, None, :2] + rng.uniform(0, 1, (count, len(skeleton), 2)) * boxes[:, None, 2:]
    flags = rng.integers(0, 3, joints.shape[:2]) * (rng.random((count, 1)) > 0.15)
    for start, end in PARTS.values() if skeleton is WHOLEBODY_133 else ():
        flags[:, start:end] *= rng.random((count, 1)) > 0.4
    numbers, counted = np.arange(1, count + 1), skeleton.counted_mask
    coco = cases.coco_of([{"id": i} for i in range(1, images + 1)], [])
    coco["annotations"] = [
        {
            "id": int(numbers[i]), "image_id": int(image[i]), "category_id": 1, "bbox": boxes[i].tolist(),
            "area": 0.53 * float(boxes[i, 2:].prod()), "iscrowd": int(rng.random() < 0.1),
            "num_keypoints": int((flags[i, counted] > 0).sum()), "keypoints": np.c_[joints[i], flags[i]].ravel().tolist(),
        }
        for i in range(count)
    ]  # fmt: skip
    persons = cases.persons_of(coco, skeleton)
    index = np.round(rng.uniform(0, 1.2, images + 1), 1)  # ends of the levels are among them
    persons.frame["crowd_index"] = index[image]
    persons.frame["head_size"] = np.where(rng.random(count) < 0.1, np.nan, 0.15 * height)
    return persons, *_found(rng, persons, images, levels)


def _found(rng: np.random.Generator, persons: Persons, images: int, levels: int | None) -> tuple[Predictions, np.ndarray]:
    rows = np.repeat(np.arange(len(persons)), rng.poisson(1.5, len(persons)))
    spread = np.sqrt(persons.frame["area"].to_numpy()[rows])[:, None, None] * 0.06 * rng.exponential(1, (len(rows), 1, 1))
    joints = persons.keypoints[rows, :, :2] + rng.normal(0, 1, (len(rows), len(persons.skeleton), 2)) * spread
    alarms = rng.integers(1, images + 1, 2 * images)
    far = rng.uniform(0, 300, (len(alarms), 1, 2)) + rng.normal(0, 40, (len(alarms), len(persons.skeleton), 2))
    image = np.concatenate([persons.frame["image_id"].to_numpy()[rows], alarms])
    scores = np.concatenate([1 / (1 + spread[:, 0, 0]), rng.uniform(0, 0.5, len(alarms))]) * rng.uniform(0.5, 1, len(image))
    scores = np.ceil(scores * levels) / levels if levels else scores
    order = rng.permutation(len(image))
    return cases.predictions_of(image[order], np.concatenate([joints, far])[order], scores[order]), scores[order]


def own_predictions(seed: int, persons: Persons) -> Predictions:
    """One prediction for most labelled persons, off by a part of a head."""
    rng = np.random.default_rng(seed)
    labelled = persons.labelled()
    rows = rng.permutation(len(labelled))[: int(np.ceil(0.9 * len(labelled)))]
    spread = 0.15 * labelled.bbox_xywh[rows, 3, None, None] * rng.exponential(0.4, (len(rows), 1, 1))
    joints = labelled.keypoints[rows, :, :2] + spread * rng.normal(0, 1, (len(rows), len(persons.skeleton), 2))
    frame = labelled.frame.iloc[rows]
    return cases.predictions_of(frame["image_id"].to_numpy(), joints, np.ones(len(rows)), frame["annotation_id"].to_numpy())


def crowdpose_by_pycocotools(persons: Persons, predictions: Predictions, scores: np.ndarray, image_ids: np.ndarray) -> dict[str, float]:
    """Overall and on each subset of the images, one evaluation each."""
    coco, records = as_coco(persons, image_ids), cases.records_of(predictions, scores)
    index = dict(zip(persons.frame["image_id"], persons.frame["crowd_index"], strict=True))
    level = {i: 0 if index.get(i, 0) < 0.2 else 1 if index.get(i, 0) < 0.8 else 2 for i in image_ids.tolist()}
    found = cases.oracle(coco, records, image_ids, CROWDPOSE_14.sigmas)
    numbers = {name: value for name, value in found.items() if not name.endswith(("_M", "_L"))}
    for number, name in enumerate(("easy", "medium", "hard")):
        own = np.array([i for i in image_ids.tolist() if level[i] == number])
        numbers[f"AP_{name}"] = cases.oracle(coco, records, own, CROWDPOSE_14.sigmas)["AP"] if len(own) else -1.0
    return numbers


def wholebody_by_pycocotools(persons: Persons, predictions: Predictions, scores: np.ndarray, image_ids: np.ndarray) -> dict[str, float]:
    """Of all joints, of all joints with the body's extent as detection area, and of each part's joints, one evaluation each."""
    sigmas, every = WHOLEBODY_133.sigmas, cases.records_of(predictions, scores)
    numbers = cases.oracle(as_coco(persons, image_ids), every, image_ids, sigmas)
    body = np.ptp(predictions.keypoints_image[:, :17], axis=1).prod(-1)
    extent = cases.oracle(as_coco(persons, image_ids), every, image_ids, sigmas, body)
    numbers |= {f"{name}_body_extent": extent[name] for name in ("AP_M", "AP_L", "AR_M", "AR_L")}
    for part, (start, end) in PARTS.items():
        records = [record | {"keypoints": record["keypoints"][3 * start : 3 * end]} for record in every]
        found = cases.oracle(as_coco(persons, image_ids, start, end), records, image_ids, sigmas[start:end])
        numbers |= {f"AP_{part}": found["AP"], f"AR_{part}": found["AR"]}
    return numbers


def as_coco(persons: Persons, image_ids: np.ndarray, start: int = 0, end: int | None = None) -> dict[str, Any]:
    """The persons as COCO's mapping, with some of their joints; num_keypoints counts these, but for the skeleton's uncounted ones."""
    joints, counted = persons.keypoints[:, start:end], persons.skeleton.counted_mask[start:end]
    annotations = [
        {
            "id": int(row.annotation_id), "image_id": int(row.image_id), "category_id": 1, "bbox": box.tolist(), "area": float(row.area),
            "iscrowd": int(row.iscrowd), "num_keypoints": int((own[counted, 2] > 0).sum()), "keypoints": own.ravel().tolist(),
        }
        for row, box, own in zip(persons.frame.itertuples(), persons.bbox_xywh, joints, strict=True)
    ]  # fmt: skip
    return cases.coco_of([{"id": int(i)} for i in image_ids], annotations)


def pckh_by_hand(persons: Persons, predictions: Predictions) -> dict[str, float]:
    """Person by person and joint by joint; the mean as the authors weigh it: each joint's share by its part of all labelled joints."""
    assert persons.skeleton is MPII_16
    near: dict[tuple[str, int], int] = {}
    total = dict.fromkeys(range(16), 0)
    left_out, own = 0, {int(i): row for row, i in enumerate(predictions.annotation_id)}
    limits = {"50": 0.5, "10": 0.1, "11_legacy": 0.11}
    for row in range(len(persons)):
        frame = persons.frame.iloc[row]
        if frame["iscrowd"] or frame["num_keypoints"] == 0:
            continue
        if math.isnan(frame["head_size"]):
            left_out += 1
            continue
        found = own.get(int(frame["annotation_id"]))
        for k in range(16):
            if persons.keypoints[row, k, 2] > 0:
                total[k] += 1
                error = math.inf
                if found is not None:
                    error = math.dist(predictions.keypoints_image[found, k], persons.keypoints[row, k, :2]) / frame["head_size"]
                for name, limit in limits.items():
                    near[name, k] = near.get((name, k), 0) + (error <= limit)
    joints = [k for k in range(16) if k not in (6, 7) and total[k]]
    labelled = sum(total[k] for k in joints)
    numbers = {f"PCKh_{name}": sum(near[name, k] / total[k] * (total[k] / labelled) for k in joints) for name in limits}
    for group, both in MPII_GROUPS.items():
        if all(total[k] for k in both):
            numbers[f"PCKh_50_{group}"] = sum(near["50", k] / total[k] for k in both) / len(both)
    return numbers | {"PCKh_left_out": left_out}
