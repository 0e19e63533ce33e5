"""Predicted persons in memory and as a COCO results file that carries its provenance."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from components.base.errors import FarposeError
from components.base.files import atomic_file, read_json
from components.pose.crop import BOX_PADDING
from components.pose.persons import COCO_PERSON
from components.pose.skeleton import Skeleton

PERSON_CATEGORY = COCO_PERSON
CORRECT = "correct the record, or leave it out"


@dataclass(frozen=True)
class Predictions:
    """N predicted persons.

    Attributes:
        image_id: (N,) int64.
        annotation_id: (N,) int64, the annotated person whose box was cropped; -1 for a detector's box and without boxes.
        keypoints_image: (N, K, 2) float64, x and y in image px.
        keypoint_scores: (N, K) float64.
        box_scores: (N,) float64, 1 for annotated boxes and without boxes.
        bbox_xywh: (N, 4) float64, the unpadded box, image px; without boxes the extent of the joints found.
        areas: (N,) float64, area of the padded box (1.25 times wider and higher, input's aspect ratio where it was cropped), px².
        ranking: (N, K) float64, what persons are ranked by; None: by `keypoint_scores`.
    """

    image_id: np.ndarray
    annotation_id: np.ndarray
    keypoints_image: np.ndarray
    keypoint_scores: np.ndarray
    box_scores: np.ndarray
    bbox_xywh: np.ndarray
    areas: np.ndarray
    ranking: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.image_id)

    @property
    def ranked_by(self) -> np.ndarray:
        """(N, K) joint scores from which a person's score is made."""
        return self.keypoint_scores if self.ranking is None else self.ranking

    def select(self, rows: np.ndarray) -> Predictions:
        """The rows of a bool mask or an index array, in order."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return Predictions(**{name: column[rows] for name, column in columns.items() if column is not None})


def write_coco_results(
    path: str | Path,
    predictions: Predictions,
    scores: np.ndarray,
    provenance: Mapping[str, Any],
    files: Mapping[int, str] | None = None,
    category_id: int = PERSON_CATEGORY,
) -> None:
    """Write a COCO keypoint results list; `pycocotools.COCO.loadRes` reads it and scores it as `evaluate.oks` does.

    The box is stored as `box_xywh`: under the name `bbox` pycocotools would take AP(M) and AP(L) from the box's area instead
    of the keypoints' extent, which is not how keypoint results are scored.

    Args:
        scores: (N,) score of each person.
        provenance: what made the predictions; repeated in every record.
        files: by image id the name of a user's image, which is nobody's to score: it is stored as `file_name`, and the box as `bbox` too.
        category_id: of persons in the data set's annotations, see `Persons.category_id`.
    Raises:
        FarposeError: a coordinate or score is not finite.
    """
    finite = np.isfinite(predictions.keypoints_image).all((1, 2)) & np.isfinite(predictions.keypoint_scores).all(1) & np.isfinite(scores)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise FarposeError(
            f"prediction {row} (image {predictions.image_id[row]}) is not finite", where=path, fix="look at this model's loss and weights"
        )
    joints = np.concatenate([predictions.keypoints_image, predictions.keypoint_scores[..., None]], -1)
    records = [_record(predictions, joints, scores, provenance, row) | {"category_id": category_id} for row in range(len(predictions))]
    if files is not None:
        records = [{**record, "file_name": files[record["image_id"]], "bbox": record["box_xywh"]} for record in records]
    text = ",\n".join(map(json.dumps, records))
    with atomic_file(path) as temporary:
        temporary.write_text(f"[{text}]\n")


def _record(predictions: Predictions, joints: np.ndarray, scores: np.ndarray, provenance: Mapping[str, Any], row: int) -> dict[str, Any]:
    record: dict[str, Any] = {
        "image_id": int(predictions.image_id[row]),
        "category_id": PERSON_CATEGORY,
        "keypoints": joints[row].ravel().tolist(),
        "score": float(scores[row]),
        "box_score": float(predictions.box_scores[row]),
        "box_xywh": predictions.bbox_xywh[row].tolist(),
        "box_area_padded": float(predictions.areas[row]),
    }
    if predictions.annotation_id[row] >= 0:
        record["annotation_id"] = int(predictions.annotation_id[row])
    return record | {"provenance": dict(provenance)}


def read_coco_results(path: str | Path, skeleton: Skeleton, image_ids: Collection[int] | None = None) -> tuple[Predictions, np.ndarray]:
    """Read a COCO keypoint results file, ours or another tool's, as predictions and their (N,) person scores.

    Without `box_xywh` in every record the extent of the keypoints serves as box. `annotation_id`, or `person` in files of others, is the
    annotated person whose box was given.

    Args:
        image_ids: the images that may appear; None allows any.
    Raises:
        FarposeError: no JSON list of results, a wrong number of joints, a value that is not finite or an unknown image;
            names the record.
    """
    records = _records(path, "keypoints", 3 * len(skeleton), image_ids)
    joints = _numbers(records, "keypoints", 3 * len(skeleton), path).reshape(-1, len(skeleton), 3)
    scores = _numbers(records, "score", 1, path)[:, 0]
    boxes = _boxes(records, joints[..., :2], path)
    padded = BOX_PADDING**2 * boxes[:, 2:].prod(1)
    told = [{"box_score": r["score"], "box_area_padded": own, **r} for r, own in zip(records, padded.tolist(), strict=True)]
    predictions = Predictions(
        image_id=np.array([r["image_id"] for r in records], np.int64),
        annotation_id=np.array([_annotation_of(r, f"{path}: record {row}") for row, r in enumerate(records)], np.int64),
        keypoints_image=joints[..., :2],
        keypoint_scores=joints[..., 2],
        box_scores=_numbers(told, "box_score", 1, path)[:, 0],
        bbox_xywh=boxes,
        areas=_numbers(told, "box_area_padded", 1, path)[:, 0],
    )
    return predictions, scores


def _annotation_of(record: dict[str, Any], where: str) -> int:
    """The annotated person whose box was given; -1 where the record names none."""
    found = record.get("annotation_id", record.get("person", -1))
    if type(found) is not int:
        raise FarposeError(f"the person's id is no integer: {found!r}", where=where, fix=CORRECT)
    return found


def _boxes(records: list[dict[str, Any]], keypoints: np.ndarray, path: str | Path) -> np.ndarray:
    """(N, 4) the stored boxes, or the extent of the keypoints where a record has none."""
    if all("box_xywh" in record for record in records):
        for row, record in enumerate(records):
            if not isinstance(record["box_xywh"], list) or len(record["box_xywh"]) != 4:
                problem = f"box_xywh needs 4 numbers, got {record['box_xywh']!r:.60}"
                raise FarposeError(problem, where=f"{path}: record {row}", fix=CORRECT)
        return _numbers(records, "box_xywh", 4, path)
    return np.concatenate([keypoints.min(1), np.ptp(keypoints, axis=1)], 1)


def _records(path: str | Path, key: str, length: int, image_ids: Collection[int] | None) -> list[dict[str, Any]]:
    records = read_json(path)
    if not isinstance(records, list):
        raise FarposeError("expected a list of COCO results", where=path, fix=f"each with image_id, {key} and score")
    known = None if image_ids is None else {int(i) for i in image_ids}
    for row, record in enumerate(records):
        found = _problem(record, key, length, known)
        if found:
            raise FarposeError(found[0], where=f"{path}: record {row}", fix=found[1])
    return records


def _problem(record: Any, key: str, length: int, known: set[int] | None) -> tuple[str, str] | None:
    """What is wrong with a record, and the way out."""
    if not isinstance(record, dict):
        return f"expected a mapping, got {record!r:.60}", CORRECT
    missing = [name for name in ("image_id", key, "score") if name not in record]
    if missing:
        return f"{missing[0]} is missing", CORRECT
    if type(record["image_id"]) is not int:
        return f"image_id is no integer: {record['image_id']!r}", CORRECT
    if known is not None and record["image_id"] not in known:
        return f"image {record['image_id']} is not in the data set", "give the results of this data set and split, or leave the record out"
    if not isinstance(record[key], list) or len(record[key]) != length:
        fix = f"give predictions of the data set's {length // 3} joints, each x, y, score" if key == "keypoints" else CORRECT
        return f"{key} needs {length} numbers, got {record[key]!r:.60}", fix
    return None


def _numbers(records: list[dict[str, Any]], key: str, width: int, path: str | Path) -> np.ndarray:
    """(N, width) finite float64; all values are checked at once, and one by one only to name the culprit."""
    flat = [value for record in records for value in record[key]] if width > 1 else [record[key] for record in records]
    if set(map(type, flat)) <= {int, float}:
        numbers = np.array(flat, np.float64).reshape(-1, width)
        if np.isfinite(numbers).all():
            return numbers
    bad = next(i for i, value in enumerate(flat) if type(value) not in (int, float) or not math.isfinite(value))
    raise FarposeError(f"{key} holds {flat[bad]!r}, which is no finite number", where=f"{path}: record {bad // width}", fix=CORRECT)
