"""Several measures on the same resampled images: what they differ by, and where one of them crosses another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from components.evaluate.matching import Matches
from components.evaluate.oks import accumulate

CELLS_PER_BATCH = 1 << 21  # resamples times detections held at a time

# (B, I) how often each image counts → (B,) or (B, M) the measure; NaN where nothing is to be found
Measure = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Shares:
    """What a share over all images is made of, such as PCKh; I images.

    Attributes:
        image_ids: (I,) int64, ascending.
        right: (I,) how many joints of the image are near enough.
        counted: (I,) how many are labelled.
    """

    image_ids: np.ndarray
    right: np.ndarray
    counted: np.ndarray


Outcome = Matches | Shares  # of an evaluation, per image


def measure_of(outcome: Outcome, index: int = 0) -> Measure:
    """The number that an evaluation leads with: AP in range `index`, or a share."""
    return share(outcome.right, outcome.counted) if isinstance(outcome, Shares) else average_precision(outcome, index)


def rows_in(outcome: Outcome) -> int:
    """How many rows its measure holds for each resample."""
    return 1 if isinstance(outcome, Shares) else len(outcome.image)


def resampled(measures: Mapping[str, Measure], images: int, resamples: int, seed: int, rows: int = 1) -> dict[str, np.ndarray]:
    """(resamples,) or (resamples, M) of each measure over images drawn with replacement (Efron 1979); a draw is the same for all of them.

    Args:
        rows: the most detections of a measure, which decide how many resamples are held at a time; not the result.
    """
    rng, batch = np.random.default_rng(seed), max(1, CELLS_PER_BATCH // max(1, rows, images))
    parts: dict[str, list[np.ndarray]] = {name: [] for name in measures}
    for start in range(0, resamples, batch):
        count = min(batch, resamples - start)
        drawn = rng.integers(0, images, (count, images)) + images * np.arange(count)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=count * images).reshape(count, images)
        for name, measure in measures.items():
            parts[name].append(measure(weights))
    return {name: np.concatenate(values) for name, values in parts.items()}


def average_precision(matches: Matches, index: int = 0) -> Measure:
    """AP in range `index`."""
    return lambda weights: accumulate(matches, index, weights)[0].mean(1)


def precision_and_recall(matches: Matches, index: int = 0) -> Measure:
    """AP and AR in range `index`, (B, 2)."""
    return lambda weights: np.stack([values.mean(1) for values in accumulate(matches, index, weights)], 1)


def share(right: np.ndarray, counted: np.ndarray) -> Measure:
    """The share of what is right, of (I,) numbers per image."""

    def measure(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return (weights @ right) / (weights @ counted)

    return measure


def once(measure: Measure, images: int) -> float:
    """The measure on the images as they are."""
    return float(measure(np.ones((1, images), np.int64))[0])


def ends(draws: np.ndarray, level: float = 0.95) -> tuple[float | None, float | None]:
    """The percentile interval of the draws that are known; None without one."""
    known = draws[~np.isnan(draws)]
    if not len(known):
        return None, None
    low, high = np.percentile(known, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)
