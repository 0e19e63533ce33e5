"""The COCO reader: equal to pycocotools on good files, one clear error on every bad one."""

from __future__ import annotations

import contextlib
import copy
import gzip
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.base.errors import FarposeError
from tests.coco_files import random_coco, read_file, unlabel, write_json

REAL_FILES = {
    "coco/annotations/person_keypoints_train2017.json": 0,
    "coco/annotations/person_keypoints_val2017.json": 0,
    "annotations/coco_person_keypoints_val2017_official_first_fifth.json.gz": 2213 - 538,
    "annotations/coco_person_keypoints_val2017_2346img_origcoords.json.gz": 0,
}


def assert_equals_pycocotools(value: dict[str, Any], root: Path, name: str, repeated: int) -> None:
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        oracle = COCO()
        oracle.dataset = value
        oracle.createIndex()
    read = read_file(root, name, "folder")
    assert len(read.repeated) == repeated
    assert list(read.images["image_id"]) == oracle.getImgIds()
    for row in read.images.itertuples():
        entry = oracle.imgs[row.image_id]
        assert (row.image_path, row.image_width, row.image_height) == (f"folder/{entry['file_name']}", entry["width"], entry["height"])
    expected = oracle.loadAnns(oracle.getAnnIds(catIds=oracle.getCatIds(catNms=["person"])))
    assert len(read.others) == len(value["annotations"]) - len(expected)
    rows = {annotation_id: i for i, annotation_id in enumerate(read.persons.frame["annotation_id"])}
    assert rows.keys() == {annotation["id"] for annotation in expected}
    for annotation in expected:
        i = rows[annotation["id"]]
        row, image = read.persons.frame.iloc[i], oracle.imgs[annotation["image_id"]]
        assert row["image_id"] == image["id"] and row["image_path"] == f"folder/{image['file_name']}"
        assert (row["image_width"], row["image_height"]) == (image["width"], image["height"])
        assert row["area"] == annotation["area"] and row["area_range_px2"] == annotation.get("orig_area", annotation["area"])
        assert row["num_keypoints"] == annotation["num_keypoints"] and row["iscrowd"] == bool(annotation["iscrowd"])
        assert row["split"] == "val" and row["source"] == f"coco/{image.get('source_split', 'folder')}"
        assert read.persons.bbox_xywh[i].tolist() == annotation["bbox"]
        assert read.persons.keypoints[i].ravel().tolist() == annotation["keypoints"]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_random_files_equal_pycocotools(tmp_path: Path, seed: int, suffix: str) -> None:
    value = random_coco(seed)
    rng = np.random.default_rng(seed)
    unlabel(value["annotations"][0], iscrowd=1)
    value["annotations"][1]["orig_area"] = 12345.5
    value["annotations"].append({"id": 5, "image_id": 3, "category_id": 62, "bbox": [1, 2, 3, 4]})
    value["images"] += copy.deepcopy(value["images"][: int(rng.integers(4))])
    rng.shuffle(value["annotations"])
    value["images"][0]["source_split"] = "val2017"
    repeated = len(value["images"]) - 6
    if repeated:
        value["images"][6]["source_split"] = "val2017"
    data = json.dumps(value).encode()
    (tmp_path / f"file{suffix}").write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    assert_equals_pycocotools(value, tmp_path, f"file{suffix}", repeated)


@pytest.mark.parametrize("name", REAL_FILES)
def test_real_files_equal_pycocotools(real_data: Path, name: str) -> None:
    data = (real_data / name).read_bytes()
    value = json.loads(gzip.decompress(data) if name.endswith("gz") else data)
    assert_equals_pycocotools(value, real_data, name, REAL_FILES[name])


def test_reads_150_thousand_persons_within_20_seconds(real_data: Path) -> None:
    start = time.process_time()
    read = read_file(real_data, "annotations/coco_person_keypoints_train2017_rebuilt.json.gz", "none")
    assert time.process_time() - start < 20
    assert (len(read.persons), len(read.images)) == (149_813, 56_599)
    assert read.persons.frame["num_keypoints"].sum() == 1_642_283


def test_no_annotations_is_an_empty_table(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {**random_coco(0), "annotations": []})
    read = read_file(tmp_path, "a.json", "x")
    persons, images = read.persons, read.images
    assert len(persons) == 0 and persons.keypoints.shape == (0, 17, 3) and len(images) == 6


