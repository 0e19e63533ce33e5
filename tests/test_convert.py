"""`farpose convert`: any data set's persons in COCO's form, which read again are the same, and which pycocotools reads as well."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from components.base.errors import FarposeError
from components.datasets.convert import to_coco
from components.datasets.found_images import with_found
from components.datasets.params import SourceParams, SplitFiles
from components.datasets.reader import read_split
from pipelines import cli, paths, settings
from tests import benchmark_files, tool_exports
from tests.coco_files import COMMITTED, PERSON, random_coco, unlabel, write_images, write_json
from tests.test_read_tools import EXPORTS

COCOS_LIMBS = [  # of COCO's own files, where joints are counted from 1; no line between the eyes
    (16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9), (8, 10), (9, 11), (1, 2), (1, 3),
    (2, 4), (3, 5), (4, 6), (5, 7),
]  # fmt: skip
BOTH = {"train": SplitFiles("train.json", "train"), "val": SplitFiles("val.json", "val")}


def coco(root: Path) -> SourceParams:
    """A crowd with its region, a person without joints, persons of two ids, a resized image, and licences."""
    for number, split in enumerate(BOTH):
        value = random_coco(number, 1 + 1000 * number, num_images=8)
        value["categories"] = [{**PERSON, "id": 7}, {**PERSON, "id": 9}, {"id": 1, "name": "chair"}]
        for place, person in enumerate(value["annotations"]):
            person["category_id"] = 9 if place % 3 == 0 else 7
        first, second, third = value["annotations"][:3]
        unlabel(first, iscrowd=1)
        first["segmentation"] = [[1, 1, 20, 1, 20, 30.5]]
        unlabel(second)
        third["orig_area"] = 4 * third["area"]
        value["annotations"].append({"id": 99999 + number, "image_id": value["images"][0]["id"], "category_id": 1, "bbox": [0, 0, 3, 3]})
        value["images"][2]["license"] = 17  # of which nothing is listed
        write_json(root / f"{split}.json", value)
        write_images(root / split, value, number)
    return SourceParams("coco", "coco_17", "oks", BOTH, licence="as listed")


def crowdpose(root: Path) -> SourceParams:
    for number, split in enumerate(BOTH):
        value = random_coco(5 + number, 1 + 1000 * number)
        value["categories"] = [{"id": 1, "name": "person", "keypoints": [*COMMITTED["crowdpose"].skeleton_named("c").keypoint_names]}]
        value["categories"][0]["keypoints"][-2] = "head"
        for place, image in enumerate(value["images"]):
            image["crowdIndex"] = place / 7
        for person in value["annotations"]:
            person["keypoints"] = person["keypoints"][:42]
            person["num_keypoints"] = sum(flag > 0 for flag in person["keypoints"][2:36:3])  # the head and the neck do not count
        write_json(root / f"{split}.json", value)
    return replace(COMMITTED["crowdpose"], splits=BOTH)


def mpii(root: Path) -> SourceParams:
    benchmark_files.write_mpii(root, train=6, valid=4)
    splits = {"train": SplitFiles("annot/train.json", "images"), "val": SplitFiles("annot/valid.json", "images")}
    return replace(COMMITTED["mpii"], splits=splits)


def tool(name: str) -> Callable[[Path], SourceParams]:
    def write(root: Path) -> SourceParams:
        for seed, split in enumerate(EXPORTS[name].splits):
            EXPORTS[name].write(root, split, seed)
        return tool_exports.entry(EXPORTS[name].form, EXPORTS[name].splits, **EXPORTS[name].changes)

    return write


SOURCES = {"coco": coco, "crowdpose": crowdpose, "mpii": mpii, **{name: tool(name) for name in ("Label Studio", "CVAT for images 1.1")}}


def same(root: Path, name: str, source: SourceParams, out: Path, form: str, **changes: Any) -> None:
    """Persons, images and records that were read, and those of the written files, but for head sizes."""
    splits = {split: SplitFiles(os.path.relpath(out / f"{split}.json", root), files.images) for split, files in source.splits.items()}
    again = replace(source, format=form, splits=splits, mapping=None, **changes)
    for split in splits:
        reads = (read_split(name, entry, root, split) for entry in (source, again))
        before, after = (with_found(read, root, source.splits[split].images)[0] for read in reads)
        columns = [column for column in before.persons.frame if column != "head_size"]
        assert after.persons.frame[columns].equals(before.persons.frame[columns])
        assert (after.persons.keypoints == before.persons.keypoints).all()
        assert (after.persons.bbox_xywh == before.persons.bbox_xywh).all()
        assert after.persons.skeleton == before.persons.skeleton and after.persons.category_id == before.persons.category_id
        assert after.persons.upright == before.persons.upright
        assert after.images.equals(before.images)
        assert [item.get("segmentation") for item in after.records] == [item.get("segmentation") for item in before.records]
        assert not after.derived


@pytest.mark.parametrize("name", SOURCES)
def test_read_write_read(tmp_path: Path, name: str) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    source = SOURCES[name](root)
    to_coco("own", source, root, out)
    assert sorted(path.name for path in out.iterdir()) == ["train.json", "val.json"]
    same(root, "own", source, out, "crowdpose" if name == "crowdpose" else "coco")


def test_a_mapped_data_set_has_the_other_joints(tmp_path: Path) -> None:
    """LSPET's joints as COCO's: what the table has is written, by COCO's names."""
    skeleton = COMMITTED["lspet_as_coco"].skeleton_named("x")
    value = random_coco(2)
    value["categories"] = [{"id": 1, "name": "person", "keypoints": list(skeleton.keypoint_names)}]
    for person in value["annotations"]:
        person["keypoints"] = person["keypoints"][:42]
        person["num_keypoints"] = sum(flag > 0 for flag in person["keypoints"][2::3])
    write_json(tmp_path / "val.json", value)
    source = replace(COMMITTED["lspet_as_coco"], splits={"val": SplitFiles("val.json", "images")})
    written = json.loads(to_coco("x", source, tmp_path, tmp_path / "out")["val"].path.read_text())
    assert written["categories"][0]["keypoints"] == PERSON["keypoints"]
    assert {frozenset(limb) for limb in written["categories"][0]["skeleton"]} == set(map(frozenset, COCOS_LIMBS))
    same(tmp_path, "x", source, tmp_path / "out", "coco", skeleton="coco_17")


