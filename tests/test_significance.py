"""Bootstrap intervals and paired tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from components.base.errors import FarposeError
from components.evaluate.matching import Matches
from components.evaluate.oks import match, summarise
from components.evaluate.significance import CELLS_PER_BATCH, bootstrap_ap, holm, paired_bootstrap, read_matches, write_matches
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


def test_stored_matches_give_the_same_comparison(tmp_path: Path) -> None:
    better, worse = run(2, 0.04), run(2, 0.09)
    stored = []
    for name, matches in (("better", better), ("worse", worse)):
        write_matches(tmp_path / f"{name}.npz", matches)
        stored.append(read_matches(tmp_path / f"{name}.npz"))
    assert paired_bootstrap(*stored, resamples=100) == paired_bootstrap(better, worse, resamples=100)
    assert bootstrap_ap(stored[0], resamples=50) == bootstrap_ap(better, resamples=50)
    write_matches(tmp_path / "again.npz", better)
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "better.npz").read_bytes()
    (tmp_path / "worse.npz").write_bytes(b"PK")
    with pytest.raises(FarposeError, match="damaged matches"):
        read_matches(tmp_path / "worse.npz")
    with pytest.raises(FarposeError, match="evaluate it again"):
        read_matches(tmp_path / "none.npz")


def test_several_seeds_are_compared_by_their_means() -> None:
    first, second = [run(seed, 0.05) for seed in (2, 3, 4)], [run(seed, 0.08) for seed in (5, 6)]
    means = [np.mean([summarise(matches)["AP"] for matches in group]) for group in (first, second)]
    found = paired_bootstrap(first, second, resamples=300)
    assert found.value == pytest.approx(means[0] - means[1], abs=1e-12)
    assert found.low < found.value < found.high and found.images == 60
    assert bootstrap_ap(first, resamples=50).value == pytest.approx(means[0], abs=1e-12)
    alone = paired_bootstrap(first[:1], second[:1], resamples=300)
    assert alone == paired_bootstrap(first[0], second[0], resamples=300)
    same = paired_bootstrap([first[0]] * 3, [second[0]] * 2, resamples=300)
    assert (same.low, same.high) == pytest.approx((alone.low, alone.high)), "seeds that agree add no spread"
    with pytest.raises(FarposeError, match="different images"):
        paired_bootstrap(first, [run(2, 0.06, images=61)])


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # Holm's steps: .005 x 4, .01 x 3, .03 x 2, then not below .06
        ([0.6, 0.9], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([], []),
    ],
)
def test_holms_correction(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted)
