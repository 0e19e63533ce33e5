"""Annotation files as hands and tools write them: other categories, missing fields, other spellings of joints and of file names."""

from __future__ import annotations

import copy
import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.base.errors import FarposeError
from components.datasets.categories import spellings
from components.datasets.fetch import fetch
from components.datasets.file_names import match, relative
from components.datasets.params import DataParams
from components.evaluate.predictions import Predictions, write_coco_results
from components.pose.images import read_images
from components.pose.persons import Persons
from components.pose.skeleton import COCO_17
from tests.coco_files import PERSON, random_coco, read_file, source, unlabel, write_dataset, write_images, write_json

GOOD = random_coco(0, num_images=8)


def read(tmp_path: Path, value: dict[str, Any], **changes: Any) -> Any:
    write_json(tmp_path / "a.json", value)
    return read_file(tmp_path, "a.json", "x", **changes)


# ---------------------------------------------------------------- categories

JOINTLESS = {"name": "person"}
CAR = {"id": 0, "name": "car"}
TAKEN: dict[str, tuple[list[dict[str, Any]], list[int], set[int]]] = {  # categories, ids of the annotations in turn, ids that are persons
    "another id": ([CAR, {**PERSON, "id": 7}], [7, 0], {7}),
    "id 0": ([{**PERSON, "id": 0}], [0], {0}),
    "twice, once without joints": ([{**JOINTLESS, "id": 0}, PERSON], [1], {1}),
    "twice, with joints": ([{**PERSON, "id": 3}, {**PERSON, "id": 5}], [3, 5], {3, 5}),
    "capital": ([{**PERSON, "name": "Person"}, {"id": 2, "name": "Chair"}], [1, 2], {1}),
    "people": ([{**PERSON, "name": "people"}], [1], {1}),
    "exact name before a similar one": ([{**PERSON, "id": 4}, {**PERSON, "id": 6, "name": "People"}], [4, 6], {4}),
    "the only one with these joints": ([CAR, {**PERSON, "id": 2, "name": "Bauarbeiter"}], [2, 0], {2}),
    "several with these joints": ([{**PERSON, "id": 2, "name": "man"}, {**PERSON, "id": 3, "name": "woman"}, CAR], [2, 3, 0], {2, 3}),
}


@pytest.mark.parametrize("case", TAKEN)
def test_persons_categories_are_taken_where_they_are_plain(tmp_path: Path, case: str) -> None:
    categories, numbers, persons = TAKEN[case]
    value = copy.deepcopy({**GOOD, "categories": categories})
    for i, person in enumerate(value["annotations"]):
        person["category_id"] = numbers[i % len(numbers)]
    found = read(tmp_path, value)
    expected = [person["id"] for person in value["annotations"] if person["category_id"] in persons]
    assert found.persons.frame["annotation_id"].tolist() == expected
    counts = {number: sum(person["category_id"] == number for person in value["annotations"]) for number in persons}
    assert counts[found.persons.category_id] == max(counts.values())


REFUSED = {
    "nothing like a person": [CAR, {"id": 1, "name": "chair", "keypoints": ["seat"]}],
    "one id for two": [PERSON, {**PERSON}],
}


@pytest.mark.parametrize("case", REFUSED)
def test_unclear_categories_name_the_way_out(tmp_path: Path, case: str) -> None:
    with pytest.raises(FarposeError, match=r"a\.json: .*`person_category` in params/data\.yaml; the file's categories: '"):
        read(tmp_path, {**GOOD, "categories": REFUSED[case]})


def test_predictions_carry_the_users_category(tmp_path: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    value = copy.deepcopy({**GOOD, "categories": [CAR, {**PERSON, "id": 7}]})
    for person in value["annotations"]:
        person["category_id"] = 7
    persons = read(tmp_path, value).persons
    persons.write(tmp_path / "p.parquet")
    persons = Persons.read(tmp_path / "p.parquet")
    n, frame = len(persons), persons.frame
    ids = frame["image_id"].to_numpy(), frame["annotation_id"].to_numpy()
    perfect = Predictions(*ids, persons.keypoints[..., :2], np.ones((n, 17)), np.ones(n), persons.bbox_xywh, np.ones(n))
    write_coco_results(tmp_path / "results.json", perfect, np.ones(n), {}, category_id=persons.category_id)
    truth = COCO(str(tmp_path / "a.json"))
    scored = COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), "keypoints")
    scored.evaluate()
    scored.accumulate()
    scored.summarize()
    assert scored.stats[0] == 1.0


SPELLED = {
    "capitals": lambda name: name.upper(),
    "spaces": lambda name: name.replace("_", " "),
    "hyphens": lambda name: name.replace("_", "-"),
    "camel": lambda name: "".join(part.title() for part in name.split("_")),
    "short": lambda name: name.replace("left_", "L").replace("right_", "R"),
    "short with point": lambda name: name.replace("left_", "l.").replace("right_", "r."),
    "side last": lambda name: "_".join(reversed(name.split("_"))),
    "side last, short": lambda name: " ".join(reversed(name.split("_"))).replace("left", "L").replace("right", "R"),
}


