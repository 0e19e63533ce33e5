"""Persons' boxes of others' files: what is taken, what is left out with a count, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from components.base.errors import FarposeError
from components.evaluate.boxes import PersonBoxes, boxes_of_files, boxes_of_images
from pipelines import photographs

BOX = {"image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 40], "score": 0.5}
SIZES = {1: (100.0, 80.0), 2: (100.0, 80.0)}


def write(folder: Path, value: Any) -> Path:
    (folder / "boxes.json").write_text(json.dumps(value))
    return folder / "boxes.json"


def of_images(folder: Path, *records: dict[str, Any], own: int = 1) -> PersonBoxes:
    return boxes_of_images(write(folder, list(records)), SIZES, own)


def of_files(folder: Path, *records: dict[str, Any]) -> PersonBoxes:
    return boxes_of_files(write(folder, list(records)), {1: folder / "a.jpg", 2: folder / "b.jpg"}, SIZES)


READERS = pytest.mark.parametrize("read", [of_images, of_files])

# ---------------------------------------------------------------- numbers

WRONG = {
    "NaN": ({"bbox": [1, 2, float("nan"), 4]}, "bbox holds nan, which is no finite number"),
    "infinite": ({"bbox": [-float("inf"), 2, 3, 4]}, "bbox holds -inf, which is no finite number"),
    "negative": ({"bbox": [50, 50, -20, -30]}, r"the box has a negative size: \[50, 50, -20, -30\]"),
    "negative height": ({"bbox": [50, 50, 20, -1]}, "the box has a negative size"),
    "huge": ({"bbox": [0, 0, 1e9, 40]}, "the box .* is more than 10 times as large as its image of 100x80 px"),
    "text": ({"bbox": [1, 2, "3", 4]}, "bbox holds '3', which is no finite number"),
    "three numbers": ({"bbox": [1, 2, 3]}, "bbox needs 4 numbers"),
    "no list": ({"bbox": "1 2 3 4"}, "bbox needs 4 numbers"),
    "score NaN": ({"score": float("nan")}, "score holds nan, which is no finite number"),
}


@READERS
@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_box_is_named(tmp_path: Path, read: Any, case: str) -> None:
    change, message = WRONG[case]
    with pytest.raises(FarposeError, match=rf"boxes\.json: record 1: {message}"):
        read(tmp_path, BOX, BOX | change)


@READERS
def test_wrong_boxes_of_others_do_not_matter(tmp_path: Path, read: Any) -> None:
    found = read(tmp_path, BOX, BOX | {"image_id": 9, "bbox": [1, 1, -1, -1]}, BOX | {"category_id": 3, "bbox": [1, 1, -1, -1]})
    assert len(found) == 1 and found.left_out == {"on other images": 1, "of other classes": 1}


@READERS
def test_boxes_that_can_show_nobody_are_left_out_by_name(tmp_path: Path, read: Any) -> None:
    useless = [[5, 5, 0, 9], [5, 5, 9, 0], [100, 5, 9, 9], [-30, 5, 30, 9], [5, 90, 9, 9]]
    near = [[-5, -5, 20, 20], [90, 70, 50, 50]]  # partly inside
    found = read(tmp_path, *(BOX | {"bbox": box} for box in [*useless, *near]))
    assert found.bbox_xywh.tolist() == near
    assert found.left_out == {"without an area": 2, "outside their image": 3}
    assert found.notes == (
        "2 of 7 boxes are without an area and were left out (record 0, record 1)",
        "3 of 7 boxes are outside their image and were left out (record 2, record 3, record 4)",
    )


# ---------------------------------------------------------------- classes

CLASSES: dict[str, tuple[list[Any], int, list[int]]] = {  # classes of the records, the data set's own, which are persons
    "COCO's": ([1, 3, 1, 90], 1, [0, 2]),
    "class 0 alone": ([0, 0], 1, [0, 1]),
    "class 0 alone, own 7": ([0, 0], 7, [0, 1]),
    "COCO's alone, own 7": ([1, 1], 7, [0, 1]),
    "own 7": ([7, 0, 1, 7], 7, [0, 3]),
    "own 0": ([0, 1, 0], 0, [0, 2]),
    "names": (["car", "Person", "person"], 1, [1, 2]),
    "name in the plural": (["Persons", "dog"], 1, [0]),
    "none": ([None, None], 1, [0, 1]),
}


@pytest.mark.parametrize("key", ["category_name", "class_name", "label"])
@pytest.mark.parametrize("case", CLASSES)
def test_the_class_that_is_plainly_persons_is_taken(tmp_path: Path, case: str, key: str) -> None:
    classes, own, persons = CLASSES[case]
    plain = {name: value for name, value in BOX.items() if name != "category_id"}
    records: list[dict[str, Any]] = []
    for row, kind in enumerate(classes):
        named = {} if kind is None else {key: kind} if isinstance(kind, str) else {"category_id": kind}
        records.append({**plain, **named, "bbox": [row + 1, 1, 9, 9]})
    found = of_images(tmp_path, *records, own=own)
    assert (found.bbox_xywh[:, 0] - 1).tolist() == persons
    assert ("class 0 is taken for persons" in " ".join(found.notes)) == (set(classes) == {0})


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([0, 1], "ids 0, 1 and no names"),
        ([3], "ids 3 and no names"),
        ([0, 2], "ids 0, 2 and no names"),
        ([17, 0], "ids 0, 17 and no names"),
    ],
)
@READERS
def test_unclear_classes_are_named_with_the_way_out(tmp_path: Path, read: Any, classes: list[int], message: str) -> None:
    with pytest.raises(FarposeError, match=rf"{message}.*not plain which are persons .*category_name"):
        read(tmp_path, *(BOX | {"category_id": number} for number in classes))


def test_no_class_called_person_lists_the_classes(tmp_path: Path) -> None:
    with pytest.raises(FarposeError, match=r"no class is called person; its classes: car, dog .*name the persons' class"):
        of_images(tmp_path, BOX | {"label": "dog"}, BOX | {"label": "car"})


# ---------------------------------------------------------------- images


def test_more_images_than_are_used_are_counted(tmp_path: Path) -> None:
    found = of_images(tmp_path, *(BOX | {"image_id": number} for number in (1, 2, 3, 4, 4)))
    assert found.image_id.tolist() == [1, 2] and found.notes == ("3 of 5 boxes are on other images and were left out",)
    with pytest.raises(FarposeError, match="no box is on one of these images: its 1 boxes"):
        of_images(tmp_path, BOX | {"image_id": 5})


def annotated(names: dict[int, str], **more: Any) -> dict[str, Any]:
    images = [{"id": number, "file_name": name, "width": 100, "height": 80} for number, name in names.items()]
    boxes = [{"id": 50 + number, "image_id": number, "category_id": 1, "bbox": [number, 1, 9, 9]} for number in names]
    return {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "person"}], **more}


MATCHED: dict[str, tuple[dict[int, str], str, list[int]]] = {  # names in the file, the user's file, the numbers of its boxes
    "base name": ({5: "val/a.jpg"}, "pictures/a.jpg", [5]),
    "whole path before base name": ({5: "x/a.jpg", 6: "day2/a.jpg"}, "day2/a.jpg", [6]),
    "longest end": ({5: "day1/cam/a.jpg", 6: "day2/cam/a.jpg"}, "day2/cam/a.jpg", [6]),
    "backslashes": ({5: "day1\\a.jpg", 6: "day2\\a.jpg"}, "day2/a.jpg", [6]),
    "bare name beside paths": ({5: "a.jpg", 6: "other/a.jpg"}, "pictures/a.jpg", [5]),
    "another": ({5: "b.jpg"}, "a.jpg", []),
}


@pytest.mark.parametrize("case", MATCHED)
def test_boxes_belong_to_the_file_of_their_path(tmp_path: Path, case: str) -> None:
    names, file, expected = MATCHED[case]
    found = boxes_of_files(write(tmp_path, annotated(names)), {3: tmp_path / file}, {3: (100.0, 80.0)})
    assert found.bbox_xywh[:, 0].tolist() == expected and set(found.image_id.tolist()) <= {3}


def test_a_name_that_could_be_two_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FarposeError, match=r"day1/a\.jpg and day2/a\.jpg could both be .*a\.jpg"):
        boxes_of_files(write(tmp_path, annotated({5: "day1/a.jpg", 6: "day2/a.jpg"})), {3: tmp_path / "a.jpg"}, {3: None})


@pytest.mark.parametrize("name", ["a.jpg", "a"])
def test_detections_may_name_their_files(tmp_path: Path, name: str) -> None:
    for record in ({"file_name": name, "image_id": 99}, {"image_id": name}):
        assert of_files(tmp_path, BOX | record).image_id.tolist() == [1]


def test_annotated_categories_and_crowds(tmp_path: Path) -> None:
    value = annotated({5: "a.jpg"}, categories=[{"id": 4, "name": "car"}, {"id": 7, "name": "person"}])
    box = value["annotations"][0]
    value["annotations"] = [box | {"category_id": 4}, box | {"category_id": 7}, box | {"category_id": 7, "iscrowd": 1}]
    found = boxes_of_files(write(tmp_path, value), {1: tmp_path / "a.jpg"}, SIZES)
    assert len(found) == 1 and found.category_id == 7 and found.left_out == {"of other classes": 1, "crowd regions": 1}


# ---------------------------------------------------------------- predict


def test_predict_takes_persons_only_and_their_category(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "plain.jpg"), np.zeros((240, 360, 3), np.uint8))
    shots = {1: photographs.Photograph.of(tmp_path / "plain.jpg")}
    value = annotated({5: "plain.jpg"}, categories=[{"id": 0, "name": "person"}, {"id": 3, "name": "car"}])
    box = value["annotations"][0]
    value["annotations"] = [box | {"category_id": 0, "bbox": [100, 50, 60, 120]}, box | {"category_id": 3, "bbox": [0, 0, 50, 50]}]
    located = photographs.given(write(tmp_path, value), shots)
    assert located.boxes[1].tolist() == [[100, 50, 60, 120]] and located.category_id == 0
    assert located.notes == ("1 of 2 boxes are of other classes and were left out",)
    with pytest.raises(FarposeError, match=r"no box belongs to one of these images: 1 of 1 boxes are on other.*1 is plain\.jpg"):
        photographs.given(write(tmp_path, [BOX | {"image_id": 8}]), shots)


CASES = {"ann_cat": 1, "det_cat0": 1, "det_neg": "record 0: the box has a negative size", "ann_nan": r"record 0 \(id 1\): bbox holds nan"}


@pytest.mark.parametrize("name", CASES)
def test_inputs_that_once_failed(real_data: Path, name: str) -> None:
    folder = real_data.parent / "cases" / "predict"
    if not folder.is_dir():
        pytest.skip("the folder of cases is not there")
    shots = {1: photographs.Photograph.of(folder / "plain.jpg")}
    expected = CASES[name]
    if isinstance(expected, str):
        with pytest.raises(FarposeError, match=expected):
            photographs.given(folder / f"{name}.json", shots)
    else:
        assert photographs.given(folder / f"{name}.json", shots).boxes[1].tolist() == [[100, 50, 60, 120]]
