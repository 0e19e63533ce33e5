"""Predictions for an evaluation server: its form exactly, the same joints as `predict` finds, and what is wrong named before any work."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.approaches import approach
from components.base.errors import FarposeError
from components.datasets.params import SourceParams
from components.evaluate.approach import Files
from components.registry import released
from pipelines import cli, paths, settings
from pipelines.commands import submit as submitting
from tests.coco_files import random_coco, read_file, write_json
from tests.released_people import draw_people
from tests.test_everyday_images import turn_files

NAME = "pose_64x48"


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, np.ndarray]]:
    """A folder of images with the files that COCO gives for test images; persons' boxes by image id."""
    folder = tmp_path_factory.mktemp("test-dev")
    (folder / "images").mkdir()
    paths, boxes = draw_people(folder / "images")
    images = [{"id": 100 + number, "file_name": path.name, "width": 1, "height": 1} for number, path in paths.items()]
    (folder / "list.json").write_text(json.dumps({"images": images, "categories": []}))
    found = [
        {"image_id": 100 + number, "category_id": 1, "bbox": box.tolist(), "score": 0.5 + number / 20}
        for number, (box,) in boxes.items()
        if number  # one image has no detection
    ]
    found += [{"image_id": 999, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.9}, found[1] | {"category_id": 3}]
    found.append(found[0] | {"score": 0.4})  # the same person once more, which is suppressed
    (folder / "boxes.json").write_text(json.dumps(found))
    return folder, boxes


def run(folder: Path, output: Path, *more: str) -> int:
    return cli.main(["submit", str(folder / "list.json"), "--folder", str(folder / "images"), "--output", str(output), *more])


def test_the_servers_form_and_the_models_joints(people: tuple[Path, dict[int, np.ndarray]], tmp_path: Path, capsys: Any) -> None:
    folder, boxes = people
    output = tmp_path / "person_keypoints_test-dev2017_farpose_results.zip"
    for name in (output, tmp_path / "plain.json"):
        assert run(folder, name, "--boxes", str(folder / "boxes.json"), "--model", NAME) == 0
    assert "1 of 8 boxes are on other images and were left out" in capsys.readouterr().out
    with zipfile.ZipFile(output) as archive:
        assert archive.namelist() == ["person_keypoints_test-dev2017_farpose_results.json"]
        records = json.loads(archive.read(archive.namelist()[0]))
    assert records == json.loads((tmp_path / "plain.json").read_text())
    assert [record["image_id"] for record in records] == [101, 102, 103, 104, 105]
    for record in records:
        assert record.keys() == {"image_id", "category_id", "keypoints", "score"} and record["category_id"] == 1
        assert len(record["keypoints"]) == 51 and record["keypoints"][2::3] == [1.0] * 17 and 0 < record["score"] < 1
    model = released.load(NAME)
    paths = {number: folder / "images" / f"{number}.png" for number in boxes if number}
    given = {number: boxes[number] for number in paths}
    files = Files(paths, given, model.package.spec, model.package.degrade)
    found, _ = approach("crops").find(model.built, files, model.package.evaluate, "cpu")
    ours = np.array([record["keypoints"] for record in records]).reshape(-1, 17, 3)[..., :2]
    assert ours == pytest.approx(found.keypoints_image[np.argsort(found.image_id)], abs=0.006)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: ([], "list.json", None), "needs persons' boxes .*--boxes FILE"),
        (lambda folder: (["--boxes", str(folder / "elsewhere.json")], "list.json", None), "no box is on one of these images"),
        (lambda folder: (["--boxes", str(folder / "boxes.json")], "twice.json", None), "an image id appears twice"),
        (lambda folder: (["--boxes", str(folder / "boxes.json")], "boxes.json", None), "expected COCO's mapping with `images`"),
        (lambda folder: (["--boxes", str(folder / "boxes.json")], "missing.json", None), "1 of 1 images are not there, such as none.jpg"),
        (lambda folder: ([], "list.json", "results.txt"), "must end in .json or .zip"),
    ],
    ids=["no boxes", "other images", "twice", "no list", "missing", "ending"],
)
def test_what_is_wrong_is_named_and_nothing_written(
    people: tuple[Path, dict[int, np.ndarray]], tmp_path: Path, capsys: Any, change: Any, message: str
) -> None:
    import re

    folder = people[0]
    (folder / "elsewhere.json").write_text(json.dumps([{"image_id": 5, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 1.0}]))
    (folder / "twice.json").write_text(json.dumps({"images": [{"id": 1, "file_name": "0.png"}] * 2}))
    (folder / "missing.json").write_text(json.dumps({"images": [{"id": 1, "file_name": "none.jpg"}]}))
    more, listed, name = change(folder)
    output = tmp_path / (name or "results.zip")
    arguments = ["submit", str(folder / listed), "--folder", str(folder / "images"), "--output", str(output), *more]
    assert cli.main(arguments) == 1
    assert re.search(message, capsys.readouterr().err) and not output.exists() and list(tmp_path.iterdir()) == []


