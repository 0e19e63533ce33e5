"""The validate stage: good tables pass, each kind of damage is named with its row, earlier output stays."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from components.base.errors import FarposeError
from components.datasets.fetch import fetch, in_dev
from components.datasets.params import DataParams, SplitFiles, SplitShares, Tolerances, ValidationParams
from components.datasets.validate import validate
from components.datasets.validate_images import inspect_images
from components.pose.images import read_images, write_images
from components.pose.persons import Persons
from components.pose.skeleton import COCO_17
from tests.coco_files import COMMITTED, digests, random_coco, source, write_dataset


class Case:
    """A fetched data set in `tmp_path`, ready to be spoilt."""

    def __init__(self, folder: Path) -> None:
        self.data, self.persons_dir, self.out = folder / "data", folder / "persons", folder / "validation"
        self.params: DataParams = write_dataset(self.data, random_coco(0), random_coco(1, 1000))
        fetch(self.params, self.data, self.persons_dir, None)

    def validate(self) -> Any:
        return validate(self.persons_dir, self.data, self.params, self.out)

    def change_persons(self, change: Callable[[Persons], Any]) -> None:
        persons = Persons.read(self.persons_dir / "persons.parquet")
        change(persons)
        persons.write(self.persons_dir / "persons.parquet")

    def change_images(self, change: Callable[[pd.DataFrame], Any]) -> None:
        images = read_images(self.persons_dir / "images.parquet")
        change(images)
        write_images(self.persons_dir / "images.parquet", images)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_good_table_passes_and_says_the_same_twice(case: Case) -> None:
    summary = case.validate()
    assert not summary.failed and "checks passed" in summary.table()
    first = digests(case.out)
    assert first.keys() == {"summary.json", "docs/index.html"}
    case.validate()
    assert digests(case.out) == first
    written = json.loads((case.out / "summary.json").read_text())
    assert written["success"] and written["persons"] == summary.persons and len(written["checks"]) == len(summary.checks)


def joint(persons: Persons, **to: Any) -> None:
    """Give row 1's first labelled joint another value."""
    first = int(np.flatnonzero(persons.keypoints[1, :, 2] > 0)[0])
    persons.keypoints[1, first, ["x", "y", "v"].index(next(iter(to)))] = next(iter(to.values()))


def scalar(column: str, value: Any) -> Callable[[Case], None]:
    return lambda case: case.change_persons(lambda persons: persons.frame.__setitem__(column, with_row(persons.frame[column], value)))


def with_row(column: pd.Series, value: Any) -> pd.Series:
    changed = column.copy()
    changed.iloc[1] = value
    return changed


def box(*values: float) -> Callable[[Case], None]:
    return lambda case: case.change_persons(lambda persons: persons.bbox_xywh.__setitem__(1, values))


def joints(**to: Any) -> Callable[[Case], None]:
    return lambda case: case.change_persons(lambda persons: joint(persons, **to))


def rewrite(name: str, edit: Callable[[bytes], bytes]) -> Callable[[Case], Any]:
    return lambda case: (case.data / name).write_bytes(edit((case.data / name).read_bytes()))


def same_image_id_in_both_splits(case: Case) -> None:
    case.change_images(lambda images: images.__setitem__("image_id", images["image_id"].replace(1002, 3)))


def type_of_image_width(case: Case) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = case.persons_dir / "persons.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index("image_width")
    pq.write_table(table.set_column(place, "image_width", table["image_width"].cast(pa.float64())), path)


