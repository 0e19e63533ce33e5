"""The CrowdPose reader: what its files hold, no more and no less; the rest of the pipeline takes it as any other data set."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.base.errors import FarposeError
from components.datasets.acquire.main import Acquired, acquire
from components.datasets.fetch import fetch
from components.datasets.params import DataParams, SplitFiles
from components.datasets.reader import AnnotationFile
from components.datasets.validate import validate
from components.pose.persons import Persons
from components.pose.skeleton import CROWDPOSE_14, SKELETONS
from tests.coco_files import COMMITTED, random_coco, read_file, source, write_images, write_json

REAL_FILES = ["annotations/crowdpose_val.json.gz", "crowdpose/annotations/test_crowdpose.json"]
NAMES = [
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
    "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "head", "neck",
]  # fmt: skip


def crowdpose_value(seed: int, first_id: int = 1, num_images: int = 6) -> dict[str, Any]:
    """Random persons as CrowdPose's files hold them: no areas, own count of joints; the first has head and neck only."""
    rng = np.random.default_rng(seed)
    value = random_coco(seed, first_id, num_images, extension="jpg")
    value["categories"] = [{"id": 1, "name": "person", "supercategory": "person", "keypoints": NAMES}]
    del value["licenses"]
    for image in value["images"]:
        del image["license"]
        image["crowdIndex"] = round(float(rng.uniform(0, 3.02)), 2)
    for i, person in enumerate(value["annotations"]):
        joints = np.array(person["keypoints"]).reshape(17, 3)[:14].round()
        if i == 0:
            joints[:12] = 0
            joints[12:] = [*person["bbox"][:2], 1]
        else:
            joints[3] = [person["bbox"][0] + 1, person["bbox"][1] + 1, 2]
        del person["area"]
        person.update(keypoints=joints.ravel().tolist(), num_keypoints=int((joints[:12, 2] > 0).sum()))
    return value


def read(root: Path, name: str) -> AnnotationFile:
    return read_file(root, name, "images", "crowdpose")


def assert_holds(file: AnnotationFile, value: dict[str, Any]) -> None:
    """An independent reading, annotation by annotation."""
    images = {image["id"]: image for image in value["images"]}
    assert list(file.images["image_id"]) == list(images) and len(file.persons) == len(value["annotations"])
    assert file.persons.skeleton is CROWDPOSE_14
    rows = file.persons.frame.to_dict("records")
    for i, person in enumerate(value["annotations"]):
        row, image = rows[i], images[person["image_id"]]
        assert (row["annotation_id"], row["image_id"], row["image_path"]) == (person["id"], image["id"], f"images/{image['file_name']}")
        assert (row["image_width"], row["image_height"]) == (image["width"], image["height"])
        assert row["crowd_index"] == image["crowdIndex"] and row["iscrowd"] == bool(person["iscrowd"])
        assert row["area"] == row["area_range_px2"] == pytest.approx(person["bbox"][2] * person["bbox"][3] * 0.53, rel=1e-12)
        assert row["num_keypoints"] == person["num_keypoints"] and np.isnan(row["head_size"])
        assert row["source"] == "crowdpose/images" and row["licence"] == "unknown" and row["split"] == "val"
        assert file.persons.bbox_xywh[i].tolist() == person["bbox"]
        assert file.persons.keypoints[i].ravel().tolist() == person["keypoints"]


@pytest.mark.parametrize("seed", range(3))
def test_random_files(tmp_path: Path, seed: int) -> None:
    value = crowdpose_value(seed)
    value["annotations"][1]["area"] = 7.0  # some copies carry an area, which the published evaluation does not look at
    write_json(tmp_path / "file.json", value)
    assert_holds(read(tmp_path, "file.json"), value)


@pytest.mark.parametrize("name", REAL_FILES)
def test_real_files(real_data: Path, name: str) -> None:
    data = (real_data / name).read_bytes()
    assert_holds(read(real_data, name), json.loads(gzip.decompress(data) if name.endswith("gz") else data))