def annotation(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda value: value["annotations"][1].update(changes)


def image(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda value: value["images"][1].update(changes)


def without(key: str, kind: str) -> Callable[[dict[str, Any]], None]:
    return lambda value: value[kind][1].pop(key)


GOOD = random_coco(0)
KEYPOINTS = GOOD["annotations"][1]["keypoints"]
NAN, INFINITY = float("nan"), float("inf")
ANNOTATION, IMAGE = "annotation 11:", "image 2:"
BAD_RECORDS: dict[str, tuple[Callable[[dict[str, Any]], Any], str, str]] = {
    "keypoints too short": (annotation(keypoints=KEYPOINTS[:48]), ANNOTATION, "'keypoints' has 48 numbers, expected 51"),
    "keypoints too long": (annotation(keypoints=KEYPOINTS + [0]), ANNOTATION, "'keypoints' has 52 numbers, expected 51"),
    "keypoints no list": (annotation(keypoints=None), ANNOTATION, "'keypoints' is null, expected a list"),
    "keypoints NaN": (annotation(keypoints=[NAN, *KEYPOINTS[1:]]), ANNOTATION, "'keypoints' holds nan, expected finite"),
    "keypoints text": (annotation(keypoints=["3.5", *KEYPOINTS[1:]]), ANNOTATION, "'keypoints' holds \"3.5\", expected numbers"),
    "keypoints huge": (annotation(keypoints=[10**400, *KEYPOINTS[1:]]), ANNOTATION, "'keypoints' holds a number that is too large"),
    "box NaN": (annotation(bbox=[0, 0, NAN, 1]), ANNOTATION, "'bbox' holds nan, expected finite"),
    "box infinite": (annotation(bbox=[-INFINITY, 0, 1, 1]), ANNOTATION, "'bbox' holds -inf, expected finite"),
    "box width negative": (annotation(bbox=[0, 0, -2, 4]), ANNOTATION, "the box has a negative size: [0.0, 0.0, -2.0, 4.0]"),
    "box height negative": (annotation(bbox=[0, 0, 2, -4]), ANNOTATION, "the box has a negative size"),
    "box of three": (annotation(bbox=[0, 0, 2]), ANNOTATION, "'bbox' has 3 numbers, expected 4"),
    "area NaN": (annotation(area=NAN), ANNOTATION, "'area' holds nan, expected finite"),
    "area negative": (annotation(area=-1), ANNOTATION, "'area' is -1, expected at least 0"),
    "original area text": (annotation(orig_area="9"), ANNOTATION, "'orig_area' is \"9\", expected an integer or a number"),
    "image unknown": (annotation(image_id=99), ANNOTATION, "its image 99 is not listed in 'images'"),
    "category unknown": (annotation(category_id=7), ANNOTATION, "its category 7 is not listed in 'categories'"),
    "crowd flag": (annotation(iscrowd=2), ANNOTATION, "'iscrowd' is 2, expected 0 or 1"),
    "count no integer": (annotation(num_keypoints=True), ANNOTATION, "'num_keypoints' is true, expected an integer"),
    "id too large": (annotation(image_id=2**70), ANNOTATION, "'image_id' holds a number that is too large"),
    "annotation repeated": (annotation(id=10), "annotation 10:", "the id appears twice"),
    "no box": (without("bbox", "annotations"), ANNOTATION, "the key 'bbox' is missing"),
    "no keypoints": (without("keypoints", "annotations"), ANNOTATION, "the key 'keypoints' is missing"),
    "no annotation id": (without("id", "annotations"), "annotation number 1 (no id):", "the key 'id' is missing"),
    "no file name": (without("file_name", "images"), IMAGE, "the key 'file_name' is missing"),
    "path outside": (image(file_name="../../etc/passwd"), IMAGE, "expected a path inside folder"),
    "image width zero": (image(width=0), IMAGE, "'width' is 0, expected at least 1"),
    "image height negative": (image(height=-4), IMAGE, "'height' is -4, expected at least 1"),
    "image width text": (image(width="64"), IMAGE, "'width' is \"64\", expected an integer"),
    "images disagree": (lambda value: value["images"].append({**value["images"][1], "width": 7}), IMAGE, "different 'width'"),
    "joints differ": (lambda value: value["categories"][0].update(keypoints=["nose"]), "", "the category's keypoints are ['nose']"),
    "no joints": (lambda value: value["categories"][0].pop("keypoints"), "", "the category's keypoints are None"),
    "no person category": (lambda value: value["categories"].pop(0), "", "0 categories are named 'person'"),
    "no images key": (lambda value: value.pop("images"), "", "the key 'images' is missing"),
    "annotations no list": (lambda value: value.update(annotations={}), "", "'annotations' is {}, expected a list"),
    "annotation no object": (
        lambda value: value["annotations"].append(3),
        "",
        f"annotations[{len(GOOD['annotations'])}] is 3, expected an",
    ),
}


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_bad_record_is_named(tmp_path: Path, case: str) -> None:
    change, place, problem = BAD_RECORDS[case]
    value = copy.deepcopy(GOOD)
    change(value)
    write_json(tmp_path / "bad.json", value)
    with pytest.raises(FarposeError) as caught:
        read_file(tmp_path, "bad.json", "folder")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'bad.json'}: {place}") and problem in message and "\n" not in message


CATEGORY: dict[str, tuple[Any, str]] = {
    "another case": (
        "Person",
        r"0 categories are named 'Person', expected one .set the data set's `person_category`.*'person' .id 1., 'chair' .id 62",
    ),
    "plural": ("persons", "0 categories are named 'persons'"),
    "another id": (3, "0 categories have the id 3, expected one .*'person' .id 1."),
    "one id of two": ((1, 3), "0 categories have the id 3"),
    "a category without joints": (62, "the category's keypoints are None"),
}


@pytest.mark.parametrize("case", CATEGORY)
def test_a_category_other_than_the_entrys_is_named(tmp_path: Path, case: str) -> None:
    write_json(tmp_path / "a.json", GOOD)
    category, message = CATEGORY[case]
    with pytest.raises(FarposeError, match=message):
        read_file(tmp_path, "a.json", "x", person_category=category)


@pytest.mark.parametrize("category", ["Riders", 7, (7,), (7, 9)])
def test_persons_may_be_of_a_category_of_another_name_or_of_several(tmp_path: Path, category: Any) -> None:
    value = copy.deepcopy(GOOD)
    value["categories"] = [
        {"id": 1, "name": "person"},
        *({**GOOD["categories"][0], "id": i, "name": n} for i, n in ((7, "Riders"), (9, "Grooms"))),
    ]
    for i, person in enumerate(value["annotations"]):
        person["category_id"] = (7, 9, 1)[i % 3]
    write_json(tmp_path / "a.json", value)
    wanted = (7, 9) if category == (7, 9) else (7,)
    read = read_file(tmp_path, "a.json", "x", person_category=category)
    assert read.persons.frame["annotation_id"].tolist() == [a["id"] for a in value["annotations"] if a["category_id"] in wanted]
    assert sorted(read.others) == sorted(a["image_id"] for a in value["annotations"] if a["category_id"] not in wanted)


def test_the_first_joint_that_differs_is_named(tmp_path: Path) -> None:
    value = copy.deepcopy(GOOD)
    value["categories"][0]["keypoints"][3:5] = ["right_ear", "left_ear"]
    write_json(tmp_path / "a.json", value)
    with pytest.raises(FarposeError, match=r"joint 4 is 'right_ear', expected 'left_ear' .*`skeleton` in params"):
        read_file(tmp_path, "a.json", "x")


BAD_FILES = {
    "cut short": (json.dumps(GOOD).encode()[:-20], "a.json", "not valid JSON"),
    "empty": (b"", "a.json", "not valid JSON"),
    "binary": (b"\x89PNG\r\n\x1a\n\xff\xfe", "a.json", "not valid JSON"),
    "list": (b"[1, 2]", "a.json", "expected a JSON object, got [1, 2]"),
    "nested too deep": (b"[" * 200_000, "a.json", "not valid JSON"),
    "gzip cut short": (gzip.compress(json.dumps(GOOD).encode())[:-40], "a.json.gz", "not a whole gzip file"),
    "not gzip": (json.dumps(GOOD).encode(), "a.json.gz", "not a whole gzip file"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_file_is_named(tmp_path: Path, case: str) -> None:
    data, name, problem = BAD_FILES[case]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(FarposeError) as caught:
        read_file(tmp_path, name, "folder")
    assert str(caught.value).startswith(f"{tmp_path / name}: {problem}")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FarposeError, match=r"absent\.json: annotation file not found"):
        read_file(tmp_path, "absent.json", "folder")