ROW = r"annotation 11 in train/000001\.png"
DAMAGE: dict[str, tuple[Callable[[Case], Any], str]] = {
    "id repeated": (scalar("annotation_id", 10), r"Annotation ids are unique: .*annotation 10 in train/000001\.png"),
    "coordinate NaN": (joints(x=np.nan), rf"coordinates.* are finite: .*{ROW}: nonfinite_numbers = 1"),
    "coordinate infinite": (joints(y=np.inf), rf"coordinates.* are finite: .*{ROW}: nonfinite_numbers = 1"),
    "box NaN": (box(np.nan, 0, 20, 20), rf"coordinates.* are finite: .*{ROW}"),
    "area NaN": (scalar("area", np.nan), rf"coordinates.* are finite: .*{ROW}"),
    "area zero": (scalar("area", 0.0), rf"Labelled persons have a positive area: .*{ROW}: smaller_area_px2 = 0"),
    "flag 3": (joints(v=3.0), rf"Visibility flags are 0, 1 or 2: .*{ROW}: unknown_flags = 1"),
    "count wrong": (scalar("num_keypoints", 0), rf"num_keypoints is the number of labelled joints: .*{ROW}: num_keypoints_error = -"),
    "box without area": (box(3, 3, 0, 20), rf"Boxes have an area: .*{ROW}: box_shorter_side_px = 0"),
    "box beyond image": (box(-1, 3, 20, 20), rf"Boxes lie inside their images .*{ROW}: box_beyond_image_px = 1\.0"),
    "joint beyond image": (joints(x=-2.0), rf"joints lie inside their images .*{ROW}: joint_beyond_image_px = 2\.0"),
    "joint far from box": (box(70, 70, 2, 2), rf"joints lie near their boxes .*{ROW}: joint_beyond_box = "),
    "split unknown": (scalar("split", "test"), rf"Splits of persons are train or val: .*{ROW}: split = test"),
    "image not listed": (scalar("image_id", 77), rf"tables agree .*{ROW}: image_entry = not in the images table"),
    "image size differs": (scalar("image_width", 78), rf"tables agree .*{ROW}: image_entry = image_width differs"),
    "type": (type_of_image_width, "image_width is of type int64: not so in"),
    "image gone": (lambda case: (case.data / "val/001003.png").unlink(), r"in full: .*image 1003 in val/001003\.png: file = missing"),
    "image empty": (rewrite("val/001003.png", lambda data: b""), r"val/001003\.png: file = empty"),
    "image cut short": (rewrite("val/001003.png", lambda data: data[:-30]), r"val/001003\.png: file = cut short or damaged"),
    "no image": (rewrite("val/001003.png", lambda data: b"<html>not found</html>"), r"val/001003\.png: file = not an image"),
    "image of other size": (
        rewrite("val/001003.png", lambda data: cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes()),
        r"Images are as large as annotated: .*image 1003 in val/001003\.png: size_error_px = ",
    ),
    "image in two splits by bytes": (
        lambda case: shutil.copy(case.data / "train/000003.png", case.data / "val/001003.png"),
        r"No image is in two splits, by its bytes: .*image 3 in train/000003\.png: same_content_elsewhere = val/001003\.png",
    ),
    "image in two splits by id": (
        same_image_id_in_both_splits,
        r"No image is in two splits, by its id: .*image 3 in train/000003\.png: same_id_elsewhere = val/001002\.png",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_and_earlier_output_stays(case: Case, name: str) -> None:
    damage, message = DAMAGE[name]
    case.out.mkdir()
    (case.out / "summary.json").write_text("earlier")
    damage(case)
    with pytest.raises(FarposeError, match=message) as caught:
        case.validate()
    assert digests(case.out).keys() == {"summary.json"} and (case.out / "summary.json").read_text() == "earlier"
    page = Path(re.search(r"\(read (\S+index\.html)", str(caught.value)).group(1))  # type: ignore[union-attr]
    assert "\n" not in str(caught.value) and page.is_file()
    failed = [check for check in json.loads((page.parents[1] / "summary.json").read_text())["checks"] if not check["success"]]
    assert failed and all(check["check"] in page.read_text() for check in failed)


def test_next_good_run_clears_the_failed_one(case: Case) -> None:
    path = case.data / "val/001003.png"
    good = path.read_bytes()
    path.write_bytes(b"")
    with pytest.raises(FarposeError):
        case.validate()
    path.write_bytes(good)
    case.validate()
    assert not case.out.with_name("validation_failed").exists()


def test_outlying_joints_are_tolerated_up_to_their_share(case: Case) -> None:
    joints(x=-2.0)(case)
    persons = len(Persons.read(case.persons_dir / "persons.parquet"))
    for share, passes in ((1.01 / persons, True), (0.99 / persons, False)):
        case.params = DataParams(source="coco", sources=case.params.sources, validation=ValidationParams(outlying_share=share))
        if passes:
            assert "tolerated: Labelled joints lie inside their images" in case.validate().table()
        else:
            with pytest.raises(FarposeError, match="Labelled joints lie inside their images"):
                case.validate()


def test_page_needs_no_network_and_escapes_what_it_quotes(case: Case) -> None:
    scalar("split", "<script>alert(1)</script>")(case)
    with pytest.raises(FarposeError):
        case.validate()
    page = case.out.with_name("validation_failed").joinpath("docs/index.html").read_text()
    assert "&lt;script&gt;alert(1)" in page
    assert not re.search(r"<script|<iframe|<img|https?:|//\w|@import|url\(", page)
    assert all(target == "data:," for target in re.findall(r"(?:href|src)=\"([^#\"][^\"]*)\"", page))


def test_damaged_tables_are_refused(case: Case) -> None:
    (case.persons_dir / "images.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(FarposeError, match=r"images\.parquet: not an images table"):
        case.validate()
    (case.persons_dir / "persons.parquet").unlink()
    with pytest.raises(FarposeError, match=r"persons\.parquet: persons table not found"):
        case.validate()


ENCODINGS = {
    "jpg": (".jpg", []),
    "progressive.jpg": (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
    "restarts.jpg": (".jpg", [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]),
    "png": (".png", []),
    "webp": (".webp", []),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_truncation_of_an_image_is_found(tmp_path: Path, encoding: str) -> None:
    extension, flags = ENCODINGS[encoding]
    pixels = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8), (0, 0), 2)
    data = cv2.imencode(extension, pixels, flags)[1].tobytes()
    lengths = sorted({*range(16, len(data), 23), *range(len(data) - 30, len(data))})
    for length in [*lengths, len(data)]:
        (tmp_path / f"{length}").write_bytes(data[:length])
    found = inspect_images(tmp_path, [str(length) for length in [*lengths, len(data)]], threads=2)
    assert set(found["file"][:-1]) == {"cut short or damaged"}
    assert found.iloc[-1][["file", "width", "height"]].tolist() == ["whole", 56, 40]


def test_150_thousand_persons_within_60_seconds(real_data: Path, tmp_path: Path) -> None:
    files = SplitFiles("annotations/coco_person_keypoints_train2017_rebuilt.json.gz", "train2017")
    params = DataParams(source="coco", sources={"coco": source({"train": files})}, images="unchecked")
    assert fetch(params, real_data, tmp_path / "persons", None).splits["train"].labelled == 149_813
    start = time.process_time()
    summary = validate(tmp_path / "persons", real_data, params, tmp_path / "out")
    assert time.process_time() - start < 60 and not summary.images_opened


def test_real_pack(real_data: Path, tmp_path: Path) -> None:
    splits = {name: SplitFiles(f"annotations/person_keypoints_{name}2017.json", f"{name}2017") for name in ("train", "val")}
    params = DataParams(source="coco", sources={"coco": source(splits)})
    fetch(params, real_data / "coco", tmp_path / "persons", None)
    summary = validate(tmp_path / "persons", real_data / "coco", params, tmp_path / "out")
    assert (summary.persons, summary.images, summary.failed) == (5308 + 1958, 2457, [])


def test_a_data_set_may_have_its_own_tolerance(case: Case) -> None:
    joints(x=-2.0)(case)
    entry, other = case.params.files, dataclasses.replace(COMMITTED["crowdpose"], tolerances=Tolerances(outlying_share=0.5))
    case.params = DataParams("coco", {"coco": dataclasses.replace(entry, tolerances=Tolerances(outlying_share=0.5))})
    assert "tolerated: Labelled joints lie inside their images" in case.validate().table()
    case.params = DataParams("coco", {"coco": entry, "crowdpose": other})
    with pytest.raises(FarposeError, match="Labelled joints lie inside their images"):
        case.validate()
    with pytest.raises(ValueError, match=r"sources\.coco\.tolerances: outlying_share is 1, expected"):
        DataParams("coco", {"coco": dataclasses.replace(entry, tolerances=Tolerances(outlying_share=1.0))})


def test_persons_with_joints_other_than_the_entrys_are_refused(case: Case) -> None:
    entry = dataclasses.replace(case.params.files, skeleton={**COCO_17.plain(), "uncounted": ["nose"]})
    case.params = DataParams("coco", {"coco": entry})
    with pytest.raises(FarposeError, match=r"persons\.parquet: the persons have the joints coco_17, .*run the fetch stage again"):
        case.validate()


def test_columns_of_other_formats_are_empty(case: Case) -> None:
    scalar("crowd_index", 0.5)(case)
    with pytest.raises(FarposeError, match=r"crowd_index is never given: not so in 1 of"):
        case.validate()


@pytest.mark.parametrize("tolerated", [False, True])
def test_a_photograph_twice_in_training_and_development_is_tolerated_up_to_the_share(tmp_path: Path, tolerated: bool) -> None:
    share = next(share for share in np.linspace(0.05, 0.95, 19) if in_dev("coco", np.array([2, 3]), share).sum() == 1)
    train = random_coco(0, num_images=20)
    train["images"][2] = {**train["images"][1], "id": 3, "file_name": "000003.png"}
    train["annotations"] = [person for person in train["annotations"] if person["image_id"] != 3]
    params = write_dataset(tmp_path / "data", train, random_coco(1, 1000))
    shutil.copy(tmp_path / "data" / "train" / "000002.png", tmp_path / "data" / "train" / "000003.png")
    validation = ValidationParams(outlying_share=0.2 if tolerated else 0.001)
    params = dataclasses.replace(params, splits=SplitShares(dev=float(share)), validation=validation)
    fetch(params, tmp_path / "data", tmp_path / "persons", None)
    check = lambda: validate(tmp_path / "persons", tmp_path / "data", params, tmp_path / "out").table()  # noqa: E731
    if tolerated:
        assert "tolerated: No image is in train and dev, by its bytes: not so in 2 of" in check()
    else:
        with pytest.raises(FarposeError, match=r"1 of [0-9]+ checks failed: No image is in train and dev, by its bytes: not so in 2 of"):
            check()
