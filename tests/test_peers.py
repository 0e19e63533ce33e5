"""Other networks' predictions: scored like ours, compared with ours, refused where they are not of the same persons."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.base.config import load_yaml
from components.base.errors import FarposeError
from components.base.files import write_json
from components.evaluate.by_condition import by_condition
from components.evaluate.compare import compare
from components.evaluate.oks import match
from components.evaluate.params import EvaluateParams
from components.evaluate.peers import score_results
from components.evaluate.scoring import Truth
from components.evaluate.significance import paired_bootstrap, read_matches
from components.pose.images import write_images
from pipelines import comparing, listing, paths, settings
from pipelines.cli import main
from tests import evaluation_cases as cases
from tests.repositories import REPOSITORY

PARAMS = EvaluateParams(bootstrap_resamples=50)
COCO = cases.random_coco(1, images=40)
PERSONS = cases.persons_of(COCO)
TRUTH = Truth(PERSONS, cases.image_ids_of(COCO))


def records(noise: float = 0.05, seed: int = 2) -> list[dict[str, Any]]:
    """One record per labelled person, `person` is its annotation's id."""
    labelled = PERSONS.labelled()
    rng = np.random.default_rng(seed)
    extent = np.sqrt(labelled.frame["area"].to_numpy())[:, None, None] * noise
    joints = labelled.keypoints[..., :2] + rng.normal(0, 1, labelled.keypoints[..., :2].shape) * extent
    made = cases.predictions_of(labelled.frame["image_id"].to_numpy(), joints, rng.uniform(0.1, 1, len(labelled)))
    named = zip(cases.records_of(made, made.box_scores), labelled.frame["annotation_id"].tolist(), strict=True)
    return [record | {"person": person} for record, person in named]


def written(path: Path, content: list[dict[str, Any]]) -> Path:
    text = json.dumps(content).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def score(path: Path, out: Path, **more: Any) -> dict[str, Any]:
    return score_results(path, TRUTH, PARAMS, out, "peer", **more)


@pytest.mark.parametrize("name", ["p.json", "p.json.gz"])
def test_the_numbers_are_those_of_pycocotools(tmp_path: Path, name: str) -> None:
    content = records()
    metrics = score(written(tmp_path / name, content), tmp_path / "out")
    expected = cases.oracle(COCO, content)
    assert {key: metrics[f"{key}_gt_boxes"] for key in expected} == pytest.approx(expected)
    assert metrics["AP_gt_boxes_low"] <= metrics["AP_gt_boxes"] <= metrics["AP_gt_boxes_high"]
    assert 0 < metrics["mean_OKS_gt_boxes"] < 1 and metrics["persons"] == len(content) and metrics["images"] == 40
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics
    bins = json.loads((tmp_path / "out" / "by_height.json").read_text())
    assert sum(point["persons"] for point in bins) == len(content), "the annotated heights decide, not the joints' extent"
    again = read_matches(tmp_path / "out" / "matches.npz")
    assert paired_bootstrap(again, match(PERSONS, *cases.truth_as_predictions(PERSONS), TRUTH.image_ids)).value < 0


def test_predictions_that_name_no_person_are_of_whole_images(tmp_path: Path) -> None:
    content = [{key: value for key, value in record.items() if key != "person"} for record in records()]
    metrics = score(written(tmp_path / "p.json", content), tmp_path / "out")
    assert "AP_gt_boxes" not in metrics and metrics["AP_no_boxes"] == pytest.approx(cases.oracle(COCO, content)["AP"])
    assert 0.5 < metrics["mean_OKS_no_boxes"] < 1, "predictions are given to persons one to one"


def changed(row: int, **values: Any) -> list[dict[str, Any]]:
    content = records()
    content[row] = {key: value for key, value in (content[row] | values).items() if value is not None}
    return content


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([], "the file holds no predictions"),
        (changed(3, image_id=999), "record 3: image 999 is not in the data set"),
        (changed(3, keypoints=[1.0] * 42), "record 3: keypoints needs 51 numbers"),
        (changed(3, score=float("nan")), "record 3: score holds nan"),
        (changed(3, person=None), "record 3: the person's id is missing, other records have one"),
        (changed(3, person="7"), "record 3: the person's id is no integer: '7'"),
        (changed(3, person=99999), "record 3: person 99999 is not a labelled person of the split"),
        (changed(3, person=records()[0]["person"], image_id=records()[0]["image_id"]), r"record 3: person \d+ appears twice"),
        (changed(3, image_id=records()[40]["image_id"]), r"record 3: person \d+ is on another image"),
        (records()[:-2], r"2 of \d+ labelled persons have no record, such as \d+ \(write a record of score 0"),
    ],
)
def test_what_is_not_of_the_same_persons_is_named(tmp_path: Path, content: list[dict[str, Any]], problem: str) -> None:
    path = written(tmp_path / "p.json", content)
    with pytest.raises(FarposeError, match=problem) as caught:
        score(path, tmp_path / "out")
    assert str(path) in str(caught.value) and not (tmp_path / "out" / "metrics.json").exists()


