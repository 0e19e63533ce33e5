"""What a benchmark's tables lead with: PCKh for MPII, with its interval and paired differences; elsewhere AP and what stands beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.base.errors import FarposeError
from components.evaluate.compare import compare
from components.evaluate.evaluators import evaluator
from components.evaluate.leading import beside, label_of, leading, leading_interval, leading_key, leading_value
from components.evaluate.params import EvaluateParams
from components.evaluate.pckh import pckh_shares
from components.evaluate.predictions import Predictions
from components.evaluate.ranking import verdict
from components.evaluate.report import pairs
from components.evaluate.resampling import Shares
from components.evaluate.scoring import Truth, localisation, scored
from components.evaluate.significance import bootstrap_ap, paired_bootstrap, read_outcome, write_shares
from components.models import zoo
from components.pose.persons import Persons
from components.pose.skeleton import MPII_16
from components.registry.model_card import Facts, in_words, model_card
from tests import evaluator_cases as scenes

IMAGES = np.arange(1, 13)
PARAMS = EvaluateParams(bootstrap_resamples=200)


def mpii(seed: int) -> tuple[Persons, Predictions]:
    persons = scenes.scene(seed, MPII_16)[0]
    return persons, scenes.own_predictions(seed, persons)


def farther(persons: Persons, predictions: Predictions, factor: float) -> Predictions:
    """The same predictions with larger errors."""
    place = {int(number): row for row, number in enumerate(persons.frame["annotation_id"])}
    truth = persons.keypoints[[place[int(number)] for number in predictions.annotation_id], :, :2]
    return replace(predictions, keypoints_image=truth + factor * (predictions.keypoints_image - truth))


@pytest.mark.parametrize("seed", range(6))
def test_the_shares_make_the_pckh_of_any_images(seed: int) -> None:
    """PCKh of some of the images, counted person by person, is the share of their joints."""
    persons, predictions = mpii(seed)
    shares = pckh_shares(persons, predictions, IMAGES)
    assert shares.image_ids.tolist() == IMAGES.tolist()
    for images in (IMAGES, IMAGES[::2], IMAGES[:5]):
        part = persons.select(np.isin(persons.frame["image_id"], images))
        if not part.labelled().frame["head_size"].notna().any():
            continue
        chosen = np.isin(shares.image_ids, images)
        expected = scenes.pckh_by_hand(part, predictions)["PCKh_50"]
        assert shares.right[chosen].sum() / shares.counted[chosen].sum() == pytest.approx(expected, abs=1e-12)
    assert evaluator("pckh").located(persons, predictions)["PCKh_50"] == pytest.approx(shares.right.sum() / shares.counted.sum())


def test_an_image_without_a_labelled_person_counts_nothing() -> None:
    persons, predictions = mpii(1)
    shares = pckh_shares(persons, predictions, np.array([*IMAGES, 99, 98]))
    assert shares.image_ids[-2:].tolist() == [98, 99] and shares.counted[-2:].tolist() == [0, 0]


def evaluated(folder: Path, persons: Persons, predictions: Predictions) -> dict[str, Any]:
    folder.mkdir()
    truth, ones = Truth(persons, IMAGES, "pckh"), np.linspace(1, 0.5, len(predictions))
    numbers = scored(predictions, ones, "gt_boxes", truth, PARAMS, folder / "matches.npz")
    numbers |= localisation("gt_boxes", np.full(1, 0.5), truth, predictions, PARAMS, folder / "shares.npz")
    return {"variant": folder.name, "persons": len(persons.labelled()), "images": len(IMAGES), "target_AP": 0.99, **numbers}


def test_mpii_is_ranked_and_compared_by_pckh(tmp_path: Path) -> None:
    """The interval, the order and the differences are those of PCKh, whatever AP says."""
    persons, near = mpii(3)
    far = farther(persons, near, 2.5)
    rows = [evaluated(tmp_path / "far", persons, far), evaluated(tmp_path / "near", persons, near)]
    rows[0] |= {"AP_gt_boxes": 0.9, "paper_PCKh_50": 0.885, "paper_note": "annotated boxes, ImageNet start"}
    rows[1] |= {"AP_gt_boxes": 0.1}
    runs = {row["variant"]: read_outcome(tmp_path / row["variant"]) for row in rows}
    table = compare(rows, tmp_path / "out", matches=runs).set_index("variant")
    assert table.index[0] == "near" and table.loc["near", "best"] == "near"
    expected = [scenes.pckh_by_hand(persons, predictions)["PCKh_50"] for predictions in (far, near)]
    assert table.loc["far", "difference"] == pytest.approx(expected[0] - expected[1], abs=1e-9)
    assert table.loc["far", "difference_high"] < 0
    for row, value in zip(rows, expected, strict=True):
        low, high = leading_interval(row)
        assert leading_value(row) == pytest.approx(value, abs=1e-12)
        assert low is not None and high is not None and low < value < high
    said = (tmp_path / "out" / "comparison.md").read_text()
    heading, _, first, second = [[cell.strip() for cell in line.strip("|").split("|")] for line in said.splitlines()[:4]]
    assert heading[1:5] == ["PCKh@0.5 (95 % interval)", "difference to best (95 % interval)", "PCKh@0.1", "AP"]
    assert first[1].startswith(f"{100 * expected[1]:.1f} (") and second[4] == "90.0"
    assert "paper's PCKh@0.5 (annotated boxes, ImageNet start)" in heading and "88.5" in second
    assert said.count("PCKh@0.5 in percent with its 95 %") == 1 and "The intervals of the PCKh@0.5 column" in said
    words = verdict(rows[0], rows[1], paired_bootstrap(runs["far"], runs["near"]))
    assert words.startswith("near is better than far by ") and "PCKh@0.5 (95 % interval" in words and " AP" not in words.splitlines()[0]
    page = pairs({name: [run] for name, run in runs.items()}, PARAMS, label=label_of(rows))
    assert page is not None and page.notes[0].startswith("PCKh@0.5 of the row minus PCKh@0.5 of the column")
    assert page.rows[0][2].value == pytest.approx(100 * (expected[0] - expected[1]), abs=1e-6)


def test_an_interval_of_shares_is_that_of_resampled_images() -> None:
    """Many equal images: the spread of a mean of n draws with probability p."""
    right = np.random.default_rng(0).random(400) < 0.7
    shares = Shares(np.arange(400), right.astype(int), np.ones(400, int))
    interval = bootstrap_ap(shares, resamples=2000)
    spread = np.sqrt(right.mean() * (1 - right.mean()) / 400)
    assert interval.value == right.mean()
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * spread, rel=0.08)


def test_shares_are_read_as_written_and_damage_is_named(tmp_path: Path) -> None:
    shares = Shares(np.array([3, 5]), np.array([1, 0]), np.array([2, 4]))
    write_shares(tmp_path / "shares_gt_boxes_h32.npz", shares)
    again = read_outcome(tmp_path, "_gt_boxes_h32")
    assert isinstance(again, Shares)
    assert (again.image_ids.tolist(), again.right.tolist(), again.counted.tolist()) == ([3, 5], [1, 0], [2, 4])
    (tmp_path / "shares.npz").write_bytes(b"PK nothing")
    with pytest.raises(FarposeError, match=r"shares\.npz: damaged shares"):
        read_outcome(tmp_path)
    with pytest.raises(FarposeError, match=r"matches_x\.npz: no per-image matches"):
        read_outcome(tmp_path, "_x")


def test_runs_of_different_numbers_are_not_compared(tmp_path: Path) -> None:
    persons, predictions = mpii(2)
    evaluated(tmp_path / "both", persons, predictions)
    share = read_outcome(tmp_path / "both")
    (tmp_path / "both" / "shares.npz").unlink()
    with pytest.raises(FarposeError, match="one run leads with AP, the other with a share of joints"):
        paired_bootstrap(share, read_outcome(tmp_path / "both"))


METRICS = {"AP_gt_boxes": 0.5, "AP_gt_boxes_low": 0.4, "AP_gt_boxes_high": 0.6, "persons": 7, "images": 5}


@pytest.mark.parametrize(
    ("more", "key", "said"),
    [
        ({}, "AP_gt_boxes", "AP 50.0 % (95 % interval 40.0 to 60.0); boxes"),
        (
            {"PCKh_50_gt_boxes": 0.88, "PCKh_50_gt_boxes_low": 0.87, "PCKh_50_gt_boxes_high": 0.89, "PCKh_10_gt_boxes": 0.3},
            "PCKh_50_gt_boxes", "PCKh@0.5 88.0 % (95 % interval 87.0 to 89.0), PCKh@0.1 30.0 %; boxes",
        ),
        (
            {"AP_easy_gt_boxes": 0.7, "AP_medium_gt_boxes": 0.6, "AP_hard_gt_boxes": 0.2},
            "AP_gt_boxes", "AP 50.0 % (95 % interval 40.0 to 60.0), AP easy 70.0 %, AP medium 60.0 %, AP hard 20.0 %; boxes",
        ),
        (
            {"AP_body_gt_boxes": 0.6, "AP_righthand_gt_boxes": 0.1, "AP_lefthand_gt_boxes": 0.2},
            "AP_gt_boxes", "AP body 60.0 %, AP left hand 20.0 %, AP right hand 10.0 %; boxes",
        ),
    ],
)  # fmt: skip
def test_the_card_leads_with_the_benchmarks_number(more: dict[str, float], key: str, said: str) -> None:
    metrics = METRICS | more
    assert leading_key(metrics) == key and said in in_words(metrics)
    facts = Facts({}, {"licences": "mine"}, {}, metrics, {}, {})
    variant = zoo.variant("simple_resnet50_mpii_256x256")
    card = model_card(variant, "0", facts)
    assert (
        f"`{key}_percent`, boxes given: annotated boxes" in card and f"The paper reports PCKh@0.5 {variant.paper.pckh50:g} on mpii" in card
    )
    assert leading(metrics).label in said.split() and len(beside(metrics)) == max(0, len(more) - 3 * ("PCKh_50_gt_boxes" in more))
