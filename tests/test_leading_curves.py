"""Curves and errors of MPII are in PCKh@0.5, person by person and joint by joint, and say so; those of other data sets stay in AP."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from components.evaluate import curves, error_gains, error_pictures
from components.evaluate import usefulness as useful
from components.evaluate.errors import corrected
from components.evaluate.evaluators import EVALUATORS
from components.evaluate.leading import AP, PCKH, leads
from components.evaluate.overview import draw_curve
from components.evaluate.params import EvaluateParams
from components.evaluate.pckh import pckh_joints
from components.evaluate.predictions import Predictions
from components.evaluate.scoring import Truth, write_curve
from components.evaluate.usefulness import DEGRADED, INPUT, NATIVE, Model
from components.evaluate.usefulness_plot import plot
from components.pose.persons import Persons
from components.pose.skeleton import MPII_16
from pipelines import asked
from pipelines.cli import main
from tests import evaluation_cases as cases
from tests import evaluator_cases as scenes

IMAGES = np.arange(1, 41)
EDGES = (30.0, 100.0)
PARAMS = EvaluateParams(bootstrap_resamples=60, height_bins_px=EDGES)


def mpii(seed: int = 3, worse: float = 1.0) -> tuple[Persons, Predictions, np.ndarray]:
    """Persons of 40 images with their predictions, whose errors are `worse` times as large."""
    persons = scenes.scene(seed, MPII_16, images=40)[0]
    found = scenes.own_predictions(seed, persons)
    place = {int(number): row for row, number in enumerate(persons.frame["annotation_id"])}
    rows = [place[int(number)] for number in found.annotation_id]
    truth = persons.keypoints[rows, :, :2]
    moved = truth + worse * (found.keypoints_image - truth)
    found = replace(found, keypoints_image=moved, bbox_xywh=persons.bbox_xywh[rows])
    return persons, found, np.linspace(1, 0.5, len(found))


def part(persons: Persons, low: float, high: float | None) -> Persons:
    heights = persons.bbox_xywh[:, 3]
    return persons.select((heights >= low) & (heights < (high or np.inf)))


def by_hand(persons: Persons, predictions: Predictions) -> float:
    return float(scenes.pckh_by_hand(persons, predictions)["PCKh_50"])


@pytest.mark.parametrize("seed", range(4))
def test_joints_of_some_persons_make_their_pckh(seed: int) -> None:
    persons, predictions, _ = mpii(seed)
    near, counted = pckh_joints(persons, predictions)
    heights = persons.labelled().bbox_xywh[:, 3]
    for low, high in ((0.0, None), (0.0, 30.0), (30.0, 100.0), (100.0, None)):
        inside, of_bin = (heights >= low) & (heights < (high or np.inf)), part(persons, low, high)
        if of_bin.labelled().frame["head_size"].notna().any():
            assert near[inside].sum() / counted[inside].sum() == pytest.approx(by_hand(of_bin, predictions), abs=1e-12)
    headless = replace(persons, frame=persons.frame.assign(head_size=np.nan))
    assert not pckh_joints(headless, predictions)[1].any()


def test_the_number_of_an_evaluator() -> None:
    assert {name: leads(name) for name in EVALUATORS} == {"oks": AP, "crowdpose": AP, "wholebody": AP, "pckh": PCKH}
    assert {name for name, one in EVALUATORS.items() if one.joints} == {name for name in EVALUATORS if leads(name) is PCKH}


def test_the_curves_of_an_evaluation_hold_pckh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """by_height.json, .csv and the pictures; another evaluator's files have no such column."""
    persons, predictions, scores = mpii()
    labels = axis_labels(monkeypatch)
    sizes = curves.heights(persons, predictions)
    for name in ("pckh", "oks"):
        (tmp_path / name).mkdir()
        truth = Truth(persons, IMAGES, name)
        bins = write_curve("by_height", sizes, EDGES, (predictions, scores), truth, PARAMS, tmp_path / name, ("model", "px"))
        assert json.loads((tmp_path / name / "by_height.json").read_text()) == bins and len(bins) == 3
        with (tmp_path / name / "by_height.csv").open() as stream:
            columns = csv.DictReader(stream).fieldnames or []
        axes = Figure().subplots()
        draw_curve(axes, bins)
        if name == "oks":
            assert not any("PCKh" in column for column in columns) and axes.get_ylabel() == labels[-1] == "AP, with its 95 % interval"
            continue
        assert "PCKh_50_low" in columns and axes.get_ylabel() == labels[-1] == "PCKh@0.5, with its 95 % interval"
        for one in bins:
            expected = by_hand(part(persons, one["low"], one["high"]), predictions)
            assert one["PCKh_50"] == pytest.approx(expected, abs=1e-12) and one["PCKh_50_low"] < expected < one["PCKh_50_high"]


