"""How sure an AP is: bootstrap over images, of one run and of the difference between two runs on the same images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from components.base.errors import FarposeError
from components.evaluate.matching import Matches
from components.evaluate.oks import accumulate

CELLS_PER_BATCH = 1 << 21  # resamples times detections held at a time


@dataclass(frozen=True)
class Interval:
    """A value with its bootstrap interval; NaN where nothing is to be found."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """First run's AP minus the second's, its interval, and the two-sided p-value of "no difference"."""

    value: float
    low: float
    high: float
    p_value: float


def bootstrap_ap(matches: Matches, resamples: int = 1000, seed: int = 0, level: float = 0.95, index: int = 0) -> Interval:
    """AP in range `index` with its percentile interval over resampled images (Efron 1979).

    Images are drawn with replacement, as many as there are; matching within an image does not change, so only the
    accumulation is repeated.
    """
    tail = 50 * (1 - level)
    draws = _draws([matches], resamples, seed, index)[0]
    known = draws[np.isfinite(draws)]
    low, high = np.percentile(known, [tail, 100 - tail]) if len(known) else (np.nan, np.nan)
    return Interval(_ap(matches, index), float(low), float(high))


def paired_bootstrap(first: Matches, second: Matches, resamples: int = 1000, seed: int = 0, level: float = 0.95) -> Difference:
    """Difference in AP between two runs, resampling the same images for both, so that hard images cancel.

    Raises:
        FarposeError: the runs were scored on different images.
    """
    if not np.array_equal(first.image_ids, second.image_ids):
        raise FarposeError(
            f"the two runs were scored on different images ({len(first.image_ids)} and {len(second.image_ids)})",
            fix="evaluate both on the same split",
        )
    ours, theirs = _draws([first, second], resamples, seed, 0)
    draws = (ours - theirs)[np.isfinite(ours - theirs)]
    if not len(draws):
        return Difference(np.nan, np.nan, np.nan, 1.0)
    tail = 50 * (1 - level)
    low, high = np.percentile(draws, [tail, 100 - tail])
    beyond = min((draws <= 0).sum(), (draws >= 0).sum())
    p_value = min(1.0, 2 * (beyond + 1) / (len(draws) + 1))  # + 1: the data themselves are one arrangement
    return Difference(_ap(first, 0) - _ap(second, 0), float(low), float(high), float(p_value))


def _draws(runs: list[Matches], resamples: int, seed: int, index: int) -> list[np.ndarray]:
    """(resamples,) AP of each run on the same resampled images."""
    batch = max(1, CELLS_PER_BATCH // max(1, *(len(run.image) for run in runs)))
    parts = [
        [accumulate(run, index, weights)[0].mean(1) for run in runs] for weights in _weights(len(runs[0].image_ids), resamples, seed, batch)
    ]
    return [np.concatenate(values) for values in zip(*parts, strict=True)]


def _weights(images: int, resamples: int, seed: int, batch: int) -> Iterator[np.ndarray]:
    """(b, I) how often each image was drawn; the sequence does not depend on `batch`."""
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, batch):
        rows = min(batch, resamples - start)
        drawn = rng.integers(0, images, (rows, images)) + images * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images)


def _ap(matches: Matches, index: int) -> float:
    return float(accumulate(matches, index, np.ones((1, len(matches.image_ids)), np.int64))[0].mean())