def test_pycocotools_scores_what_is_written(tmp_path: Path) -> None:
    """The independent reader: ids, categories, areas and crowd regions are the file's own; its own joints score 1."""
    source = coco(tmp_path)
    written = to_coco("own", source, tmp_path, tmp_path / "out")
    assert written["val"].category_ids == (7, 9)
    original, truth = COCO(str(tmp_path / "val.json")), COCO(str(written["val"].path))
    persons = [one for one in original.loadAnns(original.getAnnIds()) if one["category_id"] != 1]
    assert sorted(truth.anns) == sorted(one["id"] for one in persons) and sorted(truth.imgs) == sorted(original.imgs)
    for one in persons:
        found = truth.anns[one["id"]]
        for key in ("image_id", "category_id", "iscrowd", "bbox", "area", "num_keypoints", "keypoints"):
            assert found[key] == one[key], key
    labelled = [one for one in persons if one["num_keypoints"]]
    results = [{**{key: one[key] for key in ("image_id", "category_id", "keypoints")}, "score": 1.0} for one in labelled]
    scored = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), "keypoints")
    scored.evaluate()
    scored.accumulate()
    scored.summarize()
    assert scored.stats[0] == 1.0


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """data/own with a data set, as the command sees it."""
    source = coco(tmp_path / "data" / "own")
    monkeypatch.setattr(paths, "DATA", tmp_path / "data")
    committed = settings.data()
    entries = {"own": source, "elsewhere": source}
    monkeypatch.setattr(settings, "data", lambda: replace(committed, source="own", sources=entries))
    return tmp_path


def test_the_command_says_what_it_wrote(repository: Path, capsys: Any) -> None:
    out = repository / "out"
    assert cli.main(["convert", "own", "--to", "coco", str(out)]) == 0
    said = capsys.readouterr().out
    value = json.loads((out / "val.json").read_text())
    assert f"val: {len(value['annotations'])} persons (category 7, 9) in 8 images: {out / 'val.json'}" in said and "stored pixels" in said


WRONG = {
    "unknown": (["owm"], "unknown source 'owm' .did you mean 'own'"),
    "not acquired": (["elsewhere"], "its files are not there .farpose acquire elsewhere"),
    "raw data": (["own", "data/own/again"], "data/ is raw input"),
    "a file": (["own", "data.txt"], "not a folder"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(repository: Path, capsys: Any, case: str) -> None:
    import re

    (name, *place), message = WRONG[case]
    (repository / "data.txt").write_text("text")
    out = repository / (place[0] if place else "out")
    assert cli.main(["convert", name, str(out)]) == 1
    assert re.search(message, capsys.readouterr().err) and not out.is_dir()


def test_a_split_that_cannot_be_read_leaves_nothing(repository: Path) -> None:
    source, root = settings.data().sources["own"], repository / "data" / "own"
    (root / "val.json").write_text("{}")
    with pytest.raises(FarposeError, match=r"val\.json: the key 'images' is missing"):
        to_coco("own", source, root, repository / "out")
    assert not (repository / "out").exists()


def test_nothing_is_lost_of_numbers(tmp_path: Path) -> None:
    """Coordinates that no short decimal gives are read as the same numbers to the last bit."""
    value = random_coco(3)
    rng = np.random.default_rng(0)
    for person in value["annotations"]:
        person["bbox"] = (rng.uniform(0, 20, 4) / 3).tolist()
        person["area"] = float(rng.uniform(1, 9) / 7)
        person["keypoints"] = [n / 3 if place % 3 < 2 else n for place, n in enumerate(person["keypoints"])]
    write_json(tmp_path / "val.json", value)
    source = SourceParams("coco", "coco_17", "oks", {"val": SplitFiles("val.json", "images")})
    to_coco("own", source, tmp_path, tmp_path / "out")
    same(tmp_path, "own", source, tmp_path / "out", "coco")
