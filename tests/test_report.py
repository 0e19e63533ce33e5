"""The report: one file, no network, sortable on a phone and a desk; and what it says is what was compared."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from components.base.errors import FarposeError
from components.base.files import write_json
from components.evaluate import report
from components.evaluate.compare import compare
from components.evaluate.oks import match
from components.evaluate.params import EvaluateParams
from components.evaluate.peers import score_results
from components.evaluate.predictions import write_coco_results
from components.evaluate.report import Cell, Section, Table
from components.evaluate.significance import holm, paired_bootstrap, read_matches
from components.pose.images import write_images
from pipelines import paths, settings
from pipelines.cli import main
from tests.browser import Browser
from tests.repositories import REPOSITORY
from tests.test_peers import COCO, PERSONS, TRUTH, images_of, records, written
from tests.test_usefulness import found

PARAMS = EvaluateParams(bootstrap_resamples=30, gallery_size=2, height_bins_px=(40.0, 90.0))
NAMES = list(settings.load().variants)[:2]
PEER = "other_network"
WIDTHS = {"phone": 390, "desk": 1280}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The report of two variants and a peer on drawn rectangles, by the command."""
    root = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        evaluated(root, patch)
        assert main(["report", "--output", str(root / "out")]) == 0
        yield root / "out" / "report.html"


def evaluated(root: Path, patch: pytest.MonkeyPatch) -> None:
    """Everything that the pipeline leaves, as far as the report reads it."""
    source = root / "data" / settings.data().source
    source.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for image in COCO["images"]:
        cv2.imwrite(str(source / f"{image['id']}.jpg"), cv2.resize(rng.integers(0, 255, (6, 8, 3), np.uint8), (640, 480)))
    frame = PERSONS.frame.assign(area_range_px2=PERSONS.frame["area"], image_path=[f"{i}.jpg" for i in PERSONS.frame["image_id"]])
    dataclasses.replace(PERSONS, frame=frame).write(root / "persons" / "persons.parquet")
    write_images(root / "persons" / "images.parquet", images_of([image["id"] for image in COCO["images"]]))
    places = {"DATA": "data", "PERSONS": "persons", "EVALUATIONS": "evaluations", "COMPARISON": "comparison", "RESULTS": "results"}
    for name, folder in (places | {"SHARDS": "shards", "SCRATCH": "scratch"}).items():
        patch.setattr(paths, name, root / folder)
    peer = settings.PeerPlan("peers/other.json.gz", "<b>Another</b> network", "MIT", {"h32": "peers/other_32.json.gz"})
    planned = {name: settings.load().variants[name] for name in NAMES}
    pipeline = dataclasses.replace(settings.load(), variants=planned, peers={PEER: peer})
    patch.setattr(settings, "load", lambda *_: pipeline)
    patch.setattr(settings, "evaluation", lambda: PARAMS)
    rows = [variant(root, name, noise) for name, noise in zip(NAMES, (0.04, 0.1), strict=True)]
    (root / "data" / "peers").mkdir()
    files = {
        name: written(root / "data" / "peers" / f"{name}.json.gz", records(noise)) for name, noise in (("other", 0.2), ("other_32", 0.3))
    }
    folder = root / "comparison" / "peers" / PEER
    note = "predictions of <b>Another</b> network, licence: MIT"
    rows.append(score_results(files["other"], TRUTH, PARAMS, folder, PEER, note) | {"variant": PEER})
    folders = {name: root / "evaluations" / name for name in NAMES} | {PEER: folder}
    compare(rows, root / "comparison", matches={name: read_matches(one / "matches.npz") for name, one in folders.items()})
    shard = root / "shards" / next(iter(pipeline.shards))
    shard.mkdir(parents=True)
    cv2.imwrite(str(shard / "contact_sheet.png"), rng.integers(0, 255, (300, 2000, 3), np.uint8))


def variant(root: Path, name: str, noise: float) -> dict[str, Any]:
    """What the evaluation of a variant leaves, also under a limit of height; the comparison's row."""
    folder = root / "evaluations" / name
    for end, more in (("", 1), ("_gt_boxes_h32", 3)):
        predictions, scores = found(noise * more)
        write_coco_results(folder / f"predictions{end}.json", predictions, scores, {"weights_sha256": f"digest of {name}"})
    row = score_results(written(root / "own.json", records(noise)), TRUTH, PARAMS, folder, name)
    del row["peer_note"]
    write_json(folder / "metrics.json", row)
    write_json(root / "results" / "evaluate" / f"{name}.json", row)
    write_json(root / "results" / "train" / f"{name}.json", {"device": "cpu"})
    return row | {"variant": name}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as started:
        yield started


def test_the_page_needs_no_other_file(page: Path) -> None:
    text = page.read_text()
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:|#)""", text) and "@import" not in text and "url(" not in text
    assert "<b>Another</b>" not in text and "&lt;b&gt;Another&lt;/b&gt;" in text, "texts of others are escaped"
    assert all(f"digest of {name}" in text for name in NAMES) and "numpy" in text
    for section in ("leaderboard", "differences", "curves", "errors", "data", "inputs", "provenance"):
        assert f'<section id="{section}">' in text and f'href="#{section}"' in text