FARM = [{"id": 1, "name": "Horses"}, {"id": 7, "name": "Farmers", "keypoints": ["head"]}]
TWICE = [{"id": 3, "name": "person"}, {"id": 4, "name": "person", "keypoints": ["head"]}, {"id": 0, "name": "people"}]
CATEGORIES: dict[str, tuple[list[dict[str, Any]], dict[str, Any], int]] = {  # of the list, changes of the entry, the persons' id
    "none": ([], {}, 1),
    "COCO's": ([{"id": 1, "name": "person", "supercategory": "person"}, {"id": 2, "name": "bicycle"}], {}, 1),
    "own name": (FARM, {"person_category": "Farmers"}, 7),
    "an id": (FARM, {"person_category": 5}, 5),
    "several ids": ([], {"person_category": (9, 8)}, 9),
    "twice, once with joints": (TWICE, {}, 4),
    "named alike": ([{"id": 6, "name": "Pedestrian"}, {"id": 1, "name": "car"}], {}, 6),
}


@pytest.fixture
def farm(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the entry of a data set `farm`, in use or not."""

    known = settings.data()

    def set_entry(in_use: bool = False, **changes: Any) -> SourceParams:
        entry = replace(known.sources["coco"], manifest=None, **changes)
        entries = {**known.sources, "farm": entry}
        monkeypatch.setattr(settings, "data", lambda: replace(known, source="farm" if in_use else known.source, sources=entries))
        return entry

    return set_entry


@pytest.mark.parametrize("case", CATEGORIES)
def test_the_persons_category_is_the_data_sets(tmp_path: Path, farm: Any, case: str) -> None:
    categories, changes, expected = CATEGORIES[case]
    (tmp_path / "list.json").write_text(json.dumps({"images": [], "categories": categories}))
    assert submitting.persons_category(tmp_path / "list.json", "farm", farm(**changes)) == expected


@pytest.mark.parametrize("categories", [FARM, [{"id": 3, "name": "person"}, {"id": 4, "name": "person"}]], ids=["none", "two"])
def test_an_unclear_category_names_the_way_out(tmp_path: Path, farm: Any, categories: Any) -> None:
    (tmp_path / "list.json").write_text(json.dumps({"images": [], "categories": categories}))
    with pytest.raises(
        FarposeError, match=r"list\.json: [02] categories are named 'person', expected one.*`person_category` of data\.sources\.farm"
    ):
        submitting.persons_category(tmp_path / "list.json", "farm", farm())


def test_a_list_without_categories_takes_the_persons_tables(tmp_path: Path, farm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "a.json", random_coco(0))
    persons = read_file(tmp_path, "a.json", "images").persons
    replace(persons, category_id=23).write(tmp_path / "persons" / "persons.parquet")
    monkeypatch.setattr(paths, "PERSONS", tmp_path / "persons")
    (tmp_path / "list.json").write_text(json.dumps({"images": []}))
    for in_use, expected in ((True, 23), (False, 1)):
        assert submitting.persons_category(tmp_path / "list.json", "farm", farm(in_use)) == expected


def test_another_data_sets_category_and_orientation(
    people: tuple[Path, dict[int, np.ndarray]], tmp_path: Path, capsys: Any, farm: Any
) -> None:
    """Photographs stored on their side, whose boxes and joints are the upright image's."""
    folder = people[0]
    farm(orientation="upright", person_category="Farmers")
    shutil.copytree(folder / "images", tmp_path / "images")
    turn_files(tmp_path, 6)
    listed = json.loads((folder / "list.json").read_text()) | {"categories": FARM}
    (tmp_path / "list.json").write_text(json.dumps(listed))
    detected = json.loads((folder / "boxes.json").read_text())
    own = [record | {"category_id": {1: 7, 3: 1}[record["category_id"]]} for record in detected]
    (tmp_path / "boxes.json").write_text(json.dumps(own))
    found = {}
    for name, where, more in (("as drawn", folder, []), ("turned", tmp_path, ["--data-set", "farm"])):
        output = tmp_path / f"{name}.json"
        assert run(where, output, "--boxes", str(where / "boxes.json"), *more) == 0
        found[name] = json.loads(output.read_text())
    said = capsys.readouterr().out
    assert "5 persons (category 1) in 6 images (stored pixels)" in said and "5 persons (category 7) in 6 images (upright pixels)" in said
    assert {record["category_id"] for record in found["turned"]} == {7}
    joints = [np.array([record["keypoints"] for record in found[name]]) for name in found]
    np.testing.assert_allclose(joints[0], joints[1], atol=0.01)


def test_an_unknown_data_set_is_named(people: tuple[Path, dict[int, np.ndarray]], tmp_path: Path, capsys: Any) -> None:
    assert run(people[0], tmp_path / "a.json", "--boxes", str(people[0] / "boxes.json"), "--data-set", "farn") == 1
    assert "unknown data set 'farn'" in capsys.readouterr().err and not (tmp_path / "a.json").exists()