def test_the_names_of_the_skeleton_are_taken_as_well(tmp_path: Path) -> None:
    value = crowdpose_value(0)
    value["categories"][0]["keypoints"] = list(CROWDPOSE_14.keypoint_names)
    write_json(tmp_path / "file.json", value)
    assert_holds(read(tmp_path, "file.json"), value)


def test_a_reduced_copy_keeps_the_original_areas(tmp_path: Path) -> None:
    value = crowdpose_value(0)
    value["annotations"][1]["orig_area"] = 1234.5
    write_json(tmp_path / "file.json", value)
    frame = read(tmp_path, "file.json").persons.frame
    box = value["annotations"][1]["bbox"]
    assert frame["area_range_px2"][1] == 1234.5 and frame["area"][1] == pytest.approx(box[2] * box[3] * 0.53)


def image(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda value: value["images"][1].update(changes)


def joint_names(change: Callable[[list[str]], Any]) -> Callable[[dict[str, Any]], None]:
    return lambda value: change(value["categories"][0]["keypoints"])


BAD: dict[str, tuple[Callable[[dict[str, Any]], Any], str, str]] = {
    "no crowd index": (lambda value: value["images"][1].pop("crowdIndex"), "image 2:", "the key 'crowdIndex' is missing"),
    "crowd index text": (image(crowdIndex="0.3"), "image 2:", "'crowdIndex' is \"0.3\", expected an integer or a number"),
    "crowd index NaN": (image(crowdIndex=float("nan")), "image 2:", "'crowdIndex' holds nan, expected finite"),
    "crowd index negative": (image(crowdIndex=-0.1), "image 2:", "'crowdIndex' is -0.1, expected at least 0"),
    "joints of COCO": (lambda value: value["annotations"][1].update(keypoints=[0] * 51), "annotation 11:", "has 51 numbers, expected 42"),
    "names swapped": (joint_names(lambda names: names.reverse()), "", "the category's keypoints are ['neck', 'head'"),
    "a name too few": (joint_names(lambda names: names.pop()), "", "expected those of crowdpose_14: ['left_shoulder'"),
    "names no text": (joint_names(lambda names: names.__setitem__(0, ["head"])), "", "the category's keypoints are [['head']"),
    "no box": (lambda value: value["annotations"][1].pop("bbox"), "annotation 11:", "the key 'bbox' is missing"),
    "box negative": (lambda value: value["annotations"][1].update(bbox=[1, 1, -2, 3]), "annotation 11:", "the box has a negative size"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_record_is_named(tmp_path: Path, case: str) -> None:
    change, place, problem = BAD[case]
    value = copy.deepcopy(crowdpose_value(0))
    change(value)
    write_json(tmp_path / "bad.json", value)
    with pytest.raises(FarposeError) as caught:
        read(tmp_path, "bad.json")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'bad.json'}: {place}") and problem in message and "\n" not in message


def test_files_of_another_data_set_are_refused_either_way(tmp_path: Path) -> None:
    write_json(tmp_path / "coco.json", random_coco(0))
    write_json(tmp_path / "crowdpose.json", crowdpose_value(0))
    with pytest.raises(FarposeError, match=r"expected those of crowdpose_14.*name the data set whose joints these are"):
        read(tmp_path, "coco.json")
    with pytest.raises(FarposeError, match="expected those of coco_17"):
        read_file(tmp_path, "crowdpose.json", "images")


def crowdpose_data(root: Path) -> DataParams:
    splits = {}
    for i, split in enumerate(("train", "val")):
        value = crowdpose_value(i, 1 + 1000 * i)
        write_json(root / "annotations" / f"crowdpose_{split}.json", value)
        write_images(root / "images", value, seed=i)
        splits[split] = SplitFiles(f"annotations/crowdpose_{split}.json", "images")
    return DataParams("crowdpose", {"crowdpose": source(splits, "crowdpose")})


def test_fetched_and_validated_as_any_other(tmp_path: Path) -> None:
    params = crowdpose_data(tmp_path / "data")
    summary = fetch(params, tmp_path / "data", tmp_path / "persons", None)
    assert not validate(tmp_path / "persons", tmp_path / "data", params, tmp_path / "out").failed
    persons = Persons.read(tmp_path / "persons" / "persons.parquet")
    assert persons.skeleton is CROWDPOSE_14 and persons.frame["crowd_index"].between(0, 3.02).all()
    # Persons of whom only head and neck are labelled: kept as ignored in val, as published; left out of train, and masked.
    val = persons.split("val")
    assert val.frame["num_keypoints"].iloc[0] == 0 and (val.keypoints[0, :, 2] > 0).sum() == 2
    assert len(val.labelled()) == len(val) - 1 == summary.splits["val"].labelled
    assert summary.splits["train"].removed["too few labelled joints"] == 1 == summary.splits["train"].ignored


def test_a_count_that_contradicts_the_flags_fails_the_validation(tmp_path: Path) -> None:
    params = crowdpose_data(tmp_path / "data")
    path = tmp_path / "data" / "annotations" / "crowdpose_val.json"
    value = json.loads(path.read_text())
    value["annotations"][1]["num_keypoints"] += 2  # as if head and neck counted
    write_json(path, value)
    fetch(params, tmp_path / "data", tmp_path / "persons", None)
    with pytest.raises(FarposeError, match=r"num_keypoints is the number of labelled joints.*annotation 10011 .*num_keypoints_error = 2"):
        validate(tmp_path / "persons", tmp_path / "data", params, tmp_path / "out")


def test_only_crowdpose_leaves_joints_uncounted() -> None:
    uncounted = {name: [joint for joint in skeleton.keypoint_names if joint in skeleton.uncounted] for name, skeleton in SKELETONS.items()}
    assert {name: joints for name, joints in uncounted.items() if joints} == {"crowdpose_14": ["head_top", "neck"]}
    assert CROWDPOSE_14.counted_mask.tolist() == [True] * 12 + [False] * 2


def test_acquired_like_other_data_sets(tmp_path: Path) -> None:
    sources = {"crowdpose": crowdpose_data(tmp_path / "source").files}

    def take(folder: str) -> Acquired:
        return acquire("crowdpose", str(tmp_path / "source"), tmp_path / folder, sources, manifests=tmp_path / "manifests", progress=False)

    acquired = take("data")
    assert acquired.files == 14 and "non-commercial" in (tmp_path / "data" / "README.md").read_text()
    for path in (tmp_path / "source" / "annotations").iterdir():
        path.unlink()
    with pytest.raises(FarposeError, match=r"no file annotations/crowdpose_train\.json there"):
        take("more")


def test_committed_parameters_name_the_published_splits() -> None:
    committed = COMMITTED["crowdpose"]
    assert [Path(files.annotations).name for files in committed.splits.values()] == ["crowdpose_trainval.json", "crowdpose_test.json"]


def test_the_real_val_split_passes_the_validation(real_data: Path, tmp_path: Path) -> None:
    params = DataParams("crowdpose", {"crowdpose": source({"val": SplitFiles(REAL_FILES[0], "images")}, "crowdpose")}, images="unchecked")
    summary = fetch(params, real_data, tmp_path / "persons", None).splits["val"]
    assert (summary.persons_read, summary.labelled, summary.ignored, summary.boxes_cut) == (8527, 7074, 1453, 0)
    assert not validate(tmp_path / "persons", real_data, params, tmp_path / "out").failed
    crowding = Persons.read(tmp_path / "persons" / "persons.parquet").frame.drop_duplicates("image_id")["crowd_index"]
    assert len(crowding) == 2000 and [((crowding >= low) & (crowding < high)).sum() for low, high in ((0, 0.2), (0.2, 0.8), (0.8, 9))] == [
        411, 1240, 349,
    ]  # fmt: skip


def test_real_images_pass_the_validation(real_data: Path, tmp_path: Path) -> None:
    params = DataParams("crowdpose", {"crowdpose": source({"val": SplitFiles("annotations/test_crowdpose.json", "images")}, "crowdpose")})
    assert fetch(params, real_data / "crowdpose", tmp_path / "persons", None).splits["val"].labelled == 4
    assert not validate(tmp_path / "persons", real_data / "crowdpose", params, tmp_path / "out").failed
