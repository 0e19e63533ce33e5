"""The comparison of variants: one table and its plots, top-down and bottom-up rows together, and which AP is the main one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from components.base.errors import FarposeError
from components.base.files import write_json
from components.evaluate import curves
from components.evaluate.compare import compare
from components.evaluate.headline import PROTOCOLS, boxes_of, headline
from components.evaluate.leading import leading_value
from components.evaluate.matching import Matches
from components.evaluate.oks import match, summarise
from components.evaluate.ranking import verdict
from components.evaluate.significance import Difference, every_pair, holm, paired_bootstrap, write_matches
from components.models import zoo
from components.registry.model_card import Facts, in_words, model_card
from pipelines import comparing, paths
from pipelines import settings as pipeline_settings
from pipelines.cli import main
from tests import evaluation_cases as cases


def rows_to_compare() -> list[dict[str, Any]]:
    point = curves.Point(0.0, 32.0, 20.0, 5, 0.3, 0.2, 0.4, 0.5)
    first = {
        "variant": "hrnet",
        "AP_gt_boxes": 0.29,
        "AP_gt_boxes_low": 0.25,
        "AP_gt_boxes_high": 0.33,
        "target_AP": 0.589,
        "bound_AP": 0.96,
    }
    second = {
        "variant": "<cal>",
        "AP_gt_boxes": 0.57,
        "paper_AP": 0.584,
        "paper_note": "annotated boxes, ImageNet start",
        "params_m": 17.85,
        "AP_M_gt_boxes": 0.5,
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
    heading, _, first, second = text.splitlines()[:4]
    assert heading.startswith(
        "| variant | AP (95 % interval) | target AP | bound AP | paper's AP (annotated boxes, ImageNet start) | params, M |"
    )
    assert first == "| <cal> | 57.0 |  |  | 58.4 | 17.85 |" and second == "| hrnet | 29.0 (25.0–33.0) | 58.9 | 96.0 |  |  |"
    assert "Boxes given: annotated boxes." in text and "two cores" in text and "seeds" not in text and "Difference" not in text
    assert "AP(M)" in (tmp_path / "comparison.html").read_text(), "the page has more columns"
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
    assert heading[:6] == ["variant", "boxes given", "AP (95 % interval)", "AP50", "AR", "target AP"]
    assert cells["higherhrnet"][1:5] == ["none (whole image)", "61.0 (60.0–63.0)", "", "70.0"]
    assert cells["higherpose"][1:4] == ["none (published letterboxing)", "43.4", "70.6"], "no interval of another protocol"
    assert "under its own protocol" in text and "do not compare methods" in text
    for name in ("comparison.png", "by_height.png"):
        picture = cv2.imread(str(tmp_path / name))
        assert picture is not None and picture.std() > 5


def scored(names: dict[str, tuple[int, float]], images: int = 60) -> tuple[list[dict[str, Any]], dict[str, Matches]]:
    """Rows and matches of made-up runs on the same images, by name (seed, noise)."""
    coco = cases.random_coco(1, images=images)
    rows, matches = [], {}
    for name, (seed, noise) in names.items():
        predictions, scores = cases.noisy_predictions(coco, seed, noise=noise)
        matches[name] = match(cases.persons_of(coco), predictions, scores, cases.image_ids_of(coco))
        rows.append({"variant": name, "AP_gt_boxes": summarise(matches[name])["AP"], "params_m": 1.0})
    return rows, matches


def test_every_row_shows_its_paired_difference_to_the_best(tmp_path: Path) -> None:
    rows, matches = scored({"near": (2, 0.04), "far": (3, 0.4), "twin": (4, 0.041)})
    table = compare(rows, tmp_path, matches=matches).set_index("variant")
    assert table.index[0] in ("near", "twin") and table.index[-1] == "far"
    best = table.index[0]
    p_values = []
    for name in table.index[1:]:
        expected = paired_bootstrap(matches[name], matches[best])
        found = table.loc[name]
        assert found["best"] == best
        p_values.append(expected.p_value)
        assert (found["difference"], found["difference_low"], found["difference_high"], found["difference_p"]) == pytest.approx(
            (expected.value, expected.low, expected.high, expected.p_value)
        )
    assert table["difference_p_holm"].tolist()[1:] == pytest.approx(holm(p_values))
    text = (tmp_path / "comparison.md").read_text()
    cells = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("|")}
    assert "| best |" in cells[best] and "−" in cells["far"] and "≈" not in cells["far"], "the far one is told apart"
    twin = next(name for name in table.index[1:] if name != "far")
    assert "≈" in cells[twin] and "Holm's correction for the 2 comparisons" in text
    assert "intervals of the AP column say nothing about a difference" in text


@pytest.mark.parametrize("alike", [True, False])
def test_variants_that_differ_in_their_shards_are_no_seeds_of_each_other(monkeypatch: pytest.MonkeyPatch, alike: bool) -> None:
    near, moved = "dark_ranked_mobilenet_fpn_coco_128x96", "dark_ranked_mobilenet_fpn_coco_128x96_distance"
    assert zoo.group_of(zoo.variant(near)) == zoo.group_of(zoo.variant(moved)), "their entries say the same"
    shards = {near: "antialias_128x96", moved: "antialias_128x96" if alike else "distance_128x96"}
    pipeline = SimpleNamespace(variants=dict.fromkeys(shards), shards_of=shards.__getitem__)
    monkeypatch.setattr(pipeline_settings, "load", lambda: pipeline)
    assert [comparing.group_of(name) for name in shards] == [near, near if alike else moved]


def test_runs_on_other_images_or_without_matches_have_no_difference(tmp_path: Path) -> None:
    rows, matches = scored({"a": (2, 0.03), "b": (3, 0.4)})
    other_rows, other = scored({"c": (2, 0.2)}, images=61)
    table = compare([*rows, *other_rows, {"variant": "d", "AP_gt_boxes": 0.001}], tmp_path, matches=matches | other).set_index("variant")
    assert table["difference"].notna().to_dict() == {"a": False, "b": True, "c": False, "d": False}


def test_seeds_of_a_variant_are_one_row_with_mean_and_spread(tmp_path: Path) -> None:
    rows, matches = scored({"near_1": (2, 0.04), "near_2": (3, 0.05), "near_3": (4, 0.06), "far": (5, 0.4)})
    for seed, row in enumerate(rows[:3]):
        row |= {"group": "near", "seed": seed, "mean_OKS_gt_boxes": 0.5 + 0.1 * seed}
    values = [row["AP_gt_boxes"] for row in rows[:3]]
    table = compare(rows, tmp_path, matches=matches).set_index("variant")
    assert table.index.tolist() == ["near", "far"]
    near = table.loc["near"]
    assert (near["AP_gt_boxes"], near["AP_gt_boxes_spread"], near["seeds"]) == pytest.approx((np.mean(values), np.std(values, ddof=1), 3))
    assert near["mean_OKS_gt_boxes"] == pytest.approx(0.6) and near["AP_gt_boxes_low"] < near["AP_gt_boxes"] < near["AP_gt_boxes_high"]
    assert table.loc["far", "difference"] == pytest.approx(rows[3]["AP_gt_boxes"] - np.mean(values))
    assert f"| 3, ±{100 * np.std(values, ddof=1):.1f} |" in (tmp_path / "comparison.md").read_text()
    alone = compare([rows[1], rows[3]], tmp_path, matches=matches)
    assert alone["variant"].tolist() == ["near_2", "far"] and "seeds" not in alone, "one seed alone keeps its own name"
    rows[0] |= {"recipe": "matched"}
    assert compare(rows, tmp_path, matches=matches)["variant"].tolist() == ["near", "near_1", "far"], "another recipe is another row"
    rows[0] |= {"recipe": None}
    rows[1]["seed"] = 0
    with pytest.raises(FarposeError, match=r"comparison: near: seeds \[0, 0, 2\] are not all different"):
        compare(rows, tmp_path)


def test_papers_with_other_boxes_or_start_are_told_apart(tmp_path: Path) -> None:
    rows = [
        {"variant": name, "AP_gt_boxes": 0.5, "paper_AP": 0.6, "paper_note": note} for name, note in (("a", "x"), ("b", "y"), ("c", "x"))
    ]
    rows.append({"variant": "d", "AP_gt_boxes": 0.4, "paper_AP": 0.7})
    compare(rows, tmp_path)
    text = (tmp_path / "comparison.md").read_text()
    assert "paper's AP (boxes and start differ)" in text and "| 60.0 [a] |" in text and "| 60.0 [b] |" in text and "| 70.0 [c] |" in text
    assert "[a] x; [b] y; [c] boxes and start not stated; " in text


def test_a_verdict_in_words() -> None:
    a, b = {"variant": "a", "AP_gt_boxes": 0.5}, {"variant": "b", "AP_gt_boxes": 0.46}
    text = verdict(a, b, Difference(0.04, 0.02, 0.06, 0.002, 1200))
    assert text.startswith("a is better than b by 4.0 AP (95 % interval +2.0 to +6.0, p = 0.002, n = 1,200 images).")
    assert verdict(b, a, Difference(-0.04, -0.06, -0.02, 0.002, 1200)) == text, "whichever comes first"
    close = verdict(a, b, Difference(0.04, -0.01, 0.09, 0.12, 1200))
    assert close.startswith("a and b cannot be told apart: a is 4.0 AP above (95 % interval −1.0".replace("−", "-"))
    assert "one seed" in text
    several = verdict(
        a | {"seeds": 3, "AP_gt_boxes_spread": 0.01}, b | {"seeds": 2, "AP_gt_boxes_spread": 0.02}, Difference(0.04, 0.02, 0.06, 0.002, 9)
    )
    assert "mean of 3 seeds, standard deviation 1.0" in several and "one seed" not in several
    assert "two systems" in verdict(a, {"variant": "c", "AP_no_boxes": 0.4}, Difference(0.1, 0.02, 0.2, 0.01, 9))


def test_every_pair_of_runs_is_compared_as_by_itself() -> None:
    _, matches = scored({"near": (2, 0.04), "far": (3, 0.4), "twin": (4, 0.041)})
    found = every_pair(matches)
    assert list(found) == [("near", "far"), ("near", "twin"), ("far", "twin")]
    for (first, second), difference in found.items():
        assert difference == paired_bootstrap(matches[first], matches[second])


def test_farpose_compare_says_which_is_better(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, matches = scored({"near": (2, 0.04), "far": (3, 0.4)})
    for row in rows:
        folder = tmp_path / row["variant"]
        write_json(folder / "metrics.json", {key: value for key, value in row.items() if key != "variant"})
        write_matches(folder / "matches.npz", matches[row["variant"]])
    near, far = (str(tmp_path / name) for name in ("near", "far"))
    assert main(["compare", far, near]) == 0
    said = capsys.readouterr().out
    expected = paired_bootstrap(matches["near"], matches["far"])
    assert f"{near} is better than {far} by {100 * expected.value:.1f} AP" in said and "n = 60 images" in said
    (tmp_path / "far" / "matches.npz").unlink()
    assert main(["compare", far, near]) == 1
    assert "no per-image matches of this evaluation" in capsys.readouterr().err
    assert main(["compare", near]) == 1
    assert "compare takes two names or none, got 1" in capsys.readouterr().err
    assert main(["compare", "hrnet_w32_coco_64x48", near]) == 1
    assert "not evaluated yet" in capsys.readouterr().err
    assert main(["compare", "hrnet_w32_coco_64x84", near]) == 1
    assert "unknown variant 'hrnet_w32_coco_64x84'" in capsys.readouterr().err


def test_the_pipelines_rows_have_their_group_recipe_and_matches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    names = list(pipeline_settings.load().variants)[:2]
    rows, matches = scored({names[0]: (2, 0.04), names[1]: (3, 0.4)})
    monkeypatch.setattr(paths, "EVALUATIONS", tmp_path / "evaluations")
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    for row in rows:
        name = row["variant"]
        write_json(tmp_path / "results" / "train" / f"{name}.json", {"device": "cpu"})
        for path in (tmp_path / "results" / "evaluate" / f"{name}.json", tmp_path / "evaluations" / name / "metrics.json"):
            write_json(path, {key: value for key, value in row.items() if key != "variant"})
        write_json(tmp_path / "evaluations" / name / "by_height.json", [])
        write_matches(tmp_path / "evaluations" / name / "matches.npz", matches[name])
    table = compare([comparing.row(name) for name in names], tmp_path / "out", matches=comparing.matches(names))
    assert table["variant"].tolist() == names and table["recipe"].tolist() == ["published"] * 2
    assert table.loc[1, "difference"] == pytest.approx(rows[1]["AP_gt_boxes"] - rows[0]["AP_gt_boxes"])
    assert main(["compare", *names]) == 0
    assert f"{names[0]} is better than {names[1]}" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", PROTOCOLS)
def test_the_main_ap_names_whose_boxes(suffix: str) -> None:
    metrics = {f"AP_{suffix}": 0.25, "AP_detector_boxes": 0.9, "target_AP": 1.0, "AP_other_boxes": 0.5}
    assert (headline(metrics), leading_value(metrics), boxes_of(metrics)) == (suffix, 0.25, PROTOCOLS[suffix])


def test_a_mapping_without_a_main_ap_is_named() -> None:
    with pytest.raises(FarposeError, match=r"AP_no_boxes_letterbox is missing.*evaluate it again"):
        headline({"variant": "x", "AP_no_boxes": None, "AP_detector_boxes": 0.9})
    assert headline({"AP_gt_boxes": 0.1, "AP_no_boxes": 0.9}) == "gt_boxes"


@pytest.mark.parametrize(("name", "suffix"), [("cal_hrnet_w48_coco_64x48", "gt_boxes"), ("higherhrnet_w32_crowdpose_256", "no_boxes")])
def test_the_card_says_which_ap_is_the_main_one_and_what_the_model_needs(name: str, suffix: str) -> None:
    variant = zoo.variant(name)
    facts = Facts({}, {"source": "s", "licences": "l"}, {}, {f"AP_{suffix}": 0.25, "AP_detector_boxes": 0.2}, {}, {})
    card = model_card(variant, "w", facts)
    assert f"The main AP is `AP_{suffix}_percent`, boxes given: {PROTOCOLS[suffix]}." in card
    assert in_words(facts.metrics) in card.split("## Results")[0]
    assert ("It needs no boxes" in card) == ("whole image whose short side" in card) == (variant.approach == "images")
    assert ("one person in a crop" in card) == ("It needs a person's box" in card) == (variant.approach == "crops")
