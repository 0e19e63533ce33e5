"""Evaluators by name, as the entry of a data set in params/data.yaml names them: which numbers a data set is judged by.

Every evaluator gives COCO's numbers over OKS, which training, tables and intervals use for all data sets; the others add or leave out what
their benchmark's authors do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from components.base.errors import unknown_name
from components.evaluate.crowdpose import check_crowdpose, crowdpose_numbers
from components.evaluate.matching import Matches
from components.evaluate.oks import summarise
from components.evaluate.pck import pck
from components.evaluate.pckh import check_pckh, pckh_joints, pckh_numbers, pckh_shares
from components.evaluate.predictions import Predictions
from components.evaluate.resampling import Shares
from components.evaluate.wholebody import check_wholebody, wholebody_numbers
from components.pose.persons import Persons

Ranked = Callable[[Matches, Persons, Predictions, np.ndarray, "np.ndarray | None"], dict[str, float]]


@dataclass(frozen=True)
class Evaluator:
    """The numbers of one benchmark.

    Attributes:
        ranked: of scored predictions: (matches over `oks.AREA_RANGES`, all persons, predictions, (N,) scores, image ids) → numbers; -1
            where there is no person to be found.
        check: (all persons) → raises FarposeError where the table lacks what the numbers need, before anything is predicted or written.
        located: of each person's own prediction, whatever its score: (all persons, predictions) → numbers.
        shares: where its tables lead with a share of joints instead of AP, what that is made of: (all persons, predictions, image ids).
        joints: the same joint by joint: (all persons, predictions) → (P, K) bool of the labelled persons, near and counted.
    """

    ranked: Ranked
    located: Callable[[Persons, Predictions], dict[str, float]]
    check: Callable[[Persons], None] = lambda persons: None
    shares: Callable[[Persons, Predictions, np.ndarray], Shares] | None = None
    joints: Callable[[Persons, Predictions], tuple[np.ndarray, np.ndarray]] | None = None


def _coco(
    matches: Matches, persons: Persons, predictions: Predictions, scores: np.ndarray, image_ids: np.ndarray | None
) -> dict[str, float]:
    return summarise(matches)


def _crowdpose(
    matches: Matches, persons: Persons, predictions: Predictions, scores: np.ndarray, image_ids: np.ndarray | None
) -> dict[str, float]:
    return crowdpose_numbers(matches, persons)


def _pckh(persons: Persons, predictions: Predictions) -> dict[str, float]:
    return pck(persons, predictions) | pckh_numbers(persons, predictions)


EVALUATORS = {
    "oks": Evaluator(_coco, pck),
    "crowdpose": Evaluator(_crowdpose, pck, check_crowdpose),
    "wholebody": Evaluator(wholebody_numbers, pck, check_wholebody),
    "pckh": Evaluator(_coco, _pckh, check_pckh, pckh_shares, pckh_joints),
}


def evaluator(name: str) -> Evaluator:
    """
    Raises:
        FarposeError: an unknown name; lists the known ones.
    """
    if name not in EVALUATORS:
        raise unknown_name("evaluator", name, EVALUATORS)
    return EVALUATORS[name]
