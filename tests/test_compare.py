"""The comparison of variants: one table and its plots, top-down and bottom-up rows together, and which AP is the main one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import pandas as pd
import pytest

from components.base.errors import FarposeError
from components.evaluate import curves
from components.evaluate.compare import compare
from components.evaluate.headline import PROTOCOLS, boxes_of, headline, headline_ap
from components.models import zoo
from components.registry.model_card import Facts, model_card


def rows_to_compare() -> list[dict[str, Any]]:
    point = curves.Point(0.0, 32.0, 20.0, 5, 0.3, 0.2, 0.4, 0.5)
    first = {"variant": "hrnet", "AP_gt_boxes": 0.29, "AP_gt_boxes_low": 0.25, "AP_gt_boxes_high": 0.33, "ceiling_AP": 0.589}
    second = {
        "variant": "<cal>",
        "AP_gt_boxes": 0.57,
        "paper_AP": 0.584,
        "params_m": 17.85,
        "training_s": 90.0,
        "by_height": [asdict(point)],
    }
    return [first, second]


def test_comparison_is_sorted_and_written_for_people_and_programs(tmp_path: Path) -> None:
    table = compare(rows_to_compare(), tmp_path, "two cores")
    assert table["variant"].tolist() == ["<cal>", "hrnet"]
    assert {p.name for p in tmp_path.iterdir()} == {f"comparison.{kind}" for kind in ("csv", "json", "md", "html", "png")} | {
        "by_height.png"
    }
    text = (tmp_path / "comparison.md").read_text()
    assert (
        "| hrnet | annotated boxes | 29.0 (25.0–33.0) | 58.9 |  |  |  |" in text and "detector boxes |" not in text and "two cores" in text
    )
    assert "&lt;cal&gt;" in (tmp_path / "comparison.html").read_text()
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "comparison.csv"), table, check_dtype=False)
    assert json.loads((tmp_path / "comparison.json").read_text())[0] == rows_to_compare()[1]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([], "no variants"),
        ([{"variant": "cal"}], "AP_gt_boxes or AP_no_boxes or .* is missing"),
        (rows_to_compare()[:1] * 2, "appears twice"),
    ],
)
def test_comparison_needs_names_and_numbers(tmp_path: Path, rows: list[dict[str, Any]], problem: str) -> None:
    with pytest.raises(FarposeError, match=problem):
        compare(rows, tmp_path)


def bottom_up_rows() -> list[dict[str, Any]]:
    """Two whole-image rows; the first has a higher AP than any row with boxes."""
    whole = {"variant": "higherhrnet", "AP_no_boxes": 0.61, "AP_no_boxes_low": 0.60, "AP_no_boxes_high": 0.63, "AR_no_boxes": 0.7}
    letterboxed = {"variant": "higherpose", "AP_no_boxes_letterbox": 0.434, "AP50_no_boxes_letterbox": 0.706, "AP_no_boxes_low": 0.9}
    return [letterboxed, whole]


def test_rows_of_all_protocols_stand_in_one_table_each_under_its_own(tmp_path: Path) -> None:
    point = asdict(curves.Point(0.0, 32.0, 20.0, 5, 0.3, 0.2, 0.4, None))
    rows = [*bottom_up_rows(), *rows_to_compare()]
    rows[0]["by_height"] = [point]
    table = compare(rows, tmp_path)
    assert table["variant"].tolist() == ["<cal>", "hrnet", "higherhrnet", "higherpose"], "ranked within a protocol only"
    text = (tmp_path / "comparison.md").read_text()
    cells = {line.split(" | ")[0].strip("| "): [cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines()}
    heading = cells["variant"]
    assert heading[:6] == ["variant", "boxes given", "AP (95 % interval)", "AP50", "AR", "ceiling"]
    assert cells["higherhrnet"][1:5] == ["none (whole image)", "61.0 (60.0–63.0)", "", "70.0"]
    assert cells["higherpose"][1:4] == ["none (published letterboxing)", "43.4", "70.6"], "no interval of another protocol"
    assert "under its own protocol" in text and "do not compare methods" in text
    for name in ("comparison.png", "by_height.png"):
        picture = cv2.imread(str(tmp_path / name))
        assert picture is not None and picture.std() > 5


@pytest.mark.parametrize("suffix", PROTOCOLS)
def test_the_main_ap_names_whose_boxes(suffix: str) -> None:
    metrics = {f"AP_{suffix}": 0.25, "AP_detector_boxes": 0.9, "ceiling_AP": 1.0, "AP_other_boxes": 0.5}
    assert (headline(metrics), headline_ap(metrics), boxes_of(metrics)) == (suffix, 0.25, PROTOCOLS[suffix])


def test_a_mapping_without_a_main_ap_is_named() -> None:
    with pytest.raises(FarposeError, match=r"AP_no_boxes_letterbox is missing.*evaluate it again"):
        headline({"variant": "x", "AP_no_boxes": None, "AP_detector_boxes": 0.9})
    assert headline({"AP_gt_boxes": 0.1, "AP_no_boxes": 0.9}) == "gt_boxes"


@pytest.mark.parametrize(("name", "suffix"), [("cal_hrnet_w48_coco_64x48", "gt_boxes"), ("higherhrnet_w32_crowdpose_256", "no_boxes")])
def test_the_card_says_which_ap_is_the_main_one_and_what_the_model_needs(name: str, suffix: str) -> None:
    variant = zoo.variant(name)
    facts = Facts("w", "d", "c", {}, {}, {f"AP_{suffix}": 0.25, "AP_detector_boxes": 0.2}, {}, {})
    card = model_card(variant, facts)
    assert f"The main AP is `AP_{suffix}`, boxes given: {PROTOCOLS[suffix]}." in card
    assert ("It needs no boxes" in card) == ("whole image whose short side" in card) == variant.bottom_up
    assert ("one person in a crop" in card) == ("It needs a person's box" in card) == (not variant.bottom_up)
