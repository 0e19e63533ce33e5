"""Ignore regions: run lengths as pycocotools', regions as published for COCO, and one for everybody who is no labelled row."""

from __future__ import annotations

import copy
import dataclasses
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pycocotools import mask as coco_mask

from components.base.errors import FarposeError
from components.datasets.fetch import fetch
from components.datasets.ignored import ignored_regions
from components.datasets.params import DataParams, FilterParams, SplitFiles
from components.pose.ignored import IGNORED_COLUMNS, IgnoredRegions, decode, run_lengths
from components.pose.persons import Persons
from tests.coco_files import random_coco, read_file, source, unlabel, write_dataset, write_json

OFFICIAL = "annotations/coco_person_keypoints_val2017_official_first_fifth.json.gz"
CROWDPOSE = "annotations/crowdpose_val.json.gz"


def random_mask(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Noise, blots or a single value."""
    kind = rng.integers(4)
    if kind < 2:
        return np.full((height, width), kind == 1)
    noise = rng.random((height, width))
    if kind == 2:
        return noise < rng.random()
    blot = np.zeros((height, width), dtype=bool)
    top, left = rng.integers(height), rng.integers(width)
    blot[top : top + 1 + rng.integers(height), left : left + 1 + rng.integers(width)] = True
    return blot


@pytest.mark.parametrize("seed", range(40))
def test_decoding_equals_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(1, 400 if seed % 4 == 0 else 12, 2))
    mask = random_mask(rng, height, width)
    counts = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode()
    assert np.array_equal(decode(counts, height, width), mask)
    assert run_lengths(counts)[1::2].sum() == mask.sum()


@pytest.mark.parametrize("text", ["", "P", "0P", "~", "!", "\u00e9", "o" * 20 + "0", "5", "61", "N", "0003N"])
def test_texts_that_are_no_mask_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no text of compressed|do not fill 3 x 2 px"):
        decode(text, 2, 3)


def frame(*rows: tuple[Any, ...]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(IGNORED_COLUMNS)).astype(IGNORED_COLUMNS)


def counts_of(mask: np.ndarray) -> str:
    return str(coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode())


def test_masks_are_unions_by_image_and_survive_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    a, b, c = rng.random((9, 14)) < 0.2, rng.random((9, 14)) < 0.2, rng.random((5, 3)) < 0.5
    rows = [(7, 1, "train", "x", 9, 14, counts_of(a)), (8, 2, "val", "y", 5, 3, counts_of(c)), (7, 3, "train", "z", 9, 14, counts_of(b))]
    written = IgnoredRegions(frame(*rows))
    written.write(tmp_path / "ignored.parquet")
    for regions in (written, IgnoredRegions.read(tmp_path / "ignored.parquet")):
        assert len(regions) == 3 and regions.frame.equals(written.frame)
        assert np.array_equal(regions.mask(7), a | b) and np.array_equal(regions.mask(8), c) and regions.mask(9) is None
        assert len(regions.split("train")) == 2 and regions.split("train").mask(8) is None and len(regions.split("test")) == 0
    IgnoredRegions(frame()).write(tmp_path / "none.parquet")
    assert len(IgnoredRegions.read(tmp_path / "none.parquet")) == 0


def test_damaged_files_and_regions_are_named(tmp_path: Path) -> None:
    with pytest.raises(FarposeError, match=r"ignored\.parquet: ignore regions not found .*run the fetch stage first"):
        IgnoredRegions.read(tmp_path / "ignored.parquet")
    (tmp_path / "ignored.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(FarposeError, match=r"ignored\.parquet: not a table of ignore regions"):
        IgnoredRegions.read(tmp_path / "ignored.parquet")
    with pytest.raises(FarposeError, match=r"annotation 5: its run lengths do not fill 4 x 4 px"):
        IgnoredRegions(frame((1, 5, "val", "x", 4, 4, "5"))).mask(1)


def regions_of(tmp_path: Path, segmentation: Any, box: list[float], width: int = 30, height: int = 20) -> IgnoredRegions:
    """The region of one unlabelled person."""
    value = random_coco(0)
    value["images"] = [{**value["images"][0], "width": width, "height": height}]
    person = {**value["annotations"][0], "bbox": box, "segmentation": segmentation}
    unlabel(person)
    write_json(tmp_path / "one.json", {**value, "annotations": [person]})
    read = read_file(tmp_path, "one.json", "x")
    return ignored_regions(read.persons, read.records, np.array(["no labelled joint"], dtype=object))


def box_mask(box: list[float], width: int = 30, height: int = 20) -> np.ndarray:
    """Pixels (x, y), which reach from x to x + 1 and y to y + 1, that the box touches."""
    mask = np.zeros((height, width), dtype=bool)
    left, top, w, h = box
    for y in range(height):
        for x in range(width):
            mask[y, x] = min(left + w, x + 1) > max(left, x) and min(top + h, y + 1) > max(top, y)
    return mask


BOXES = [
    [2, 3, 4, 5],
    [2.5, 3.2, 4.4, 5.1],
    [-3, -2.5, 8, 9],
    [25.1, 15, 30, 30],
    [0, 0, 30, 20],
    [40, 3, 5, 5],
    [3, 3, 0, 8],
    [-9, 2, 5, 5],
]


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("segmentation", [None, [], {}, [[]]])
def test_without_a_segmentation_the_pixels_of_the_box_are_ignored(tmp_path: Path, box: list[float], segmentation: Any) -> None:
    assert np.array_equal(regions_of(tmp_path, segmentation, box).mask(1), box_mask(box))


MASK = np.random.default_rng(1).random((20, 30)) < 0.4
POLYGONS = [[2.0, 3.0, 20.5, 4.0, 11, 17.25], [22, 2, 28, 2, 28, 9, 22, 9]]


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    return {"size": list(mask.shape), "counts": run_lengths(counts_of(mask)).tolist()}


def test_segmentations_equal_pycocotools(tmp_path: Path) -> None:
    box = [1.0, 1, 2, 2]
    assert np.array_equal(regions_of(tmp_path, uncompressed(MASK), box).mask(1), MASK)
    assert np.array_equal(regions_of(tmp_path, {"size": [20, 30], "counts": counts_of(MASK)}, box).mask(1), MASK)
    drawn = coco_mask.decode(coco_mask.frPyObjects(POLYGONS, 20, 30)).any(axis=2)
    assert drawn.any() and np.array_equal(regions_of(tmp_path, POLYGONS, box).mask(1), drawn)
    assert np.array_equal(regions_of(tmp_path, [[], *POLYGONS], box).mask(1), drawn)


BAD_SEGMENTATIONS: dict[str, tuple[Any, str]] = {
    "number": (3, "'segmentation' is neither a list of polygons nor run lengths"),
    "flat polygon": ([1, 2, 3, 4, 5, 6], "'segmentation' is neither a list of polygons nor run lengths"),
    "two points": ([[1, 2, 3, 4]], "a polygon of 4 numbers, expected x and y of at least 3 points"),
    "half a point": ([[1, 2, 3, 4, 5, 6, 7]], "a polygon of 7 numbers"),
    "text": ([[1, 2, 3, 4, 5, "6"]], "values that are not numbers below 1e+06 px"),
    "not finite": ([[1, 2, 3, 4, 5, float("nan")]], "values that are not numbers"),
    "far away": ([[1, 2, 3, 4, 5, 1e12]], "values that are not numbers"),
    "other size": ({"size": [40, 60], "counts": [2400]}, "of size [40, 60] (height, width), its image of [20, 30]"),
    "sides swapped": ({"size": [30, 20], "counts": [600]}, "of size [30, 20] (height, width), its image of [20, 30]"),
    "no size": ({"counts": [600]}, "of size None"),
    "too short": ({"size": [20, 30], "counts": [599]}, "run lengths of 'segmentation' do not fill 30 x 20 px"),
    "negative": ({"size": [20, 30], "counts": [601, -1]}, "do not fill 30 x 20 px"),
    "no whole pixels": ({"size": [20, 30], "counts": [600.0]}, "do not fill 30 x 20 px"),
    "compressed too short": ({"size": [20, 30], "counts": "5"}, "its run lengths do not fill 30 x 20 px"),
    "compressed nonsense": ({"size": [20, 30], "counts": "\x07\x07"}, "it is no text of compressed run lengths"),
    "no counts": ({"size": [20, 30]}, "has no run lengths"),
}


@pytest.mark.parametrize("case", BAD_SEGMENTATIONS)
def test_bad_segmentations_are_named(tmp_path: Path, case: str) -> None:
    segmentation, problem = BAD_SEGMENTATIONS[case]
    with pytest.raises(FarposeError) as caught:
        regions_of(tmp_path, segmentation, [1.0, 1, 2, 2])
    assert str(caught.value).startswith(f"{tmp_path / 'one.json'}: annotation 10: ") and problem in str(caught.value)


def test_bad_segmentations_of_learned_persons_do_not_matter(tmp_path: Path) -> None:
    train = random_coco(0)
    train["annotations"][0]["segmentation"] = {"size": [1, 1], "counts": [1]}
    params = write_dataset(tmp_path / "data", train, random_coco(1, 1000))
    assert fetch(params, tmp_path / "data", tmp_path / "out", None).splits["train"].ignored == 0


def mixed(seed: int, first_id: int) -> dict[str, Any]:
    """Persons of every fate, in turn."""
    value = random_coco(seed, first_id, num_images=16)
    fates: list[Callable[[dict[str, Any]], None]] = [
        lambda person: None,
        lambda person: unlabel(person),
        lambda person: unlabel(person, iscrowd=1),
        lambda person: person.update(bbox=[4.0, 4.0, 0.0, 9.0]),
        lambda person: person.update(bbox=[300.0, 4.0, 9.0, 9.0]),
        lambda person: person.update(bbox=[3.0, 4.0, 5.0, 5.0]),
    ]
    for i, person in enumerate(value["annotations"]):
        fates[i % len(fates)](person)
    return value


@pytest.mark.parametrize("images", ["required", "drop_missing"])
@pytest.mark.parametrize("filters", [FilterParams(), FilterParams(min_keypoints=0), FilterParams(min_box_side_px=6.0)])
def test_everybody_is_a_labelled_row_or_an_ignore_region(tmp_path: Path, filters: FilterParams, images: Any) -> None:
    values = {"train": mixed(0, 1), "val": mixed(1, 1000)}
    params = dataclasses.replace(write_dataset(tmp_path / "data", **values), filters=filters, images=images)
    lost = values["train"]["images"][0]["id"] if images == "drop_missing" else None
    if lost is not None:
        (tmp_path / "data" / "train" / f"{lost:06d}.png").unlink()
    summary = fetch(params, tmp_path / "data", tmp_path / "out", None)
    labelled = set(Persons.read(tmp_path / "out" / "persons.parquet").labelled().frame["annotation_id"])
    regions = IgnoredRegions.read(tmp_path / "out" / "ignored.parquet")
    assert regions.frame["annotation_id"].is_unique
    for split, value in values.items():
        people = {person["id"]: person for person in value["annotations"] if person["image_id"] != lost}
        ignored = regions.split(split).frame
        assert {*ignored["annotation_id"]} == people.keys() - labelled and summary.splits[split].ignored == len(ignored) > 0
        sizes = {image["id"]: (image["height"], image["width"]) for image in value["images"]}
        for row in ignored.itertuples():
            person = people[row.annotation_id]
            assert row.image_id == person["image_id"] and (row.height, row.width) == sizes[row.image_id]
            if person["iscrowd"]:
                assert row.reason == "crowd region"
            elif person["num_keypoints"] == 0:
                assert row.reason == "no labelled joint"
            else:
                width, height = person["bbox"][2:]
                outside = "box outside its image" if person["bbox"][0] == 300 else "box too small"
                assert row.reason == ("box without area" if 0 in (width, height) else outside)
        reasons = set(ignored["reason"])
        assert ("box too small" in reasons) == (split == "train" and filters.min_box_side_px > 5)


def test_a_bad_region_leaves_earlier_output_intact(tmp_path: Path) -> None:
    train = random_coco(0)
    unlabel(train["annotations"][0])
    params = write_dataset(tmp_path / "data", train, random_coco(1, 1000))
    fetch(params, tmp_path / "data", tmp_path / "out", None)
    before = (tmp_path / "out" / "ignored.parquet").read_bytes()
    broken = copy.deepcopy(train)
    broken["annotations"][0]["segmentation"] = {"size": [1, 1], "counts": [1]}
    write_json(tmp_path / "data" / "annotations" / "train.json", broken)
    with pytest.raises(FarposeError, match=r"train\.json: annotation 10: 'segmentation' is of size \[1, 1\]"):
        fetch(params, tmp_path / "data", tmp_path / "out", None)
    assert (tmp_path / "out" / "ignored.parquet").read_bytes() == before


def test_masks_of_coco_are_the_published_ones(real_data: Path, tmp_path: Path) -> None:
    """HigherHRNet ignores crowd regions and persons without labelled joints, by their segmentations."""
    params = DataParams("coco", {"coco": source({"train": SplitFiles(OFFICIAL, "x")})}, images="unchecked")
    fetch(params, real_data, tmp_path / "out", None)
    regions = IgnoredRegions.read(tmp_path / "out" / "ignored.parquet")
    value = json.loads(gzip.decompress((real_data / OFFICIAL).read_bytes()))
    sizes = {image["id"]: (image["height"], image["width"]) for image in value["images"]}
    published: dict[int, np.ndarray] = {}
    for person in value["annotations"]:
        if person["num_keypoints"] == 0:
            size = sizes[person["image_id"]]
            encoded = coco_mask.frPyObjects(person["segmentation"], *size)
            shape = coco_mask.decode(encoded).reshape(*size, -1).any(axis=2)
            published[person["image_id"]] = published.get(person["image_id"], False) | shape
    assert len(published) > 200 and set(regions.frame["image_id"]) == published.keys()
    assert all(np.array_equal(regions.mask(image_id), mask) for image_id, mask in published.items())


def test_crowdpose_ignores_boxes(real_data: Path, tmp_path: Path) -> None:
    params = DataParams("crowdpose", {"crowdpose": source({"val": SplitFiles(CROWDPOSE, "images")}, "crowdpose")}, images="unchecked")
    assert fetch(params, real_data, tmp_path / "out", None).splits["val"].ignored == 1453
    regions = IgnoredRegions.read(tmp_path / "out" / "ignored.parquet")
    assert regions.frame["reason"].value_counts().to_dict() == {"no labelled joint": 1347, "crowd region": 106}
    assert all(regions.mask(image_id).any() for image_id in regions.frame["image_id"].unique())