@pytest.mark.parametrize("way", SPELLED)
def test_joints_may_be_written_otherwise(tmp_path: Path, way: str) -> None:
    names = [SPELLED[way](name) for name in COCO_17.keypoint_names]
    assert len(read(tmp_path, {**GOOD, "categories": [{**PERSON, "keypoints": names}]}).persons) == len(GOOD["annotations"])


def test_no_spelling_means_two_joints() -> None:
    every = [spelling for name in COCO_17.keypoint_names for spelling in spellings(name)]
    assert len(every) == len(set(every))


@pytest.mark.parametrize("listed", [None, []])
def test_unnamed_joints_name_the_way_out_and_it_works(tmp_path: Path, listed: Any) -> None:
    category = {"id": 1, "name": "person", **({} if listed is None else {"keypoints": listed})}
    with pytest.raises(FarposeError, match=r"keypoints are (None|\[\]).*set the data set's `file_joints: \[\]`"):
        read(tmp_path, {**GOOD, "categories": [category]})
    assert len(read(tmp_path, {**GOOD, "categories": [category]}, file_joints=()).persons) == len(GOOD["annotations"])


def test_joints_of_other_names_are_taken_once_the_entry_says_so(tmp_path: Path) -> None:
    names = [f"Gelenk {number}" for number in range(17)]
    value = {**GOOD, "categories": [{**PERSON, "keypoints": names}]}
    with pytest.raises(FarposeError, match=r"joint 1 is 'Gelenk 0', expected 'nose' \(set the data set's `file_joints: \['Gelenk 0'"):
        read(tmp_path, value)
    assert len(read(tmp_path, value, file_joints=tuple(names)).persons) == len(GOOD["annotations"])
    with pytest.raises(FarposeError, match=r"joint 1 is 'Gelenk 0', expected 'Gelenk 16'"):
        read(tmp_path, value, file_joints=tuple(names[::-1]))


# ---------------------------------------------------------------- missing fields


@pytest.mark.parametrize("share", [0.4, 1.0])
def test_missing_fields_are_derived_counted_and_said(tmp_path: Path, share: float) -> None:
    train, val = copy.deepcopy(GOOD), random_coco(1, 1000)
    rng, expected = np.random.default_rng(3), {}
    unlabel(train["annotations"][-1])
    for key in ("area", "iscrowd", "num_keypoints"):
        gone = [person for person in train["annotations"] if rng.random() < share]
        expected[key] = len(gone)
        for person in gone:
            person.pop(key)
    params = write_dataset(tmp_path / "data", train, val)
    summary = fetch(params, tmp_path / "data", tmp_path / "persons", None)
    assert summary.splits["train"].derived == expected and summary.splits["val"].derived == {}
    lines = {line.rsplit(maxsplit=2)[0]: line.split()[-2:] for line in summary.table().splitlines()}
    assert lines["area missing: 0.53 of the box's area"] == [str(expected["area"]), "0"]
    read = read_file(tmp_path / "data", "annotations/train.json", "train")
    for row, original in enumerate(GOOD["annotations"][:-1]):
        frame = read.persons.frame.iloc[row]
        assert frame["area"] == pytest.approx(original["area"], abs=1e-3)  # these files' areas are 0.53 of the box, rounded
        assert frame["num_keypoints"] == original["num_keypoints"] and not frame["iscrowd"]
    assert read.persons.frame["num_keypoints"].iloc[-1] == 0


# ---------------------------------------------------------------- file names

ODD = {
    "images\\day 1\\a.jpg": "images/day 1/a.jpg",
    "C:\\Users\\me\\a.jpg": "Users/me/a.jpg",
    "D:/photos/a.jpg": "photos/a.jpg",
    "/home/me/a.jpg": "home/me/a.jpg",
    "https://example.org/x/a%20b.jpg?token=3": "x/a b.jpg",
    "s3://bucket/x/a.jpg": "x/a.jpg",
    "/data/local-files/?d=set/a.jpg": "set/a.jpg",
    "./a.jpg": "a.jpg",
    "a/b.jpg": "a/b.jpg",
    "../a.jpg": "../a.jpg",
    "100%.jpg": "100%.jpg",
}


@pytest.mark.parametrize("name", ODD)
def test_a_name_becomes_a_relative_path(name: str) -> None:
    assert relative(name) == ODD[name]


