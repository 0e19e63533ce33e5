"""The fetch stage: filters counted exactly, ignore regions kept for evaluation, bad input leaves earlier output alone."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.base.config import PARAMS, load_yaml, parse
from components.base.errors import FarposeError
from components.datasets.fetch import FetchSummary, fetch, in_dev
from components.datasets.manifest import digest_tree, save_manifest
from components.datasets.params import DataParams, FilterParams, SplitFiles, SplitShares
from components.datasets.synthetic.params import SyntheticParams
from components.pose.ignored import IgnoredRegions
from components.pose.images import IMAGE_COLUMNS, read_images
from components.pose.persons import Persons
from tests.coco_files import digests, random_coco, source, unlabel, write_dataset, write_json


def spoilt(seed: int, first_id: int) -> dict[str, Any]:
    """Random persons, some of whom each filter takes."""
    value = random_coco(seed, first_id, num_images=12)
    rng = np.random.default_rng(seed)
    sizes = {image["id"]: (image["width"], image["height"]) for image in value["images"]}
    for annotation in value["annotations"]:
        width, height = sizes[annotation["image_id"]]
        fate = rng.integers(8)
        if fate == 0:
            annotation["bbox"] = [4.0, 4.0, 0.0, 9.0]
        elif fate == 1:
            annotation["bbox"] = [width + 3.0, 4.0, 9.0, 9.0]
        elif fate == 2:
            unlabel(annotation, iscrowd=int(rng.integers(2)))
        elif fate == 3:
            annotation["bbox"] = [width - 5.5, height - 20.0, 30.0, 40.0]
        elif fate == 4:
            annotation["bbox"] = [-3.0, -2.0, 8.0, 7.0]
    value["annotations"][0]["bbox"] = [1.0, 1.0, 30.0, 30.0]
    return value


def expected_fate(annotation: dict[str, Any], image: dict[str, Any], filters: FilterParams, train: bool) -> str:
    """An independent statement of the filters, person by person."""
    x, y, w, h = annotation["bbox"]
    inside_w = min(x + w, image["width"]) - max(x, 0)
    inside_h = min(y + h, image["height"]) - max(y, 0)
    if w == 0 or h == 0:
        return "box without area"
    if inside_w <= 0 or inside_h <= 0:
        return "box outside its image"
    if train and annotation["num_keypoints"] < filters.min_keypoints:
        return "too few labelled joints"
    if train and min(inside_w, inside_h) < filters.min_box_side_px:
        return "box too small"
    return "kept"


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("filters", [FilterParams(), FilterParams(min_keypoints=9, min_box_side_px=6.0), FilterParams(min_keypoints=0)])
def test_filters_remove_and_count_exactly(tmp_path: Path, seed: int, filters: FilterParams) -> None:
    values = {"train": spoilt(seed, 1), "val": spoilt(seed + 100, 1000)}
    params = dataclasses.replace(write_dataset(tmp_path / "data", **values), filters=filters)
    summary = fetch(params, tmp_path / "data", tmp_path / "out", None)
    persons = Persons.read(tmp_path / "out" / "persons.parquet")
    for split, value in values.items():
        images = {image["id"]: image for image in value["images"]}
        fates = {a["id"]: expected_fate(a, images[a["image_id"]], filters, split == "train") for a in value["annotations"]}
        removed = summary.splits[split].removed
        assert {reason: count for reason, count in removed.items() if count} == {
            fate: list(fates.values()).count(fate) for fate in fates.values() if fate != "kept"
        }
        kept = persons.split(split)
        assert list(kept.frame["annotation_id"]) == [annotation_id for annotation_id, fate in fates.items() if fate == "kept"]
        assert summary.splits[split].labelled == len(kept.labelled())
    read = summary.splits["train"]
    assert read.persons_read == read.persons + sum(read.removed.values())


@pytest.mark.parametrize("seed", range(3))
def test_boxes_are_cut_to_their_images_and_others_stay_exact(tmp_path: Path, seed: int) -> None:
    value = spoilt(seed, 1)
    params = write_dataset(tmp_path / "data", value, random_coco(seed, 1000))
    summary = fetch(params, tmp_path / "data", tmp_path / "out", None)
    persons = Persons.read(tmp_path / "out" / "persons.parquet").split("train")
    original = {annotation["id"]: annotation["bbox"] for annotation in value["annotations"]}
    cut = 0
    for row, box in zip(persons.frame.itertuples(), persons.bbox_xywh, strict=True):
        x, y, w, h = original[row.annotation_id]
        if x >= 0 and y >= 0 and x + w <= row.image_width and y + h <= row.image_height:
            assert box.tolist() == [x, y, w, h]
        else:
            cut += 1
            left, top = max(x, 0), max(y, 0)
            right, bottom = min(x + w, row.image_width), min(y + h, row.image_height)
            assert box == pytest.approx([left, top, right - left, bottom - top])
    assert summary.splits["train"].boxes_cut == cut > 0


def test_evaluation_split_keeps_what_coco_ignores(tmp_path: Path) -> None:
    val = random_coco(1, 1000)
    unlabel(val["annotations"][0], iscrowd=1)
    unlabel(val["annotations"][1])
    summary = fetch(write_dataset(tmp_path / "data", random_coco(0), val), tmp_path / "data", tmp_path / "out", None)
    assert summary.splits["val"].persons == len(val["annotations"]) == summary.splits["val"].labelled + 2
    assert Persons.read(tmp_path / "out" / "persons.parquet").split("val").frame["iscrowd"].sum() == 1


def test_images_table_lists_every_image_once(tmp_path: Path) -> None:
    train, val = random_coco(0), random_coco(1, 1000)
    train["images"].append(dict(train["images"][0]))
    summary = fetch(write_dataset(tmp_path / "data", train, val), tmp_path / "data", tmp_path / "out", None)
    images = read_images(tmp_path / "out" / "images.parquet")
    assert list(images["image_id"]) == [*range(1, 7), *range(1000, 1006)]
    assert images.dtypes.astype(str).to_dict() == IMAGE_COLUMNS and set(images["licence"]) == {"Attribution License"}
    assert summary.splits["train"].images_repeated == 1


def test_missing_images_are_dropped_with_their_persons_on_request(tmp_path: Path) -> None:
    train = random_coco(3)
    params = dataclasses.replace(write_dataset(tmp_path / "data", train, random_coco(1, 1000)), images="drop_missing")
    lost = train["annotations"][-1]["image_id"]
    (tmp_path / "data" / "train" / f"{lost:06d}.png").unlink()
    summary = fetch(params, tmp_path / "data", tmp_path / "out", None).splits["train"]
    assert summary.images_dropped == 1
    assert summary.removed["image file missing"] == sum(a["image_id"] == lost for a in train["annotations"])
    assert lost not in set(Persons.read(tmp_path / "out" / "persons.parquet").frame["image_id"])
    assert lost not in set(read_images(tmp_path / "out" / "images.parquet")["image_id"])


def test_summary_is_json_and_its_table_names_every_count(tmp_path: Path) -> None:
    params = write_dataset(tmp_path / "data", spoilt(0, 1), spoilt(1, 1000))
    summary = fetch(params, tmp_path / "data", tmp_path / "out", None)
    assert json.loads(json.dumps(summary.metrics()))["splits"]["val"]["removed"] == summary.splits["val"].removed
    lines = {line[:34].strip(): line[34:].split() for line in summary.table().splitlines()}
    for reason, count in summary.splits["train"].removed.items():
        assert lines[f"removed: {reason}"] == [str(-count), str(-summary.splits["val"].removed[reason])]
    assert lines["persons kept"] == [str(s.persons) for s in summary.splits.values()]


# --- the development split


def by_hand(source: str, image_id: int) -> float:
    """Where an image lies between 0 and 1, stated in another way: the first 16 hexadecimal digits of `sha256sum`."""
    return int(hashlib.sha256(f"{source}/{image_id}".encode()).hexdigest()[:16], 16) / 16**16


@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
def test_the_share_is_kept_and_decided_by_source_and_image_id_alone(share: float) -> None:
    image_ids = np.random.default_rng(0).permutation(np.arange(1, 20_001))
    chosen = in_dev("coco", image_ids, share)
    assert abs(chosen.mean() - share) < 4 * (share * (1 - share) / len(image_ids)) ** 0.5, "four standard errors"
    assert [by_hand("coco", image_id) < share for image_id in image_ids[:500].tolist()] == chosen[:500].tolist()
    some = np.sort(image_ids[:100])
    assert set(some[in_dev("coco", some, share)]) == set(image_ids[chosen]) & set(some), "order and other images do not matter"
    assert abs((chosen & in_dev("other", image_ids, share)).mean() - share**2) < 0.02, "another source draws anew"
    assert not (in_dev("coco", image_ids, share / 2) & ~chosen).any(), "a larger share keeps the images of a smaller one"


def fetched(tmp_path: Path, name: str, train: dict[str, Any], share: float, **changes: Any) -> tuple[FetchSummary, Path]:
    params = write_dataset(tmp_path / name, train, spoilt(1, 1000))
    params = dataclasses.replace(params, splits=SplitShares(dev=share), **changes)
    return fetch(params, tmp_path / name, tmp_path / f"{name}_out", None), tmp_path / f"{name}_out"


def test_development_images_move_with_their_persons_and_regions(tmp_path: Path) -> None:
    train = spoilt(2, 1)
    train["images"].append(dict(train["images"][0]))
    train["annotations"].append({"id": 9999, "image_id": 2, "category_id": 62, "bbox": [1, 2, 3, 4]})
    whole, whole_out = fetched(tmp_path, "whole", copy.deepcopy(train), 0.0)
    parted, parted_out = fetched(tmp_path, "parted", train, 0.4)
    assert list(whole.splits) == ["train", "val"] and list(parted.splits) == ["train", "dev", "val"]
    assert parted.splits["val"] == whole.splits["val"]
    for field in ("persons_read", "images", "images_repeated", "other_categories", "ignored"):
        halves = getattr(parted.splits["train"], field) + getattr(parted.splits["dev"], field)
        # Of a person whom a training filter removes, dev keeps the row; its region is ignored in either case unless it is labelled.
        assert halves == getattr(whole.splits["train"], field), field
    chosen = {image["id"] for image in train["images"] if by_hand("coco", image["id"]) < 0.4}
    for table in (read_images(parted_out / "images.parquet"), Persons.read(parted_out / "persons.parquet").frame):
        assert set(table[table["split"] == "dev"]["image_id"]) <= chosen
        assert not set(table[table["split"] == "train"]["image_id"]) & chosen
    images = read_images(parted_out / "images.parquet")
    assert set(images[images["split"] == "dev"]["image_id"]) == chosen and images["image_id"].is_unique
    regions = IgnoredRegions.read(parted_out / "ignored.parquet").frame
    assert set(regions[regions["split"] == "dev"]["image_id"]) <= chosen and (regions["split"] == "dev").any()
    before, after = (Persons.read(out / "persons.parquet").split("val").frame for out in (whole_out, parted_out))
    assert before.equals(after)


def test_training_filters_leave_development_persons(tmp_path: Path) -> None:
    train = random_coco(0, num_images=20)
    for person in train["annotations"][::3]:
        unlabel(person)
    summary, out = fetched(tmp_path, "data", train, 0.5)
    dev = {image["id"] for image in train["images"] if by_hand("coco", image["id"]) < 0.5}
    unlabelled = [person["image_id"] in dev for person in train["annotations"][::3]]
    assert summary.splits["dev"].persons - summary.splits["dev"].labelled == sum(unlabelled) > 0
    assert summary.splits["dev"].removed["too few labelled joints"] == 0
    assert summary.splits["train"].removed["too few labelled joints"] == len(unlabelled) - sum(unlabelled) > 0
    assert (Persons.read(out / "persons.parquet").split("train").frame["num_keypoints"] > 0).all()


def test_images_stay_in_their_split_when_others_are_added(tmp_path: Path) -> None:
    few, more = random_coco(0, num_images=10), random_coco(0, num_images=30)
    tables = [read_images(fetched(tmp_path, name, value, 0.3)[1] / "images.parquet") for name, value in (("few", few), ("more", more))]
    splits = [table.set_index("image_id")["split"].to_dict() for table in tables]
    assert len(splits[1]) == len(splits[0]) + 20 and splits[0].items() <= splits[1].items()


def test_a_share_without_labelled_persons_on_one_side_is_named(tmp_path: Path) -> None:
    smallest = min(by_hand("coco", image_id) for image_id in range(1, 7))
    largest = max(by_hand("coco", image_id) for image_id in range(1, 7))
    named = r"change data\.splits\.dev \(now 0\.\d+ of the training images; 0: no such split\)"
    for share, split in ((smallest * 0.99, "dev"), (min(largest * 1.01, 0.9999), "train")):
        with pytest.raises(FarposeError, match=rf"train\.json: no labelled person is left in split '{split}' .*{named}"):
            fetched(tmp_path, split, random_coco(0), share)
    with pytest.raises(ValueError, match="dev is 1, expected a share"):
        SplitShares(dev=1.0)
    with pytest.raises(ValueError, match=r"has files of a split 'dev': set splits\.dev to 0"):
        DataParams("coco", {"coco": source({"dev": SplitFiles("a.json", "a")})}, splits=SplitShares(dev=0.1))


def unlabel_training(root: Path) -> None:
    path = root / "annotations" / "train.json"
    value = json.loads(path.read_text())
    for annotation in value["annotations"]:
        unlabel(annotation)
    write_json(path, value)


BAD_INPUT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "malformed JSON": (lambda root: (root / "annotations" / "val.json").write_text('{"images": ['), r"val\.json: not valid JSON"),
    "missing image": (
        lambda root: (root / "val" / "001002.png").unlink(),
        r"val/001002\.png: image file not found \(image 1002; 1 of 6 in split 'val'",
    ),
    "no person left": (unlabel_training, r"train\.json: no labelled person is left in split 'train' of \d+ read \(\d+ too few"),
    "no annotation file": (lambda root: (root / "annotations" / "train.json").unlink(), r"train\.json: annotation file not found"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_leaves_earlier_output_intact(tmp_path: Path, case: str) -> None:
    spoil, message = BAD_INPUT[case]
    params = write_dataset(tmp_path / "data", random_coco(0), random_coco(1, 1000))
    fetch(params, tmp_path / "data", tmp_path / "out", None)
    before = digests(tmp_path / "out")
    spoil(tmp_path / "data")
    with pytest.raises(FarposeError, match=message):
        fetch(params, tmp_path / "data", tmp_path / "out", None)
    assert digests(tmp_path / "out") == before and sorted(p.name for p in tmp_path.iterdir()) == ["data", "out"]


EDITS: dict[str, Callable[[Path], Any]] = {
    "changed annotations/train.json": lambda root: (root / "annotations/train.json").write_text("{}"),
    "changed val/001002.png": lambda root: (root / "val/001002.png").write_bytes(b"another picture"),
    "missing val/001002.png": lambda root: (root / "val/001002.png").unlink(),
    "unexpected val/new.png": lambda root: (root / "val/new.png").write_bytes(b"one more"),
}  # fmt: skip


@pytest.mark.parametrize("difference", EDITS)
def test_data_edited_behind_the_manifest_are_refused(tmp_path: Path, difference: str) -> None:
    manifest = tmp_path / "coco.sha256"
    params = write_dataset(tmp_path / "data", random_coco(0), random_coco(1, 1000))
    save_manifest(digest_tree(tmp_path / "data"), manifest)
    fetch(params, tmp_path / "data", tmp_path / "out", manifest)
    before = digests(tmp_path / "out")
    EDITS[difference](tmp_path / "data")
    with pytest.raises(FarposeError, match=difference):
        fetch(params, tmp_path / "data", tmp_path / "out", manifest)
    assert digests(tmp_path / "out") == before


def test_real_pack(real_data: Path, tmp_path: Path) -> None:
    committed = parse(DataParams, load_yaml(PARAMS / "data.yaml")["data"], "params/data.yaml: data")
    summary = fetch(dataclasses.replace(committed, source="coco"), real_data / "coco", tmp_path / "out", None)
    labelled = {split: counts.labelled for split, counts in summary.splits.items()}
    assert (labelled["train"] + labelled["dev"], labelled["val"]) == (5308, 1354)
    share = summary.splits["dev"].images / (summary.splits["train"].images + summary.splits["dev"].images)
    assert abs(share - committed.splits.dev) < 3 * (0.05 * 0.95 / 2000) ** 0.5, "three standard errors"
    assert summary.splits["val"].persons - 1354 == 561 + 43


def test_committed_parameters_are_complete() -> None:
    value = load_yaml(PARAMS / "data.yaml")
    assert set(value) == {"data", "synthetic"}
    assert parse(DataParams, value["data"], "data").source == "synthetic"
    assert parse(SyntheticParams, value["synthetic"], "synthetic") == SyntheticParams()


def test_unknown_source_is_named() -> None:
    value = {**load_yaml(PARAMS / "data.yaml")["data"], "source": "coca"}
    with pytest.raises(FarposeError, match=r"unknown source 'coca' \(did you mean 'coco'"):
        parse(DataParams, value, "data")
