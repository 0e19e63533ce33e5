"""Other networks' predictions, scored on the same persons as our variants, by the same rules.

The file is a COCO results list, gzipped or not. Scores and repeats are the file's own: nothing is scored again or dropped. Records that
name the annotated person whose box was given (`annotation_id` or `person`) are scored as with annotated boxes; a file that names no
person is scored as one of whole images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from components.base.errors import FarposeError
from components.base.files import sha256_of, write_json
from components.evaluate import curves
from components.evaluate.assignment import assign
from components.evaluate.evaluators import evaluator
from components.evaluate.headline import GT, NONE, PROTOCOLS
from components.evaluate.matching import rows_of
from components.evaluate.params import EvaluateParams
from components.evaluate.predictions import Predictions, read_coco_results
from components.evaluate.scoring import Truth, localisation, scored, write_curve
from components.evaluate.significance import MATCHES, SHARES
from components.pose.persons import Persons


def score_results(
    path: Path, truth: Truth, params: EvaluateParams, out: Path, name: str, note: str = "", conditions: Mapping[str, Path] | None = None
) -> dict[str, Any]:
    """Score one network's files into the directory `out`, which `compare` takes as it takes a variant's evaluation.

    Files: metrics.json, matches.npz (and one per condition), by_height as .json, .csv and .png.

    Args:
        path: the predictions of the main numbers.
        name: heading of the picture.
        note: whose predictions they are and under which licence, in words.
        conditions: name of a condition (`evaluate.conditions`) → the file of predictions under it.
    Returns:
        The numbers of an evaluated variant that need no network, see `evaluate.stage.evaluate`; those of a condition end in its name.
        `peer_note` marks the row in tables, `results_sha256` is the main file's.
    Raises:
        FarposeError: what `read_results` and the evaluator raise, or a condition's file with other boxes than the main one's.
    """
    evaluator(truth.evaluator).check(truth.persons)
    predictions, scores, boxes = read_results(path, truth)
    out.mkdir(parents=True, exist_ok=True)
    metrics: dict[str, Any] = {"split": params.split, "persons": len(truth.persons.labelled()), "images": len(truth.image_ids)}
    metrics |= {"peer_note": note or f"predictions of {name}", "results_sha256": sha256_of(path)}
    metrics |= _numbers(predictions, scores, boxes, boxes, truth, params, out, "")
    for condition, file in (conditions or {}).items():
        predictions_there, scores_there, given = read_results(file, truth)
        if given != boxes:
            problem = f"boxes given: {PROTOCOLS[given]}; in {path.name}: {PROTOCOLS[boxes]}"
            raise FarposeError(problem, where=file, fix="give files of one kind")
        suffix = f"{boxes}_{condition}"
        metrics |= _numbers(predictions_there, scores_there, boxes, suffix, truth, params, out, f"_{suffix}")
    sizes, labels = curves.heights(truth.persons, predictions), (name, curves.HEIGHT_LABEL)
    write_curve("by_height", sizes, params.height_bins_px, (predictions, scores), truth, params, out, labels)
    write_json(out / "metrics.json", metrics)
    return metrics


def _numbers(
    predictions: Predictions, scores: np.ndarray, boxes: str, suffix: str, truth: Truth, params: EvaluateParams, out: Path, end: str
) -> dict[str, float]:
    found = scored(predictions, scores, suffix, truth, params, out / MATCHES.format(end))
    oks = _oks(truth.persons, predictions, boxes)
    return found | localisation(suffix, oks, truth, predictions, params, out / SHARES.format(end))


def read_results(path: Path, truth: Truth) -> tuple[Predictions, np.ndarray, str]:
    """The predictions, their (N,) scores, and which boxes were given: `gt_boxes`, or `no_boxes` where no record names a person.

    Raises:
        FarposeError: no COCO results, another number of joints, a value that is not finite, an image that is not of the split; persons
            that are named in some records only, are not labelled ones of the split, lie on another image, are named twice or not at all.
    """
    predictions, scores = read_coco_results(path, truth.persons.skeleton, truth.image_ids.tolist())
    if not len(predictions):
        raise FarposeError("the file holds no predictions", where=path)
    named = predictions.annotation_id >= 0
    if not named.any():
        return predictions, scores, NONE
    persons = truth.persons.labelled()
    rows = rows_of(persons.frame["annotation_id"].to_numpy(), predictions.annotation_id)
    _check(path, predictions, persons, named, rows)
    return replace(predictions, bbox_xywh=persons.bbox_xywh[rows], box_scores=np.ones(len(rows))), scores, GT


def _check(path: Path, predictions: Predictions, persons: Persons, named: np.ndarray, rows: np.ndarray) -> None:
    """
    Args:
        named: (N,) whether the record names a person.
        rows: (N,) row of that person, -1 where there is none.
    Raises:
        FarposeError: see `read_results`.
    """
    images, ids = persons.frame["image_id"].to_numpy(), predictions.annotation_id
    repeated = np.ones(len(ids), bool)
    repeated[np.unique(ids, return_index=True)[1]] = False
    problems = {
        "the person's id is missing, other records have one": ~named,
        "person {id} is not a labelled person of the split": rows < 0,
        "person {id} is on another image than the record says": images[rows] != predictions.image_id,
        "person {id} appears twice": repeated,
    }
    for problem, wrong in problems.items():
        if wrong.any():
            record = int(wrong.argmax())
            fix = "give the file of this split, with one record per annotated person"
            raise FarposeError(problem.format(id=ids[record]), where=f"{path}: record {record}", fix=fix)
    missing = np.setdiff1d(persons.frame["annotation_id"].to_numpy(), ids)
    if len(missing):
        problem = f"{len(missing)} of {len(persons)} labelled persons have no record, such as {missing[0]}"
        raise FarposeError(problem, where=path, fix="write a record of score 0 for a person that is not found")


def _oks(persons: Persons, predictions: Predictions, boxes: str) -> np.ndarray:
    """(P,) of the labelled persons with the prediction that is theirs."""
    labelled = persons.labelled()
    if boxes == NONE:
        return assign(labelled, predictions)[0]
    own = rows_of(predictions.annotation_id, labelled.frame["annotation_id"].to_numpy())
    return curves.similarity_to_own_person(persons, predictions)[own]