def test_a_cut_file_is_one_line(tmp_path: Path) -> None:
    path = written(tmp_path / "p.json.gz", records())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(FarposeError, match=r"p\.json\.gz: not a whole gzip file"):
        score(path, tmp_path / "out")


def rows_of(tmp_path: Path) -> tuple[list[dict[str, Any]], dict[str, Path]]:
    """A variant and a worse peer, both under two limits of height too."""
    folders = {}
    for name, noise in {"ours": 0.03, "theirs": 0.15}.items():
        files = {f"h{height}": written(tmp_path / f"{name}_{height}.json", records(noise * more)) for height, more in ((32, 3), (64, 2))}
        folders[name] = tmp_path / name
        note = "predictions of Theirs, licence: MIT" if name == "theirs" else ""
        score(written(tmp_path / f"{name}.json", records(noise)), folders[name], note=note, conditions=files)
    rows = [json.loads((folder / "metrics.json").read_text()) | {"variant": name} for name, folder in folders.items()]
    for row, folder in zip(rows, folders.values(), strict=True):
        row["by_height"] = json.loads((folder / "by_height.json").read_text())
    del rows[0]["peer_note"]
    return rows, folders


def test_peers_stand_in_the_table_marked_and_with_paired_differences(tmp_path: Path) -> None:
    rows, folders = rows_of(tmp_path)
    matches = {name: read_matches(folder / "matches.npz") for name, folder in folders.items()}
    table = compare(rows, tmp_path / "out", matches=matches).set_index("variant")
    assert table.loc["theirs", "difference"] == pytest.approx(paired_bootstrap(matches["theirs"], matches["ours"]).value)
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "| theirs † |" in text and "| ours |" in text
    assert "† Another network's predictions, scored as they are on the same persons. theirs: predictions of Theirs, licence: MIT." in text
    assert "theirs †" in (tmp_path / "out" / "comparison.html").read_text() and (tmp_path / "out" / "by_height.png").is_file()


def test_every_condition_has_its_own_ranking(tmp_path: Path) -> None:
    rows, folders = rows_of(tmp_path)
    names = ("h32", "h64", "antialias")
    found = by_condition(rows, tmp_path / "out", comparing.condition_matches(names, [], folders))
    assert list(found) == ["h32", "h64"], "nobody was scored under the third"
    first, second = found["h32"]
    assert (first["variant"], second["variant"]) == ("ours", "theirs") and second["peer_note"]
    assert first["AP_gt_boxes"] == rows[0]["AP_gt_boxes_h32"] < rows[0]["AP_gt_boxes"]
    own = [read_matches(folder / "matches_gt_boxes_h32.npz") for folder in folders.values()]
    assert second["difference"] == pytest.approx(paired_bootstrap(own[1], own[0]).value)
    text = (tmp_path / "out" / "conditions.md").read_text()
    assert text.startswith("## Persons at most 32 px high\n\n| variant |") and "## Persons at most 64 px high" in text
    assert (tmp_path / "out" / "by_limited_height.png").stat().st_size > 5000


