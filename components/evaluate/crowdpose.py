"""CrowdPose's numbers (Li et al. 2019, section 5): OKS AP, and AP on easy, medium and hard images by their stored crowd index."""

from __future__ import annotations

import numpy as np
import pandas as pd

from components.base.errors import FarposeError
from components.evaluate.matching import Matches, rows_of
from components.evaluate.oks import accumulate, summarise
from components.pose.persons import Persons

EASY, MEDIUM = 0.2, 0.8  # crowd index: easy below the first, hard from the second on
LEVELS = ("easy", "medium", "hard")


def crowdpose_numbers(matches: Matches, persons: Persons) -> dict[str, float]:
    """AP, AP50, AP75, the same recalls, and `AP_easy`, `AP_medium`, `AP_hard`; -1 where there is no person to be found.

    There are no numbers by area, as in the authors' evaluation. A level is evaluated as if its images were all there are. An image
    without an annotated person has no crowd, so it is easy.

    Args:
        matches: over the ranges of `oks.AREA_RANGES`.
        persons: all rows of the split; their `crowd_index` is that of their image.
    Raises:
        FarposeError: an image's crowd index is missing, negative, or not the same for its persons.
    """
    numbers = {name: value for name, value in summarise(matches).items() if not name.endswith(("_M", "_L"))}
    index = crowd_indices(persons, matches.image_ids)
    level = np.digitize(index, [EASY, MEDIUM])  # 0, 1, 2
    precision, _ = accumulate(matches, 0, (level == np.arange(len(LEVELS))[:, None]).astype(np.int64))
    return numbers | {f"AP_{name}": float(value) for name, value in zip(LEVELS, np.nan_to_num(precision.mean(1), nan=-1.0), strict=True)}


def crowd_indices(persons: Persons, image_ids: np.ndarray) -> np.ndarray:
    """(I,) stored crowd index of each image, 0 without persons. Raises what `crowdpose_numbers` does."""
    check_crowdpose(persons)
    columns = persons.frame[["image_id", "crowd_index"]]
    rows = rows_of(columns["image_id"].to_numpy(), image_ids)
    return np.where(rows >= 0, np.append(columns["crowd_index"].to_numpy(), 0.0)[rows], 0.0)


def check_crowdpose(persons: Persons) -> None:
    """Raises what `crowdpose_numbers` does."""
    columns = persons.frame[["image_id", "crowd_index"]]
    wrong = ~(np.isfinite(columns["crowd_index"]) & (columns["crowd_index"] >= 0)).to_numpy()
    if wrong.any():
        row = columns[wrong].iloc[0]
        problem = f"the crowd index of image {int(row['image_id'])} is {row['crowd_index']:g}, expected a number from 0 upwards"
        fix = "name a data set that states `crowdIndex` (format crowdpose), or another evaluator in params/data.yaml"
        raise FarposeError(problem, where="persons table", fix=fix)
    spread: pd.Series = columns.groupby("image_id")["crowd_index"].agg(np.ptp)
    if (spread > 0).any():
        raise FarposeError(f"image {spread.idxmax()} has persons of different crowd indices", where="persons table", fix="run fetch again")