def test_the_numbers_lie_beside_it(page: Path) -> None:
    stored = json.loads((page.parent / "curve.json").read_text())
    assert {point["model"] for point in stored["points"]} == {*NAMES, PEER}
    assert {one["over"] for one in stored["limits"]} == {"native", "degraded"}
    for name in (*NAMES, PEER):
        assert json.loads((page.parent / "errors" / f"{name}.json").read_text())["kinds"]


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_it_shows_in_a_browser(page: Path, browser: Browser, tmp_path: Path, width: int) -> None:
    """No complaint of the console, no request, every image drawn, and nothing wider than the window."""
    browser.events.clear()
    browser.open(page, width, phone=width < 500)
    assert browser.complaints() == []
    assert browser.run("document.images.length") > 20
    assert browser.run("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert browser.run("document.documentElement.scrollWidth") == width
    shown = cv2.imread(str(browser.screenshot(tmp_path / "page.png")))
    assert shown.shape[1] == width and shown.shape[0] > 2000 and shown.std() > 20


FIRST_COLUMN = "[...document.querySelectorAll('#leaderboard tbody th')].map((cell) => cell.dataset.text)"
PRESS = "document.querySelectorAll('#leaderboard thead button')[{}].click()"


def column_values(browser: Browser, column: int) -> list[float]:
    """The first number in each cell of a column of the leaderboard, in the order that is shown."""
    script = f"[...document.querySelectorAll('#leaderboard tbody tr')].map((row) => row.cells[{column}].textContent)"
    return [float(re.search(r"-?[\d.]+", text.replace("−", "-").replace("best", "0"))[0]) for text in browser.run(script)]


def test_the_table_sorts_by_every_column(page: Path, browser: Browser) -> None:
    browser.open(page, 1280)
    headings = browser.run("[...document.querySelectorAll('#leaderboard thead button')].map((button) => button.textContent)")
    assert headings[0] == "variant" and any(heading.startswith("AP (95") for heading in headings)
    for column, heading in enumerate(headings):
        if not (heading.startswith(("AP", "AR", "difference", "mean OKS"))):
            continue
        for descending in (True, False):
            browser.run(PRESS.format(column))
            values = column_values(browser, column)
            assert values == sorted(values, reverse=descending) and len(set(values)) > 1, heading
    browser.run(PRESS.format(0))
    names = browser.run(FIRST_COLUMN)
    assert names == sorted(names) and len(names) == 3
    browser.run(PRESS.format(0))
    assert browser.run(FIRST_COLUMN) == names[::-1]
    assert browser.run("document.querySelectorAll('#leaderboard th[aria-sort]').length") == 1
    assert browser.complaints() == []


def test_empty_cells_sort_last_either_way(browser: Browser, tmp_path: Path) -> None:
    rows = [[Cell("b"), Cell("−2.5", -2.5)], [Cell("a_c"), Cell("")], [Cell("a"), Cell("1,000", 1000.0)]]
    report.write(tmp_path / "p.html", "t", [], [Section("leaderboard", "T", tables=[Table(["name", "number"], rows)])])
    browser.open(tmp_path / "p.html", 390)
    for expected in (["a", "b", "a_c"], ["b", "a", "a_c"]):
        browser.run(PRESS.format(1))
        assert browser.run(FIRST_COLUMN) == expected


def test_pairs_are_the_paired_bootstrap_of_each() -> None:
    given = {"a": found(0.05, seed=2), "b": found(0.05, seed=3), "c": found(0.2)}
    runs = {name: [match(PERSONS, *one, TRUTH.image_ids)] for name, one in given.items()}
    params = EvaluateParams(bootstrap_resamples=200)
    table = report.pairs(runs, params)
    assert table is not None and table.headings == ["row minus column", "1", "2", "3"]
    order = [("a", "b"), ("a", "c"), ("b", "c")]
    expected = {pair: paired_bootstrap(runs[pair[0]][0], runs[pair[1]][0], 200) for pair in order}
    sure = dict(zip(order, [p < 0.05 for p in holm([expected[pair].p_value for pair in order])], strict=True))
    assert sorted(sure.values()) == [False, True, True]
    for (first, second), difference in expected.items():
        row, column = "abc".index(first), "abc".index(second)
        cell, back = table.rows[row][1 + column], table.rows[column][1 + row]
        text = f"{100 * difference.value:+.1f} ({100 * difference.low:+.1f} to {100 * difference.high:+.1f})".replace("-", "−")
        assert cell.text == text and cell.strong == sure[first, second] == back.strong
        assert cell.value == pytest.approx(100 * difference.value) == pytest.approx(-back.value)
    assert report.pairs({"a": runs["a"]}, params) is None


@pytest.mark.parametrize(
    "text, value", [("34.8 (31.7–38.2)", 34.8), ("−3.9 (−5.3 to −2.6)", -3.9), ("1,354", 1354), ("+0.7", 0.7), ("cpu", None)]
)
def test_cells_sort_by_their_first_number(text: str, value: float | None) -> None:
    assert report.number_in(text) == value


def test_without_evaluations_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(paths, "EVALUATIONS", tmp_path / "none")
    nobody = dataclasses.replace(settings.load(), peers={})
    monkeypatch.setattr(settings, "load", lambda *_: nobody)
    assert main(["report", "--output", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err
    assert "nothing is evaluated yet" in told and told.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(FarposeError, match=r"none\.png: a picture of the report is missing"):
        report.png(tmp_path / "none.png", "")


def test_the_graph_has_the_stage_after_compare() -> None:
    from pipelines import graph

    stages = {stage.name: stage for stage in graph.load(REPOSITORY)}
    assert "compare" in stages["report"].after and [output.path.name for output in stages["report"].outputs] == ["report"]
    assert not any("report" in stage.after for stage in stages.values()), "nothing waits for the report"
