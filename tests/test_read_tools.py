"""Exports of CVAT, Label Studio and Roboflow, from the downloaded archive to the verdict; the values are worked out by hand."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.base.errors import FarposeError
from components.datasets.acquire import acquire
from components.datasets.fetch import fetch
from components.datasets.params import DataParams, SplitFiles, SplitShares
from components.datasets.reader import read_split
from components.datasets.validate import validate
from components.pose.images import read_images
from components.pose.persons import Persons
from components.registry.tracking import numbers
from tests import tool_exports as tools


@dataclass(frozen=True)
class Export:
    """How a tool's export is laid out, and what its entry says.

    Attributes:
        write: writes a split's files below the root.
        boxes_derived: persons of each split whose box nobody drew.
        areas: of both persons.
        changes: keys of the entry.
    """

    form: str
    splits: dict[str, SplitFiles]
    write: Callable[[Path, str, int], None]
    category_id: int = 1
    boxes_derived: int = 0
    areas: tuple[float, float] = (0.53 * 1200, 0.53 * 1014)
    changes: dict[str, Any] = field(default_factory=dict)


def cvat(root: Path, split: str, seed: int) -> None:
    (root / split).mkdir(parents=True)
    (root / split / "annotations.xml").write_text(tools.cvat_xml())
    tools.write_images(root / split / "images", seed=seed)


def cvat_coco(root: Path, split: str, seed: int) -> None:
    tools.write_json(root / "annotations" / f"person_keypoints_{split}.json", tools.cvat_coco())
    tools.write_images(root / "images" / split, seed=seed)


def roboflow(root: Path, split: str, seed: int) -> None:
    folder = root / {"train": "train", "val": "valid"}[split]
    tools.write_json(folder / "_annotations.coco.json", tools.roboflow())
    tools.write_images(folder, seed=seed)
    (root / "README.roboflow.txt").write_text("exported")


def label_studio(root: Path, split: str, seed: int) -> None:
    tools.write_json(root / f"{split}.json", tools.label_studio(41 + 10 * seed))
    tools.write_images(root / split, seed=seed)


EXPORTS = {
    "CVAT for images 1.1": Export(
        "cvat",
        {split: SplitFiles(f"{split}/annotations.xml", f"{split}/images") for split in ("train", "val")},
        cvat,
        category_id=2,  # after "body", the class of boxes
        boxes_derived=1,
        changes={"orientation": "upright"},
    ),
    "CVAT, COCO Keypoints 1.0": Export(
        "coco",
        {split: SplitFiles(f"annotations/person_keypoints_{split}.json", f"images/{split}") for split in ("train", "val")},
        cvat_coco,
        areas=(1200.0, 1014.0),
    ),
    "Roboflow": Export(
        "coco",
        {split: SplitFiles(f"{folder}/_annotations.coco.json", folder) for split, folder in (("train", "train"), ("val", "valid"))},
        roboflow,
        areas=(1200.0, 1014.0),
    ),
    "Label Studio": Export(
        "label_studio",
        {split: SplitFiles(f"{split}.json", split) for split in ("train", "val")},
        label_studio,
        changes={"orientation": "upright"},
    ),
}


@pytest.mark.parametrize("tool", EXPORTS)
def test_an_archive_becomes_the_persons_that_were_drawn(tmp_path: Path, tool: str) -> None:
    export = EXPORTS[tool]
    for seed, split in enumerate(export.splits):
        export.write(tmp_path / "made", split, seed)
    archive = shutil.make_archive(str(tmp_path / "export"), "zip", tmp_path / "made")
    entry = tools.entry(export.form, export.splits, **export.changes)
    got = acquire("own", archive, tmp_path / "data", {"own": entry}, manifests=tmp_path / "manifests", progress=False)
    assert not got.left_out
    params = DataParams("own", {"own": entry})
    summary = fetch(params, got.folder, tmp_path / "persons", got.manifest)
    assert not validate(tmp_path / "persons", got.folder, params, tmp_path / "validation").failed
    persons = Persons.read(tmp_path / "persons" / "persons.parquet")
    assert persons.category_id == export.category_id and persons.upright == ("orientation" in export.changes)
    images = read_images(tmp_path / "persons" / "images.parquet")
    for split, files in export.splits.items():
        found = persons.split(split)
        np.testing.assert_allclose(found.keypoints, tools.KEYPOINTS, atol=1e-9)
        np.testing.assert_allclose(found.bbox_xywh, tools.BOXES, atol=1e-9)
        np.testing.assert_allclose(found.frame["area"], export.areas)
        assert found.frame["num_keypoints"].tolist() == [3, 4] and not found.frame["iscrowd"].any()
        assert found.frame["image_path"].tolist() == [f"{files.images}/a.png"] * 2
        listed = images[images["split"] == split]
        assert listed["image_path"].tolist() == [f"{files.images}/a.png", f"{files.images}/b.png"]
        assert listed[["image_width", "image_height"]].to_numpy().tolist() == [[100, 80], [60, 50]]
        assert summary.splits[split].derived.get("bbox", 0) == export.boxes_derived
    assert images["image_id"].is_unique and persons.frame["annotation_id"].is_unique


def test_the_scored_splits_ids_are_the_files_own(tmp_path: Path) -> None:
    """Roboflow counts from 0 in every folder: training ids move, and say by how much."""
    export = EXPORTS["Roboflow"]
    for seed, split in enumerate(export.splits):
        export.write(tmp_path, split, seed)
    summary = fetch(tools.params("coco", export.splits), tmp_path, tmp_path / "persons", None)
    images, persons = read_images(tmp_path / "persons" / "images.parquet"), Persons.read(tmp_path / "persons" / "persons.parquet")
    assert images.groupby("split")["image_id"].apply(list).to_dict() == {"train": [10, 11], "val": [0, 1]}
    assert persons.frame.groupby("split")["annotation_id"].apply(list).to_dict() == {"train": [10, 11], "val": [0, 1]}
    assert persons.frame.groupby("split")["image_id"].apply(list).to_dict() == {"train": [10, 10], "val": [0, 0]}
    assert "ids of images raised, to be unique" in summary.table() and summary.splits["train"].ids_raised == (10, 10)
    assert summary.splits["val"].ids_raised == (0, 0)


def test_label_studios_coco_export_of_single_persons(tmp_path: Path) -> None:
    """The category with joints is the persons', though another one is named so; the box is that of the joints."""
    tools.write_json(tmp_path / "result.json", tools.label_studio_coco())
    tools.write_images(tmp_path / "images", prefix="0a1b2c3d-")
    splits = {"val": SplitFiles("result.json", ".")}
    summary = fetch(tools.params("coco", splits), tmp_path, tmp_path / "persons", None)
    persons = Persons.read(tmp_path / "persons" / "persons.parquet")
    assert persons.keypoints[0].tolist() == [[25, 25, 2], [12, 40, 2], [0, 0, 0], [26, 45, 2]] and len(persons) == 1
    assert persons.bbox_xywh.tolist() == [[12, 25, 14, 20]] and persons.frame["area"][0] == pytest.approx(0.53 * 280)
    assert persons.category_id == 1 and summary.splits["val"].other_categories == 1


