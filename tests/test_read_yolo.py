"""YOLO-pose labels: written here from COCO values by the form's published rule, read back as the same persons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from components.base.errors import FarposeError
from components.datasets.fetch import fetch
from components.datasets.params import DataParams, SourceParams, SplitFiles
from components.datasets.readers.yolo_pose import labels_of
from components.datasets.validate import validate
from components.pose.persons import Persons
from components.pose.skeleton import COCO_17
from tests.coco_files import random_coco

SPLITS = {split: SplitFiles("data.yaml", f"images/{split}") for split in ("train", "val")}
ABOUT = {"kpt_shape": [17, 3], "flip_idx": list(COCO_17.flip_permutation), "names": {0: "person"}}


def write(root: Path, width: int = 3, **about: Any) -> dict[str, dict[str, Any]]:
    """Both splits as labels; returns the COCO values."""
    values = {"train": random_coco(0, num_images=8), "val": random_coco(1, 1000)}
    rng = np.random.default_rng(0)
    for split, value in values.items():
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for entry in value["images"]:
            sides = np.array([entry["width"], entry["height"]])
            pixels = rng.integers(0, 256, (entry["height"], entry["width"], 3), dtype=np.uint8)
            cv2.imwrite(str(root / "images" / split / entry["file_name"]), pixels)
            lines = []
            for person in value["annotations"]:
                if person["image_id"] == entry["id"]:
                    box = np.array(person["bbox"])
                    joints = np.array(person["keypoints"]).reshape(17, 3)
                    joints[:, :2] /= sides
                    numbers = [*((box[:2] + box[2:] / 2) / sides), *(box[2:] / sides), *joints[:, :width].ravel()]
                    lines.append(" ".join(["0", *(f"{number:.9g}" for number in numbers)]))
            if lines:
                (root / "labels" / split / entry["file_name"]).with_suffix(".txt").write_text("\n".join(lines) + "\n")
    (root / "data.yaml").write_text(yaml.safe_dump({**ABOUT, "kpt_shape": [17, width], **about}))
    return values


def params(**changes: Any) -> DataParams:
    return DataParams("own", {"own": SourceParams("yolo_pose", "coco_17", "oks", SPLITS, **changes)})


@pytest.mark.parametrize("width", [2, 3])
def test_the_same_persons_come_back(tmp_path: Path, width: int) -> None:
    values = write(tmp_path / "data", width)
    summary = fetch(params(), tmp_path / "data", tmp_path / "persons", None)
    assert not validate(tmp_path / "persons", tmp_path / "data", params(), tmp_path / "out").failed
    persons = Persons.read(tmp_path / "persons" / "persons.parquet")
    assert persons.category_id == 0 and summary.splits["train"].derived["area"] == len(values["train"]["annotations"])
    for split, value in values.items():
        found = persons.split(split)
        names = {entry["id"]: f"images/{split}/{entry['file_name']}" for entry in value["images"]}
        expected = sorted(value["annotations"], key=lambda person: names[person["image_id"]])
        assert found.frame["image_path"].tolist() == [names[person["image_id"]] for person in expected]
        assert summary.splits[split].images == len(value["images"])
        keypoints = np.array([person["keypoints"] for person in expected]).reshape(-1, 17, 3)
        if width == 2:
            keypoints[..., 2] = 2 * (keypoints[..., 2] > 0)
        np.testing.assert_allclose(found.keypoints, keypoints, atol=1e-5)
        np.testing.assert_allclose(found.bbox_xywh, [person["bbox"] for person in expected], atol=1e-5)
        np.testing.assert_allclose(found.frame["area"], [0.53 * np.prod(person["bbox"][2:]) for person in expected], atol=1e-3)


def test_labels_lie_where_the_form_says() -> None:
    assert labels_of(Path("/a/images/b/images/train/x.JPG")) == Path("/a/images/b/labels/train/x.txt")
    assert labels_of(Path("/a/pictures/x.png")) == Path("/a/pictures/x.txt")


GOOD = "0 0.5 0.5 0.2 0.2 " + " ".join(["0.5 0.5 2"] * 17)
BAD: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "another number of joints": ({"kpt_shape": [14, 3]}, None, "'kpt_shape' says 14 joints, coco_17 has 17"),
    "no shape": ({"kpt_shape": None}, None, r"'kpt_shape' is None, expected \[joints, 2 or 3\]"),
    "other flips": ({"flip_idx": list(range(17))}, None, "'flip_idx' is .*these are other joints"),
    "no names": ({"names": None}, None, "'names' is None"),
    "no person": (
        {"names": ["dog", "cat"], "kpt_shape": [17, 3]},
        GOOD.replace("0 ", "5 ", 1),
        r"000001\.txt:1: class 5 is not in 'names'",
    ),
    "line too short": ({}, GOOD + "\n0 0.5 0.5 0.2", r"000001\.txt:2: 4 numbers, expected 5 and 3 for each of 17 joints"),
    "text": ({}, GOOD.replace("0.2", "wide", 1), r"000001\.txt:1: not a line of numbers"),
    "not finite": ({}, GOOD.replace("0.2", "nan", 1), r"000001\.txt:1: a number is not finite"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_files_are_named(tmp_path: Path, case: str) -> None:
    about, line, message = BAD[case]
    write(tmp_path, **about)
    if line is not None:
        (tmp_path / "labels" / "train" / "000001.txt").write_text(line)
    with pytest.raises(FarposeError, match=message):
        fetch(params(), tmp_path, tmp_path / "persons", None)


def test_sizes_are_those_of_the_upright_image(tmp_path: Path) -> None:
    """EXIF orientation 6 swaps the sides that a viewer shows."""
    write(tmp_path)
    from tests.test_everyday_images import turn_files

    turn_files(tmp_path / "images", 6)
    fetch(params(orientation="upright"), tmp_path, tmp_path / "persons", None)
    assert not validate(tmp_path / "persons", tmp_path, params(orientation="upright"), tmp_path / "out").failed


def test_labels_without_their_image_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "images" / "train" / "000001.png").unlink()
    with pytest.raises(FarposeError, match=r"labels/train: 1 label files have no image: 000001\.txt"):
        fetch(params(), tmp_path, tmp_path / "persons", None)
