"""Bootstrap intervals and paired tests."""

from __future__ import annotations

import numpy as np
import pytest

from components.base.errors import FarposeError
from components.evaluate.matching import Matches
from components.evaluate.oks import match, summarise
from components.evaluate.significance import CELLS_PER_BATCH, bootstrap_ap, paired_bootstrap
from tests import evaluation_cases as cases


def run(seed: int, noise: float, images: int = 60) -> Matches:
    coco = cases.random_coco(1, images=images)
    predictions, scores = cases.noisy_predictions(coco, seed, noise=noise)
    return match(cases.persons_of(coco), predictions, scores, cases.image_ids_of(coco))


def test_interval_holds_the_value_and_repeats() -> None:
    matches = run(2, 0.06)
    interval = bootstrap_ap(matches, resamples=300)
    assert interval.value == pytest.approx(summarise(matches)["AP"], abs=1e-12)
    assert interval.low < interval.value < interval.high
    assert bootstrap_ap(matches, resamples=300) == interval
    assert bootstrap_ap(matches, resamples=300, seed=1) != interval


def test_interval_does_not_depend_on_the_batching(monkeypatch: pytest.MonkeyPatch) -> None:
    matches = run(2, 0.06)
    whole = bootstrap_ap(matches, resamples=50)
    assert len(matches.image) * 50 < CELLS_PER_BATCH
    monkeypatch.setattr("components.evaluate.significance.CELLS_PER_BATCH", 7 * len(matches.image))
    assert bootstrap_ap(matches, resamples=50) == whole


def test_interval_agrees_with_evaluating_each_resample_anew() -> None:
    """Copies of images under new ids, scored from scratch, give the interval that reweighting gives."""
    coco = cases.random_coco(3, images=8)
    predictions, scores = cases.noisy_predictions(coco, 4)
    persons, images = cases.persons_of(coco), cases.image_ids_of(coco)
    interval = bootstrap_ap(match(persons, predictions, scores, images), resamples=40, seed=5)
    rng, draws = np.random.default_rng(5), []
    for drawn in rng.integers(0, 8, (40, 8)):
        drawn = np.sort(drawn)
        rows = [np.flatnonzero(persons.frame["image_id"] == images[i]) for i in drawn]
        found = [np.flatnonzero(predictions.image_id == images[i]) for i in drawn]
        again, more = persons.select(np.concatenate(rows)), predictions.select(np.concatenate(found))
        again.frame["image_id"] = np.repeat(np.arange(8), list(map(len, rows)))
        more.image_id[:] = np.repeat(np.arange(8), list(map(len, found)))
        draws.append(summarise(match(again, more, scores[np.concatenate(found)], np.arange(8)))["AP"])
    low, high = np.percentile(draws, [2.5, 97.5])
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-12)


def test_more_images_narrow_the_interval() -> None:
    few, many = (bootstrap_ap(run(2, 0.06, images), resamples=200) for images in (20, 320))
    assert many.high - many.low < 0.5 * (few.high - few.low)


def test_interval_covers_the_truth_at_its_level() -> None:
    """AP of all images is the truth; 95 % intervals of 60 of them should mostly hold it."""
    coco = cases.random_coco(1, images=1500)
    predictions, scores = cases.noisy_predictions(coco, 2)
    persons, images = cases.persons_of(coco), cases.image_ids_of(coco)[1:]  # the first image is unlike the others
    truth = summarise(match(persons, predictions, scores, images))["AP"]
    rng, held = np.random.default_rng(0), 0
    for _ in range(60):
        interval = bootstrap_ap(match(persons, predictions, scores, rng.choice(images, 60, replace=False)), resamples=150)
        held += interval.low <= truth <= interval.high
    assert held >= 51  # 57 expected; fewer than 51 happens to a true 95 % interval once in 100 trials


def test_paired_test_finds_a_real_difference_and_no_other() -> None:
    better, worse = run(2, 0.04), run(2, 0.09)
    found = paired_bootstrap(better, worse, resamples=300)
    assert found.value == pytest.approx(summarise(better)["AP"] - summarise(worse)["AP"], abs=1e-12)
    assert 0 < found.low < found.value < found.high and found.p_value < 0.02
    back = paired_bootstrap(worse, better, resamples=300)
    assert (back.low, back.high, back.p_value) == pytest.approx((-found.high, -found.low, found.p_value))
    same = paired_bootstrap(better, better, resamples=50)
    assert (same.value, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_pairing_is_tighter_than_two_intervals() -> None:
    better, worse = run(2, 0.05), run(2, 0.06)
    paired = paired_bootstrap(better, worse, resamples=300)
    apart = [bootstrap_ap(matches, resamples=300) for matches in (better, worse)]
    assert paired.high - paired.low < sum(interval.high - interval.low for interval in apart)


def test_runs_on_different_images_are_refused() -> None:
    with pytest.raises(FarposeError, match="different images"):
        paired_bootstrap(run(2, 0.06), run(2, 0.06, images=61))


def test_nobody_to_be_found() -> None:
    coco = cases.coco_of([{"id": 1}], [])
    empty = cases.predictions_of(np.ones(0), np.zeros((0, 17, 2)), np.ones(0))
    interval = bootstrap_ap(match(cases.persons_of(coco), empty, np.zeros(0), np.array([1])), resamples=10)
    assert all(np.isnan([interval.value, interval.low, interval.high]))
