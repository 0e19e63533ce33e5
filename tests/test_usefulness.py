"""AP, AR and PCK against height and input size, and the height below which a method stops being useful."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from components.base.errors import FarposeError
from components.evaluate import curves as by_size
from components.evaluate import resampling
from components.evaluate import usefulness as useful
from components.evaluate.error_gains import Found
from components.evaluate.oks import evaluate, match
from components.evaluate.params import EvaluateParams
from components.evaluate.pck import pck
from components.evaluate.scoring import Truth
from components.evaluate.significance import paired_bootstrap
from components.evaluate.usefulness import DEGRADED, INPUT, NATIVE, Model, crossing
from components.evaluate.usefulness_plot import plot
from pipelines import curves as command
from pipelines.cli import main
from tests import evaluation_cases as cases
from tests.test_peers import PERSONS, TRUTH, records, tables, written  # noqa: F401  (a fixture)

EDGES = EvaluateParams(bootstrap_resamples=30, height_bins_px=(40.0, 90.0))


def found(noise: float, seed: int = 2, shrink: float = 0.0) -> Found:
    """Predictions with boxes; `shrink` adds the more noise, the smaller the person is."""
    labelled = PERSONS.labelled()
    rng = np.random.default_rng(seed)
    heights, area = labelled.bbox_xywh[:, 3], labelled.frame["area"].to_numpy()
    spread = (noise + shrink / heights) * np.sqrt(area)
    joints = labelled.keypoints[..., :2] + rng.normal(0, 1, labelled.keypoints[..., :2].shape) * spread[:, None, None]
    scores, frame = rng.uniform(0.1, 1, len(labelled)), labelled.frame
    made = cases.predictions_of(frame["image_id"].to_numpy(), joints, scores, frame["annotation_id"].to_numpy())
    return dataclasses.replace(made, bbox_xywh=labelled.bbox_xywh), scores


@pytest.mark.parametrize("shrink", [0.0, 4.0])
def test_native_points_are_ap_and_pck_of_the_bins(shrink: float) -> None:
    given = found(0.05, shrink=shrink)
    points = [p for p in useful.curves(TRUTH, [Model("m", given)], EDGES).points if p.over == NATIVE]
    sizes = by_size.heights(PERSONS, given[0])
    expected = by_size.by_size(PERSONS, *given, sizes, EDGES.height_bins_px, TRUTH.image_ids, 30)
    assert [(p.low, p.high, p.persons) for p in points] == [(p.low, p.high, p.persons) for p in expected]
    np.testing.assert_allclose([p.AP for p in points], [p.AP for p in expected], atol=1e-12)
    heights = PERSONS.bbox_xywh[:, 3]
    for point in points:
        part = PERSONS.select((heights >= point.low) & (heights < (point.high or np.inf)))
        own = np.isin(given[0].annotation_id, part.frame["annotation_id"])
        assert pytest.approx(pck(part, given[0].select(own))["PCK_torso"]) == point.PCK
        assert point.AP_low <= point.AP <= point.AP_high and point.AR_low <= point.AR <= point.AR_high


def test_degraded_points_are_of_the_same_large_persons_at_every_limit() -> None:
    large = PERSONS.labelled().bbox_xywh[:, 3]
    large = large[large > 64]
    model = Model("m", found(0.03), {64: found(0.06), 32: found(0.2)})
    points = [p for p in useful.curves(TRUTH, [model], EDGES).points if p.over == DEGRADED]
    assert [p.size for p in points] == [32, 64, pytest.approx(np.median(large))]
    assert {p.persons for p in points} == {len(large)} and points[0].AP < points[1].AP < points[2].AP
    ranges = by_size.by_size(PERSONS, *found(0.2), by_size.heights(PERSONS, found(0.2)[0]), [np.nextafter(64, 65)], TRUTH.image_ids, 5)
    assert pytest.approx(ranges[1].AP) == points[0].AP
    again = useful.curves(TRUTH, [model, Model("other", found(0.1), {128: found(0.1)})], EDGES).points
    assert {p.persons for p in again if p.over == DEGRADED} == {int((large > 128).sum())}, "the largest limit of any model decides for all"


def test_the_input_point_is_the_whole_split() -> None:
    model = Model("m", found(0.05), input_size=(64, 48))
    (point,) = [p for p in useful.curves(TRUTH, [model], EDGES).points if p.over == INPUT]
    numbers = evaluate(PERSONS, *found(0.05), TRUTH.image_ids)
    assert (point.size, point.persons) == (64, len(PERSONS.labelled()))
    assert pytest.approx((numbers["AP"], numbers["AR"])) == (point.AP, point.AR)
    assert not [p for p in useful.curves(TRUTH, [Model("m", found(0.05))], EDGES).points if p.over == INPUT]


@pytest.mark.parametrize(
    "values, expected",
    [
        ([0.0, 0.2, 0.6, 0.8], 20 * 2**0.5),  # .4 lies halfway between .2 at 20 and .6 at 40
        ([0.5, 0.6, 0.7, 0.8], 0.0),
        ([0.0, 0.4, 0.6, 0.8], 20.0),  # exactly half is not under half
        ([0.7, 0.2, 0.6, 0.8], 20 * 2**0.5),  # seen from the large persons, whatever is below
        ([0.0, np.nan, 0.8, 0.8], 20.0),  # a bin without persons is skipped
        ([0.1, 0.1, 0.1, 0.0], np.nan),
        ([0.1, 0.1, 0.1, np.nan], np.nan),
    ],
)
def test_the_crossing_is_interpolated_over_the_logarithm(values: list[float], expected: float) -> None:
    np.testing.assert_allclose(crossing(np.array([10.0, 20, 40, 80]), np.array(values), 0.5), expected, equal_nan=True)


def test_the_rule_finds_where_the_noise_takes_half() -> None:
    """AP falls with the height by construction; the limit lies between the bins around half of the AP of the highest one."""
    params = dataclasses.replace(EDGES, height_bins_px=(20.0, 30.0, 45.0, 70.0, 110.0), bootstrap_resamples=60)
    result = useful.curves(TRUTH, [Model("m", found(0.03, shrink=4.0))], params)
    (limit,) = result.limits
    sure = [p for p in result.points if p.persons >= useful.FEWEST]
    above = [p.size for p in sure if limit.reference / 2 <= p.AP]
    below = [p.size for p in sure if limit.reference / 2 > p.AP]
    assert limit.reference == sure[-1].AP and max(below) <= limit.height <= min(above)
    assert limit.height_low <= limit.height <= limit.height_high
    said = limit.sentence()
    assert f"stops being useful below {limit.height:.0f} px (95 % interval " in said and "half of its AP" in said
    assert "30 %" in limit.sentence(0.3)


def test_a_method_that_never_falls_is_said_to_be_useful_throughout() -> None:
    (limit,) = useful.curves(TRUTH, [Model("m", cases.truth_as_predictions(PERSONS))], EDGES).limits
    assert limit.height is None and limit.height_high == 0 and "AP stays above half" in limit.sentence() and "draws" not in limit.sentence()


def test_a_method_that_finds_nobody_is_useful_at_no_height(tmp_path: Path) -> None:
    nothing = cases.predictions_of(np.zeros(0), np.zeros((0, 17, 2)), np.zeros(0)), np.zeros(0)
    models = [Model("m", nothing, {32: nothing}, (64, 48))]
    result = useful.curves(TRUTH, models, EDGES)
    assert {p.AP for p in result.points} == {0.0} and all("useful at no height" in one.sentence() for one in result.limits)
    useful.write(tmp_path, result)
    assert plot(tmp_path / "curve.png", result, models) and useful.tables(result)[NATIVE][1][0][1] == "0 / 0 / 0"
    weak = useful.Limit("weak", NATIVE, 30.0, 20.0, 40.0, 0.05, 200.0, 17.0)
    assert weak.sentence() == "weak, natively small persons: AP 5.0 at 200 px; useful at no height."
    assert "nothing can be said" in dataclasses.replace(weak, reference=None).sentence()


def test_equal_images_have_no_spread() -> None:
    """Copies of one image: every draw is the same data."""
    one = [a for a in cases.random_coco(7, images=8)["annotations"] if not a["iscrowd"] and a["num_keypoints"] > 5]
    copies = [a | {"image_id": i, "id": 1000 * i + a["id"]} for i in range(1, 26) for a in one]
    persons = cases.persons_of(cases.coco_of([{"id": i} for i in range(1, 26)], copies))
    joints = persons.keypoints[..., :2].copy()
    joints[persons.bbox_xywh[:, 3] < 90] += 1000
    made = cases.predictions_of(
        persons.frame["image_id"].to_numpy(), joints, np.ones(len(persons)), persons.frame["annotation_id"].to_numpy()
    )
    given = dataclasses.replace(made, bbox_xywh=persons.bbox_xywh), np.ones(len(persons))
    (limit,) = useful.curves(Truth(persons, np.arange(1, 26)), [Model("m", given)], EDGES).limits
    assert limit.height and limit.height_low == pytest.approx(limit.height) == pytest.approx(limit.height_high)


def test_draws_are_the_same_for_all_measures_and_whatever_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [match(PERSONS, *found(noise), TRUTH.image_ids) for noise in (0.05, 0.08)]
    measures = {str(i): resampling.average_precision(run) for i, run in enumerate(runs)}
    images = len(TRUTH.image_ids)
    draws = resampling.resampled(measures, images, 200, 0)
    monkeypatch.setattr(resampling, "CELLS_PER_BATCH", 7 * images)
    again = resampling.resampled(measures, images, 200, 0)
    np.testing.assert_array_equal(draws["0"], again["0"])
    paired = paired_bootstrap(*runs, resamples=200)
    assert resampling.ends(draws["0"] - draws["1"]) == pytest.approx((paired.low, paired.high), abs=1e-12)


def arguments(folder: Path) -> list[str]:
    files = {"good": records(0.04), "good@h32": records(0.12), "good@h64": records(0.08), "bad": records(0.3)}
    given = []
    for name, content in files.items():
        given += ["--results", f"{name}={written(folder / f'{name}.json.gz', content)}"]
    return ["curve", *given, "--size", "good=64x48", "--size", "bad=128x96", "--output", str(folder / "out")]


def test_the_command_writes_table_plot_csv_and_json(tables: Path, tmp_path: Path, capsys: Any) -> None:  # noqa: F811
    assert main(arguments(tmp_path)) == 0
    said = capsys.readouterr().out
    assert "AP / AR / PCK in percent, by the height of natively small persons" in said and "good, persons reduced in size: " in said
    out = tmp_path / "out"
    lines = list(csv.DictReader((out / "curve.csv").open()))
    assert {line["model"] for line in lines if line["over"] == DEGRADED} == {"good"}
    assert [(line["model"], float(line["size"])) for line in lines if line["over"] == INPUT] == [("good", 64), ("bad", 128)]
    stored = json.loads((out / "curve.json").read_text())
    assert len(stored["points"]) == len(lines) and all(one["sentence"] in said for one in stored["limits"])
    assert cv2.imread(str(out / "curve.png")).shape[1] > 1400


@pytest.mark.parametrize(
    "more, problem",
    [
        (["nobody"], "unknown variant or peer 'nobody'"),
        (["--results", "x"], "not of the form NAME=FILE"),
        (["--results", "x=none.json"], "no such results file"),
        (["--results", "good=pyproject.toml"], "this name is given twice"),
        (["--results", "x@32=pyproject.toml"], "unknown condition '32'"),
        (["--results", "x@h32=pyproject.toml"], "its predictions without a limit of height are missing"),
        (["--size", "good=64"], "not of the form NAME=HxW"),
        (["--size", "nobody=64x48"], "unknown model of --size 'nobody'"),
        (["--share", "1.5"], "--share must be between 0 and 1"),
        (["--split", "dev"], "unknown split 'dev'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tables: Path, tmp_path: Path, capsys: Any, more: list[str], problem: str) -> None:  # noqa: F811
    assert main([*arguments(tmp_path), *more]) == 1
    said = capsys.readouterr().err
    assert problem in said and said.count("\n") == 1 and not (tmp_path / "out").exists()


def test_predictions_of_other_images_leave_nothing(tables: Path, tmp_path: Path, capsys: Any) -> None:  # noqa: F811
    content = records()
    content[0]["image_id"] = 12345
    asked = ["curve", "--results", f"x={written(tmp_path / 'x.json', content)}", "--output", str(tmp_path / "out")]
    assert main(asked) == 1 and "image 12345 is not in the data set" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_models_of_different_splits_do_not_mix() -> None:
    from pipelines.asked import Asked

    given = [Asked("a", Path("a"), split="val"), Asked("b", Path("b"), split="dev")]
    with pytest.raises(FarposeError, match=r"several splits \(a: val, b: dev\)"):
        command.one_split(given, None, "val")
    assert command.one_split(given[1:], None, "val") == "dev" and command.one_split([], None, "val") == "val"


def test_what_a_name_means(tmp_path: Path) -> None:
    """A folder of scratch/ is named like its model; its conditions are the files beside the main predictions."""
    from pipelines import asked

    folder = tmp_path / "hrnet_tiny_coco_64x48" / "evaluation"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text('{"split": "dev"}')
    with pytest.raises(FarposeError, match=r"evaluation: the evaluation's folder holds no predictions\.json.*name the file itself"):
        asked.find(str(folder))
    for end in ("", "_gt_boxes_h64", "_gt_boxes_h32", "_gt_boxes_antialias", "_detector_boxes"):
        (folder / f"predictions{end}.json").write_text("[]")
    (one,) = asked.find(str(folder))
    assert (one.name, one.split, one.input_size, one.peer) == ("hrnet_tiny_coco_64x48", "dev", (64, 48), False)
    assert list(one.heights) == [32, 64] and set(one.conditions) == {"h32", "h64", "antialias", "detector_boxes"}
    with pytest.raises(FarposeError, match=r"unknown condition 'h16'"):
        one.under("h16")
    (file,) = asked.find(str(folder / "predictions.json"))
    assert file.peer and file.name == "predictions" and not file.conditions
