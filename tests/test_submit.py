"""Predictions for an evaluation server: its form exactly, the same joints as `predict` finds, and what is wrong named before any work."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.approaches import approach
from components.evaluate.approach import Files
from components.registry import released
from pipelines import cli
from tests.released_people import draw_people

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
        assert run(folder, name, "--boxes", str(folder / "boxes.json")) == 0
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