@pytest.mark.parametrize("form", ["cvat", "label_studio"])
def test_what_is_left_out_is_said_and_can_be_recorded(tmp_path: Path, form: str) -> None:
    """Rows of the terminal's table, and names that MLflow takes for metrics."""
    if form == "cvat":
        (tmp_path / "all.txt").write_text(tools.cvat_xml(tools.CVAT_A + '<polygon label="car"></polygon><a_b.c label="car"></a_b.c>'))
        row = "left out: shapes of the kind polygon"
    else:
        more = [{"id": "p", "type": "polygonlabels"}, {"id": "q", "type": "a, b: c"}]
        tools.write_json(tmp_path / "all.txt", tools.label_studio(results=tools.label_studio_results() + more))
        row = "left out: results of the kind polygonlabels"
    tools.write_images(tmp_path / "images")
    summary = fetch(tools.params(form, {"val": SplitFiles("all.txt", "images")}), tmp_path, tmp_path / "persons", None)
    (line,) = [line for line in summary.table().splitlines() if line.startswith(row)]
    assert line.split()[-1] == "1" and len(summary.splits["val"].left_out) == 2
    for name in numbers(summary.metrics()):
        assert re.fullmatch(r"[/\w.\- ]+", name), name


def test_ids_of_one_image_in_two_splits_stay(tmp_path: Path) -> None:
    """The same image in both splits is a mistake that validation must find; only ids of different images move."""
    tools.write_json(tmp_path / "a.json", tools.roboflow())
    tools.write_images(tmp_path / "images")
    splits = {split: SplitFiles("a.json", "images") for split in ("train", "val")}
    summary = fetch(tools.params("coco", splits), tmp_path, tmp_path / "persons", None)
    assert {split.ids_raised for split in summary.splits.values()} == {(0, 0)}
    with pytest.raises(FarposeError, match="No image is in two splits, by its id: not so in 4 of 4 images") as caught:
        validate(tmp_path / "persons", tmp_path, tools.params("coco", splits), tmp_path / "validation")
    way_out = "train and val are the same files: remove `val` from data.sources.own.splits and set `data.splits.val` to a share"
    assert way_out in str(caught.value)


def test_development_images_move_with_their_files_others(tmp_path: Path) -> None:
    """Their choice depends on the files' ids, so that it stays when another split is added."""
    export = EXPORTS["Roboflow"]
    chosen = {}
    for seed, splits in enumerate([("train",), ("train", "val")]):
        root = tmp_path / str(seed)
        for number, split in enumerate(splits):
            export.write(root, split, number)
        files = {split: export.splits[split] for split in splits}
        value = tools.roboflow()
        value["annotations"][1]["image_id"] = 1  # one person an image
        tools.write_json(root / "train" / "_annotations.coco.json", value)
        params = replace(tools.params("coco", files), splits=SplitShares(dev=0.5))  # SHA-256 of own/0 and own/1: 0.31 and 0.78
        fetch(params, root, root / "persons", None)
        images = read_images(root / "persons" / "images.parquet")
        chosen[seed] = images.groupby("split")["image_path"].apply(list).to_dict()
        assert images["image_id"].is_unique
    assert chosen[1].pop("val") and chosen[0] == chosen[1] == {"dev": ["train/a.png"], "train": ["train/b.png"]}


def test_boxes_without_any_joint_are_unlabelled_persons(tmp_path: Path) -> None:
    """The reader takes them; a split that has nothing else is refused for what it lacks."""
    boxes = [item for item in tools.label_studio_results() if item["type"] == "rectanglelabels"]
    tools.write_json(tmp_path / "all.json", tools.label_studio(results=boxes))
    tools.write_images(tmp_path / "images")
    splits = {"val": SplitFiles("all.json", "images")}
    found = read_split("own", tools.entry("label_studio", splits), tmp_path, "val").persons
    assert found.frame["num_keypoints"].tolist() == [0, 0] and not found.keypoints.any()
    np.testing.assert_allclose(found.bbox_xywh, tools.BOXES)
    with pytest.raises(FarposeError, match="no labelled person is left in split 'val' of 2 read"):
        fetch(tools.params("label_studio", splits), tmp_path, tmp_path / "persons", None)