def test_without_conditions_nothing_is_written(tmp_path: Path) -> None:
    assert by_condition([{"variant": "a", "AP_gt_boxes": 0.5}], tmp_path / "out", {"h32": {}}) == {}
    assert not (tmp_path / "out").exists()


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The persons and images as the fetch stage leaves them, and a scratch folder."""
    folder = tmp_path / "persons"
    folder.mkdir()
    frame = PERSONS.frame.assign(area_range_px2=PERSONS.frame["area"])
    dataclasses.replace(PERSONS, frame=frame).write(folder / "persons.parquet")
    ids = [image["id"] for image in COCO["images"]]
    write_images(folder / "images.parquet", images_of(ids))
    for name in ("SCRATCH", "COMPARISON", "DATA"):
        monkeypatch.setattr(paths, name, tmp_path / name.lower())
    monkeypatch.setattr(paths, "PERSONS", folder)
    monkeypatch.setattr(settings, "evaluation", lambda: PARAMS)
    return folder


def images_of(ids: list[int]) -> Any:
    import pandas as pd

    columns = {"image_id": ids, "image_path": [f"{i}.jpg" for i in ids], "image_width": 640, "image_height": 480}
    return pd.DataFrame(columns | {"split": "val", "licence": ""})


def test_the_command_scores_a_file_and_compare_takes_its_name(tables: Path, tmp_path: Path, capsys: Any) -> None:
    better, worse = (str(written(tmp_path / f"{name}.json.gz", records(noise))) for name, noise in (("better", 0.03), ("worse", 0.2)))
    assert main(["evaluate", "--results", better]) == 0 and main(["evaluate", "--results", worse, "--name", "other"]) == 0
    said = capsys.readouterr().out
    assert "better: AP " in said and "boxes given: annotated boxes" in said and "farpose compare other VARIANT" in said
    assert main(["compare", "other", "better"]) == 0
    assert "better is better than other by" in capsys.readouterr().out
    for arguments, problem in {
        ("hrnet_w32_coco_64x48", "--results", better): "--results takes no variant",
        ("--results", better, "--name", "hrnet_w32_coco_64x48"): "cannot name predictions",
        ("--results", better, "--name", "../x"): "cannot name predictions",
        ("--results", better, "--split", "dev"): "unknown split 'dev'",
        ("hrnet_w32_coco_64x48", "--split", "dev"): "--split goes with --results",
        (): "nothing to evaluate",
    }.items():
        assert main(["evaluate", *arguments]) == 1
        assert problem in capsys.readouterr().err


def pipeline_with_peers() -> settings.Pipeline:
    peer = settings.PeerPlan("peers/a.json.gz", "Theirs", "MIT", {"h32": "peers/b.json.gz", "antialias": "peers/a.json.gz"})
    return dataclasses.replace(settings.load(), peers={"theirs": peer})


def test_the_pipelines_peers_are_scored_for_the_comparison(tables: Path, tmp_path: Path, capsys: Any) -> None:
    (paths.DATA / "peers").mkdir(parents=True)
    for name, noise in (("a", 0.05), ("b", 0.2)):
        written(paths.DATA / "peers" / f"{name}.json.gz", records(noise))
    rows, folders = comparing.peer_rows(pipeline_with_peers(), paths.COMPARISON / comparing.PEERS)
    (row,) = rows
    assert row["variant"] == "theirs" and row["peer_note"] == "predictions of Theirs, licence: MIT" and len(row["by_height"]) == 7
    assert row["AP_gt_boxes_h32"] < row["AP_gt_boxes"] == row["AP_gt_boxes_antialias"]
    assert set(comparing.matches([], folders)) == {"theirs"}
    assert comparing.evaluated("theirs")[0][0]["variant"] == "theirs", "`farpose compare theirs …` finds it"


def test_compare_and_report_depend_on_the_peers_files(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text((REPOSITORY / "dvc.yaml").read_text())
    (tmp_path / "artifacts").mkdir()
    pipeline = pipeline_with_peers()
    with pytest.raises(FarposeError, match=r"lacks artifacts/persons and 2 more"):
        listing.check(pipeline, tmp_path)
    assert listing.keep_in_step(pipeline, tmp_path)
    stages = load_yaml(tmp_path / "dvc.yaml")["stages"]
    for stage in ("compare", "report"):
        assert [stages[stage]["deps"].count(f"data/peers/{name}.json.gz") for name in ("a", "b")] == [1, 1]
    listing.check(pipeline, tmp_path)


@pytest.mark.parametrize(
    ("peers", "problem"),
    [
        ({"p": {"file": "../a.json", "label": "A", "licence": "MIT"}}, r"peers\.p: \.\./a\.json is not in data/"),
        ({"p": {"file": "/a.json", "label": "A", "licence": "MIT"}}, r"peers\.p: /a\.json is not in data/"),
        ({"dark_fused_fpn_synthetic_64x48_x2": {"file": "a.json", "label": "A", "licence": "MIT"}}, "a variant has this name"),
        ({"p": {"file": "a.json", "label": "A"}}, "licence"),
    ],
)
def test_wrong_peers_are_named(tmp_path: Path, peers: dict[str, Any], problem: str) -> None:
    import yaml

    content = yaml.safe_load((REPOSITORY / "params" / "pipeline.yaml").read_text())
    write_json(tmp_path / "pipeline.yaml", content | {"peers": peers})
    with pytest.raises(FarposeError, match=problem):
        settings.load(tmp_path / "pipeline.yaml")