def axis_labels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The labels of the y axes of every picture that is saved."""
    found: list[str] = []
    save = Figure.savefig

    def saved(figure: Figure, *given: Any, **more: Any) -> None:
        found.extend(axes.get_ylabel() for axes in figure.axes if isinstance(axes, Axes))
        save(figure, *given, **more)

    monkeypatch.setattr(Figure, "savefig", saved)
    return found


def test_the_curve_of_mpii_is_in_pckh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    persons, predictions, scores = mpii()
    far = mpii(worse=4.0)[1]
    models = [Model("m", (predictions, scores), {32: (far, scores)}, (64, 48))]
    found = useful.curves(Truth(persons, IMAGES, "pckh"), models, PARAMS)
    assert found.heading == "PCKh@0.5 / AP / AR"
    for point in found.points:
        of_bin = part(persons, point.low or 0.0, point.high)
        expected = by_hand(of_bin, far if point.over == DEGRADED and point.size == 32 else predictions)
        assert point.PCKh_50 == pytest.approx(expected, abs=1e-12) and point.PCKh_50_low <= expected <= point.PCKh_50_high
    assert {point.over for point in found.points} == {NATIVE, DEGRADED, INPUT}
    for limit in found.limits:
        last = [point for point in found.points if point.over == limit.over and point.persons >= useful.FEWEST][-1]
        assert limit.reference == last.PCKh_50 != last.AP and f"PCKh@0.5 of {100 * limit.reference:.1f} at" in limit.sentence()
        assert " AP" not in limit.sentence()
    (cell,) = useful.tables(found)[INPUT][1]
    (point,) = [one for one in found.points if one.over == INPUT]
    assert cell[1] == f"{100 * point.PCKh_50:.0f} / {100 * point.AP:.0f} / {100 * point.AR:.0f}"
    labels = axis_labels(monkeypatch)
    assert plot(tmp_path / "curve.png", found, models) and {label for label in labels if label} == {"PCKh@0.5, %", "AP, %", "AR, %"}
    useful.write(tmp_path, found)
    assert {line["PCKh_50"] for line in csv.DictReader((tmp_path / "curve.csv").open())} == {str(one.PCKh_50) for one in found.points}


def test_other_curves_have_no_pckh(tmp_path: Path) -> None:
    persons, predictions, scores = mpii()
    found = useful.curves(Truth(persons, IMAGES), [Model("m", (predictions, scores))], PARAMS)
    useful.write(tmp_path, found)
    assert found.heading == "AP / AR / PCK" and "PCKh" not in (tmp_path / "curve.csv").read_text() + (tmp_path / "curve.json").read_text()


def test_the_gains_of_mpii_are_in_pckh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    persons, predictions, scores = mpii(worse=1.5)
    truth = Truth(persons, IMAGES, "pckh")
    result, found = error_gains.diagnose(truth, (predictions, scores), PARAMS)
    before = by_hand(persons, predictions)
    assert result["leads"] == "PCKh_50" and result["PCKh_50"] == pytest.approx(before, abs=1e-12) and "AP" not in result
    gains = {row["kind"]: row for row in result["kinds"]}
    for name, kinds in error_gains.JOINT_KINDS.items():
        after = by_hand(persons, corrected(truth, predictions, found, kinds))
        assert gains[name]["gain"] == pytest.approx(after - before, abs=1e-12)
    assert gains["miss"]["gain"] > 0 and gains["ranking"]["gain"] == 0, "a share of joints knows no scores"
    kept = persons.select(~found.not_found)
    assert gains["not found"]["gain"] == pytest.approx(by_hand(kept, predictions) - before, abs=1e-12) and found.not_found.any()
    for one in result["by_height"]:
        assert one["PCKh_50"] == pytest.approx(by_hand(part(persons, one["low"], one["high"]), predictions), abs=1e-12)
    assert error_gains.in_words("m", result).startswith(f"m: PCKh@0.5 {100 * before:.1f}. ")
    assert error_gains.table(result)[0][-1] == "PCKh@0.5 gained if corrected (95 % interval)"
    labels = axis_labels(monkeypatch)
    error_pictures.plot(tmp_path / "errors.png", "m", result)
    assert "PCKh@0.5 points gained in that bin" in labels and not any(label.startswith("AP") for label in labels)


def test_without_predictions_nothing_of_mpii_is_found() -> None:
    persons = mpii()[0]
    nothing = cases.predictions_of(np.zeros(0), np.zeros((0, 16, 2)), np.zeros(0)), np.zeros(0)
    result, _ = error_gains.diagnose(Truth(persons, IMAGES, "pckh"), nothing, PARAMS)
    assert result["PCKh_50"] == 0 and error_gains.in_words("m", result) == "m: PCKh@0.5 0.0; no correction changes it."


def test_the_commands_say_pckh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    persons, predictions, scores = mpii()
    content = cases.records_of(predictions, scores)
    (tmp_path / "m.json").write_text(json.dumps(content))
    monkeypatch.setattr(asked, "truth_of", lambda folder, split: Truth(persons, IMAGES, "pckh"))
    assert main(["curve", "--results", f"m={tmp_path / 'm.json'}", "--output", str(tmp_path / "curve")]) == 0
    said = capsys.readouterr().out
    assert "PCKh@0.5 / AP / AR in percent, by the height of natively small persons" in said and "falls under half of its AP" not in said
    assert main(["errors", str(tmp_path / "m.json"), "--no-gallery", "--output", str(tmp_path / "errors")]) == 0
    said = capsys.readouterr().out
    assert "PCKh@0.5 gained if corrected" in said and "m: PCKh@0.5 " in said
