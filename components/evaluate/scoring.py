"""Numbers of predicted persons, whoever predicted them: the evaluator's with the interval of AP, localisation, AP by person height."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.evaluate import curves
from components.evaluate.evaluators import evaluator
from components.evaluate.leading import PCKH
from components.evaluate.oks import match
from components.evaluate.params import EvaluateParams
from components.evaluate.predictions import Predictions
from components.evaluate.significance import bootstrap_ap, write_matches, write_shares
from components.pose.persons import Persons


@dataclass(frozen=True)
class Truth:
    """What predictions are scored against.

    Attributes:
        persons: all rows of the split, crowd regions and persons without labelled joints included.
        image_ids: (I,) every image of the split, those without persons included.
        evaluator: name of the data set's evaluator, see `evaluators`.
    """

    persons: Persons
    image_ids: np.ndarray
    evaluator: str = "oks"


def scored(predictions: Predictions, scores: np.ndarray, boxes: str, truth: Truth, params: EvaluateParams, path: Path) -> dict[str, float]:
    """Write the matches; the evaluator's numbers and the interval of AP.

    Args:
        boxes: suffix of the numbers, which names the boxes that were given.
        path: of the matches (.npz).
    Raises:
        FarposeError: a coordinate or score is not finite, the joints are of another skeleton, or what the evaluator raises.
    """
    matches = match(truth.persons, predictions, scores, truth.image_ids)
    ranked = evaluator(truth.evaluator).ranked(matches, truth.persons, predictions, scores, truth.image_ids)
    write_matches(path, matches)
    interval = bootstrap_ap(matches, params.bootstrap_resamples, params.bootstrap_seed)
    numbers = {f"{name}_{boxes}": value for name, value in ranked.items() if value >= 0}
    ends = {f"AP_{boxes}_low": interval.low, f"AP_{boxes}_high": interval.high}
    return numbers | {name: value for name, value in ends.items() if np.isfinite(value)}


def localisation(
    boxes: str, oks: np.ndarray, truth: Truth, predictions: Predictions, params: EvaluateParams, path: Path
) -> dict[str, float]:
    """How near the joints are, over the labelled persons and independent of the scores; persons not found count as wrong.

    Where the benchmark's tables lead with a share of joints, also writes what it is made of, and adds its interval.

    Args:
        boxes: suffix of the numbers.
        oks: (P,) of the labelled persons with their own prediction.
        predictions: before repeats were dropped.
        path: of the shares (.npz), which only such benchmarks have.
    Raises:
        FarposeError: what the evaluator raises.
    """
    known = np.isfinite(oks)
    judge = evaluator(truth.evaluator)
    numbers = {"mean_OKS": float(oks[known].mean())} if known.any() else {}
    numbers |= judge.located(truth.persons, predictions)
    ends = {}
    if judge.shares is not None:
        shares = judge.shares(truth.persons, predictions, truth.image_ids)
        write_shares(path, shares)
        interval = bootstrap_ap(shares, params.bootstrap_resamples, params.bootstrap_seed)
        ends = {f"{PCKH.name}_{boxes}_low": interval.low, f"{PCKH.name}_{boxes}_high": interval.high}
    return {f"{name}_{boxes}": value for name, value in numbers.items()} | {name: end for name, end in ends.items() if np.isfinite(end)}


def write_curve(
    name: str,
    sizes: tuple[np.ndarray, np.ndarray],
    edges: tuple[float, ...],
    found: tuple[Predictions, np.ndarray],
    truth: Truth,
    params: EvaluateParams,
    out: Path,
    labels: tuple[str, str],
    before: Predictions | None = None,
) -> list[dict[str, Any]]:
    """Write AP, and PCKh where that leads, by a measure of size as `name`.json, .csv and .png; returns the bins.

    Args:
        sizes: of the persons (P,) and of the predictions (N,).
        edges: ascending inner edges of the bins.
        found: the predictions and their (N,) scores.
        labels: of the curve, and of the measure.
        before: the predictions before repeats were dropped, which PCKh is of; None: the same.
    """
    judge = evaluator(truth.evaluator)
    joints = judge.joints(truth.persons, found[0] if before is None else before) if judge.joints else None
    resampling = params.bootstrap_resamples, params.bootstrap_seed
    points = curves.by_size(truth.persons, *found, sizes, edges, truth.image_ids, *resampling, joints)
    curves.write_points(out, name, points)
    bins = [point.plain() for point in points]
    curves.plot(out / f"{name}.png", {labels[0]: bins}, labels[1])
    return bins