UMLAUT = "Süd.jpg"
NEAR: dict[str, tuple[list[str], str, str | None]] = {  # files, the name, the file that it means (None: several or none)
    "other case": (["A.JPG"], "a.jpg", "A.JPG"),
    "Unicode form": ([unicodedata.normalize("NFD", UMLAUT)], unicodedata.normalize("NFC", UMLAUT), unicodedata.normalize("NFD", UMLAUT)),
    "leading folder": (["a.jpg"], "images/a.jpg", "a.jpg"),
    "folder inside": (["day1/a.jpg"], "a.jpg", "day1/a.jpg"),
    "percent signs": (["a b.jpg"], "a%20b.jpg", "a b.jpg"),
    "longest end": (["day1/a.jpg", "day2/a.jpg"], "x/day2/a.jpg", "day2/a.jpg"),
    "two folders": (["day1/a.jpg", "day2/a.jpg"], "a.jpg", None),
    "two cases": (["A.jpg", "a.JPG"], "a.jpg", None),
    "path before base name": (["a.JPG", "day1/a.jpg"], "day1/A.jpg", "day1/a.jpg"),
    "another file": (["b.jpg"], "a.jpg", None),
    "another ending": (["a.png"], "a.jpg", None),
}


@pytest.mark.parametrize("case", NEAR)
def test_the_only_file_that_a_name_can_mean_is_found(tmp_path: Path, case: str) -> None:
    files, name, expected = NEAR[case]
    for path in files:
        (tmp_path / "train" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / path).write_bytes(b"x")
    found = match(tmp_path, "train", [f"train/{name}"])
    assert found.paths == ({} if expected is None else {f"train/{name}": f"train/{expected}"})
    ambiguous = case in ("two folders", "two cases")
    assert set(found.several) == ({f"train/{name}"} if ambiguous else set())
    assert (found.said() != "") == ambiguous and all(path in found.said() for path in files if ambiguous)


def test_two_names_never_mean_one_file(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.jpg").write_bytes(b"x")
    found = match(tmp_path, "train", ["train/A.jpg", "train/x/a.jpg"])
    assert not found.paths and set(found.several) == {"train/A.jpg", "train/x/a.jpg"}
    assert not match(tmp_path, "train", ["train/A.jpg"], taken=["train/a.jpg"]).paths


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_fetch_reads_the_files_that_are_there(tmp_path: Path, share: float) -> None:
    train, val = random_coco(0, num_images=12), random_coco(1, 1000)
    params = write_dataset(tmp_path / "data", train, val)
    for entry in train["images"][::2]:
        old = tmp_path / "data" / "train" / entry["file_name"]
        old.rename(old.with_suffix(".PNG"))
    write_json(tmp_path / "data" / "annotations" / "train.json", train)
    params = DataParams("coco", params.sources, splits=type(params.splits)(share))
    summary = fetch(params, tmp_path / "data", tmp_path / "persons", None)
    assert sum(split.images_matched for split in summary.splits.values()) == 6 and "matched: file named alike" in summary.table()
    images = read_images(tmp_path / "persons" / "images.parquet")
    assert all((tmp_path / "data" / path).is_file() for path in images["image_path"])
    persons = Persons.read(tmp_path / "persons" / "persons.parquet").frame
    assert persons.merge(images, on="image_id")[["image_path_x", "image_path_y"]].nunique(axis=1).eq(1).all()


def test_ambiguous_names_are_listed(tmp_path: Path) -> None:
    value = random_coco(0)
    write_images(tmp_path / "train" / "b", value, 0)
    shutil.copytree(tmp_path / "train" / "b", tmp_path / "train" / "c")
    write_json(tmp_path / "a.json", value)
    from components.datasets.params import SplitFiles

    params = DataParams("coco", {"coco": source({"train": SplitFiles("a.json", "train")})})
    with pytest.raises(FarposeError, match=r"000001\.png: image file not found .*000001\.png could be train/b/000001\.png or train/c/0000"):
        fetch(params, tmp_path, tmp_path / "persons", None)


CASES = {
    "cat_extra_ids": 7,
    "cat_twice": 1,
    "no_area": 1,
    "no_num_keypoints": 1,
    "windows_path": 1,
    "case_ext": 1,
    "nfc_nfd": 1,
    "webp_bmp": 1,
}


@pytest.mark.parametrize("name", CASES)
def test_inputs_that_once_failed(tmp_path: Path, real_data: Path, name: str) -> None:
    folder = real_data.parent / "cases" / name
    if not folder.is_dir():
        pytest.skip("the folder of cases is not there")
    splits = {"train": "person_keypoints_train2017", "val": "person_keypoints_val2017"}
    from components.datasets.params import SplitFiles

    files = {split: SplitFiles(f"annotations/{file}.json", f"{split}2017") for split, file in splits.items()}
    fetch(DataParams("coco", {"coco": source(files)}), folder, tmp_path / "persons", None)
    persons = Persons.read(tmp_path / "persons" / "persons.parquet")
    assert persons.category_id == CASES[name] and set(persons.frame["split"]) == {"train", "val"}
    counted = json.loads((folder / "annotations" / "person_keypoints_train2017.json").read_text())["annotations"]
    assert (persons.frame["split"] == "train").sum() == sum(a["category_id"] == CASES[name] for a in counted)
