"""Uncertainty of an AP or a PCKh: bootstrap over images, for one run and for the difference between two runs on the same images."""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.base.errors import FarposeError
from components.base.files import atomic_file
from components.evaluate.matching import Matches
from components.evaluate.resampling import Outcome, Shares, measure_of, rows_in

CELLS_PER_BATCH = 1 << 21  # resamples times detections held at a time
MATCHES, SHARES = "matches{}.npz", "shares{}.npz"  # in an evaluation's folder


@dataclass(frozen=True)
class Interval:
    """A value with its bootstrap interval; NaN where nothing is to be found."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """First run's leading number minus the second's on the same images.

    Attributes:
        value: the difference; of means over seeds where there are several.
        low, high: ends of its bootstrap interval.
        p_value: two-sided, of "no difference".
        images: how many images were resampled.
    """

    value: float
    low: float
    high: float
    p_value: float
    images: int

    def __neg__(self) -> Difference:
        """The second run's number minus the first's."""
        return Difference(-self.value, -self.high, -self.low, self.p_value, self.images)


Runs = Outcome | Sequence[Outcome]  # one run, or several of the same settings under different seeds


def bootstrap_ap(runs: Runs, resamples: int = 1000, seed: int = 0, level: float = 0.95, index: int = 0) -> Interval:
    """AP in range `index`, or a share, with its percentile interval over resampled images (Efron 1979); of several seeds, their mean.

    Images are drawn with replacement, as many as there are; matching within an image does not change, so only the
    accumulation is repeated.
    """
    group = _group(runs)
    draws = _draws([group], resamples, seed, index)[0]
    return Interval(_mean_value(group, index), *_ends(draws, level))


def paired_bootstrap(first: Runs, second: Runs, resamples: int = 1000, seed: int = 0, level: float = 0.95) -> Difference:
    """Difference in AP, or in a share, between two runs, resampling the same images for both, so that hard images cancel.

    Of several seeds the difference is that of their means, and each resample draws as many seeds with replacement. Few seeds say
    little about their own spread: with two or three the interval describes these runs rather than the method.

    Raises:
        FarposeError: the runs were scored on different images, or by different numbers.
    """
    groups = _group(first), _group(second)
    image_ids = groups[0][0].image_ids
    for run in (*groups[0], *groups[1]):
        if type(run) is not type(groups[0][0]):
            raise FarposeError("one run leads with AP, the other with a share of joints", fix="evaluate both again, on the same data")
        if not np.array_equal(run.image_ids, image_ids):
            raise FarposeError(
                f"the two runs were scored on different images ({len(image_ids)} and {len(run.image_ids)})",
                fix="evaluate both on the same split",
            )
    ours, theirs = _draws(list(groups), resamples, seed, 0)
    return _difference(_mean_value(groups[0], 0) - _mean_value(groups[1], 0), ours - theirs, len(image_ids), level)


def every_pair(runs: Mapping[str, Outcome], resamples: int = 1000, seed: int = 0, level: float = 0.95) -> dict[tuple[str, str], Difference]:
    """What `paired_bootstrap` says of every two runs, the earlier one minus the later, with one drawing of the images for all.

    Args:
        runs: one number of the same images each.
    """
    draws = dict(zip(runs, _draws_of_runs(list(runs.values()), resamples, seed, 0), strict=True))
    values, images = {name: _value(run, 0) for name, run in runs.items()}, len(next(iter(runs.values())).image_ids)
    return {(a, b): _difference(values[a] - values[b], draws[a] - draws[b], images, level) for a, b in itertools.combinations(runs, 2)}


def _difference(value: float, drawn: np.ndarray, images: int, level: float) -> Difference:
    """
    Args:
        drawn: (resamples,) the difference on resampled images.
    """
    draws = drawn[np.isfinite(drawn)]
    if not len(draws):
        return Difference(np.nan, np.nan, np.nan, 1.0, images)
    beyond = min((draws <= 0).sum(), (draws >= 0).sum())
    p_value = min(1.0, 2 * (beyond + 1) / (len(draws) + 1))  # + 1: the data themselves are one arrangement
    return Difference(value, *_ends(draws, level), float(p_value), images)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for multiple comparisons (Holm 1979): below .05, the comparison holds among all of them at level .05."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for place, row in enumerate(sorted(range(len(p_values)), key=lambda row: p_values[row])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[row]))
        adjusted[row] = highest
    return adjusted


def write_matches(path: str | Path, matches: Matches) -> None:
    """Store the outcome of every detection in the range of all sizes, compactly, for paired comparisons of runs."""
    with atomic_file(path) as temporary, open(temporary, "wb") as stream:
        np.savez(
            stream,
            image_ids=matches.image_ids,
            image=matches.image.astype(np.int32),
            scores=matches.scores,
            matched=np.packbits(matches.matched[0], axis=-1),
            ignored=np.packbits(matches.ignored[0], axis=-1),
            positives=matches.positives[0].astype(np.int32),
        )


def read_matches(path: str | Path) -> Matches:
    """What `write_matches` wrote, with one range of sizes.

    Raises:
        FarposeError: the file is missing or damaged.
    """
    try:
        with np.load(path) as file:
            values = {name: file[name] for name in file.files}
        detections = len(values["image"])
        flags = {name: np.unpackbits(values[name], axis=-1, count=detections).astype(bool)[None] for name in ("matched", "ignored")}
        return Matches(
            values["image_ids"], values["image"], values["scores"], flags["matched"], flags["ignored"], values["positives"][None]
        )
    except FileNotFoundError:
        raise FarposeError("no per-image matches of this evaluation", where=path, fix="evaluate it again") from None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise FarposeError(f"damaged matches: {error}", where=path, fix="evaluate it again") from error


def write_shares(path: str | Path, shares: Shares) -> None:
    """Store what a share is made of, for paired comparisons of runs."""
    with atomic_file(path) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, image_ids=shares.image_ids, right=shares.right.astype(np.int32), counted=shares.counted.astype(np.int32))


def read_outcome(folder: str | Path, end: str = "") -> Outcome:
    """What the leading number of an evaluation is made of: `shares<end>.npz` where it has one, else `matches<end>.npz`.

    Args:
        end: of the files' names, such as `_gt_boxes_h32` for a condition.
    Raises:
        FarposeError: the file is missing or damaged.
    """
    path = Path(folder) / SHARES.format(end)
    if not path.is_file():
        return read_matches(Path(folder) / MATCHES.format(end))
    try:
        with np.load(path) as file:
            return Shares(file["image_ids"], file["right"].astype(np.int64), file["counted"].astype(np.int64))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise FarposeError(f"damaged shares: {error}", where=path, fix="evaluate it again") from error


def _group(runs: Runs) -> list[Outcome]:
    return [runs] if isinstance(runs, Matches | Shares) else list(runs)


def _ends(draws: np.ndarray, level: float) -> tuple[float, float]:
    tail, known = 50 * (1 - level), draws[np.isfinite(draws)]
    low, high = np.percentile(known, [tail, 100 - tail]) if len(known) else (np.nan, np.nan)
    return float(low), float(high)


def _mean_value(group: list[Outcome], index: int) -> float:
    return float(np.mean([_value(run, index) for run in group]))


def _draws(groups: list[list[Outcome]], resamples: int, seed: int, index: int) -> list[np.ndarray]:
    """(resamples,) number of each group on the same resampled images; of several seeds the mean over as many resampled seeds."""
    runs = [run for group in groups for run in group]
    each = _draws_of_runs(runs, resamples, seed, index)
    rng, start, means = np.random.default_rng([seed, 1]), 0, []
    for group in groups:
        values = np.stack(each[start : start + len(group)])  # (S, resamples)
        start += len(group)
        chosen = rng.integers(0, len(group), values.shape)
        means.append(np.take_along_axis(values, chosen, 0).mean(0))
    return means


def _draws_of_runs(runs: list[Outcome], resamples: int, seed: int, index: int) -> list[np.ndarray]:
    """(resamples,) number of each run on the same resampled images."""
    batch = max(1, CELLS_PER_BATCH // max(1, *map(rows_in, runs)))
    measures = [measure_of(run, index) for run in runs]
    parts = [[measure(weights) for measure in measures] for weights in _weights(len(runs[0].image_ids), resamples, seed, batch)]
    return [np.concatenate(values) for values in zip(*parts, strict=True)]


def _weights(images: int, resamples: int, seed: int, batch: int) -> Iterator[np.ndarray]:
    """(b, I) how often each image was drawn; the sequence does not depend on `batch`."""
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, batch):
        rows = min(batch, resamples - start)
        drawn = rng.integers(0, images, (rows, images)) + images * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images)


def _value(outcome: Outcome, index: int) -> float:
    return float(measure_of(outcome, index)(np.ones((1, len(outcome.image_ids)), np.int64))[0])
