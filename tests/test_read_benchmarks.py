"""The readers of MPII, LSP and COCO-WholeBody: random files of each form, by independent means, and what is wrong in them named."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from components.base.errors import FarposeError
from components.datasets.fetch import fetch
from components.datasets.image_size import image_size
from components.datasets.params import DataParams, SplitFiles, SplitShares
from components.datasets.reader import AnnotationFile
from components.datasets.validate import validate
from components.pose.crop import BOX_PADDING
from components.pose.persons import Persons
from components.pose.skeleton import MPII_16
from tests import benchmark_files as files
from tests.coco_files import COMMITTED, read_file

# --- MPII


def mpii(root: Path, persons: list[dict[str, Any]], name: str = "valid.json") -> AnnotationFile:
    (root / "annot").mkdir(parents=True, exist_ok=True)
    (root / "annot" / name).write_text(json.dumps(persons))
    return read_file(root, f"annot/{name}", "images", "mpii")


def test_mpii_json_is_read_as_simplebaseline_reads_it(tmp_path: Path) -> None:
    persons = files.mpii_persons(0)
    files.write_images(tmp_path / "images", {p["image"] for p in persons}, (90, 120))
    found = mpii(tmp_path, persons).persons
    assert found.skeleton is MPII_16 and len(found) == len(persons)
    for row, person in enumerate(persons):
        seen = np.array(person["joints_vis"], bool)
        assert found.keypoints[row, :, :2] == pytest.approx(np.where(seen[:, None], np.array(person["joints"]) - 1, 0))
        assert (found.keypoints[row, :, 2] == 2 * seen).all()
        # lib/dataset/mpii.py: centre down by 15 and scale up by 1.25, then pixels from 0; the crop is 200 scale px wide
        left, top, width, height = found.bbox_xywh[row]
        center = np.array(person["center"]) + [0, 15 * person["scale"]] - 1
        assert [left + width / 2, top + height / 2] == pytest.approx(center)
        assert [width * BOX_PADDING, height * BOX_PADDING] == pytest.approx([200 * 1.25 * person["scale"]] * 2)
        frame = found.frame.iloc[row]
        assert frame["image_id"] == int(person["image"][:-4]) and frame["image_path"] == f"images/{person['image']}"
        assert (frame["image_width"], frame["image_height"]) == (120, 90) and frame["num_keypoints"] == seen.sum()
    assert found.frame["annotation_id"].is_unique


def test_mpii_ids_do_not_depend_on_the_order_of_images(tmp_path: Path) -> None:
    persons = files.mpii_persons(1)
    first = mpii(tmp_path, persons).persons.frame.sort_values("annotation_id")
    second = mpii(tmp_path, persons[4:] + persons[:4]).persons.frame.sort_values("annotation_id")
    assert first[["annotation_id", "head_size"]].equals(second[["annotation_id", "head_size"]].set_axis(first.index))


def test_heads_of_mpii(tmp_path: Path) -> None:
    """From the joints, from the boxes of gt_valid.mat, and as stated: the later ones decide."""
    persons = files.mpii_persons(2)
    sizes = mpii(tmp_path, persons).persons.frame["head_size"].to_numpy()
    for size, person in zip(sizes, persons, strict=True):
        both = person["joints_vis"][8] and person["joints_vis"][9]
        expected = 0.75 * math.dist(person["joints"][8], person["joints"][9]) if both else math.nan
        assert size == pytest.approx(expected, nan_ok=True)
    assert np.isnan(sizes).any() and np.isfinite(sizes).any()
    corners = np.random.default_rng(0).uniform(0, 50, (2, 2, len(persons)))
    corners[1] += 60
    files.write_head_boxes(tmp_path / "annot" / "gt_valid.mat", corners)
    persons[3]["headsize"] = 17.5
    sizes = mpii(tmp_path, persons).persons.frame["head_size"].to_numpy()
    expected = [0.6 * math.dist(corners[0, :, i], corners[1, :, i]) for i in range(len(persons))]
    assert sizes == pytest.approx([*expected[:3], 17.5, *expected[4:]])


def test_the_rule_of_heads_holds_on_real_persons(real_data: Path) -> None:
    """0.75 of head top to neck is 0.6 of the head box's diagonal, but for the rounding of the file's joints."""
    found = read_file(real_data / "annotations", "mpii_valid_2958.json.gz", "images", "mpii").persons
    both = (found.keypoints[:, [8, 9], 2] > 0).all(1)
    between = np.linalg.norm(found.keypoints[both, 8, :2] - found.keypoints[both, 9, :2], axis=1)
    error = found.frame["head_size"].to_numpy()[both] - 0.75 * between
    assert both.sum() == 2887 and np.median(np.abs(error)) < 0.5 and np.percentile(np.abs(error), 99) < 1.5


def test_hourglass_records_are_already_enlarged(tmp_path: Path) -> None:
    persons = files.mpii_persons(3)
    enlarged = [
        {
            **p, "visible": [0] * 16, "scale": 1.25 * p["scale"], "center": [p["center"][0], p["center"][1] + 15 * p["scale"]],
        }
        for p in persons
    ]  # fmt: skip
    plain, found = mpii(tmp_path, persons).persons, mpii(tmp_path, enlarged).persons
    assert found.bbox_xywh == pytest.approx(plain.bbox_xywh) and (found.keypoints[..., 2] * 2 == plain.keypoints[..., 2]).all()


@pytest.mark.parametrize("split", ["train", "val"])
def test_mpii_release(tmp_path: Path, split: str) -> None:
    """The same persons from the release's file and from JSON; test images and images of other splits are left out."""
    persons = files.mpii_persons(4)
    names = sorted({p["image"] for p in persons})
    files.write_release(tmp_path / "release.mat", persons, dict(zip(names, [True, False, True, True], strict=True)))
    if split == "val":
        (tmp_path / "val_images.txt").write_text(f"{names[3]}\n{names[1]}\n")
    found = read_file(tmp_path, "release.mat", "images", "mpii", split).persons
    kept = [
        {**p, "headsize": 0.6 * math.hypot(10, 20)}
        for p in persons
        if p["image"] in ([names[3]] if split == "val" else names[:1] + names[2:])
    ]
    expected = mpii(tmp_path, kept).persons
    assert found.keypoints == pytest.approx(expected.keypoints) and found.bbox_xywh == pytest.approx(expected.bbox_xywh)
    assert found.frame["head_size"].to_numpy() == pytest.approx(expected.frame["head_size"].to_numpy())


def test_the_release_has_no_validation_split(tmp_path: Path) -> None:
    files.write_release(tmp_path / "release.mat", files.mpii_persons(4), {"000000001.jpg": True})
    with pytest.raises(FarposeError, match=r"release has no split 'val' .*val_images\.txt"):
        read_file(tmp_path, "release.mat", "images", "mpii", "val")


MPII_MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "joints": ({"joints": [[1, 2]] * 15}, "'joints' has not the form of 16 joints, each x, y"),
    "one joint": ({"joints": [[1, 2]] * 15 + [[1, 2, 3]]}, "'joints' has not the form of 16 joints"),
    "no number": ({"joints": [[1, 2]] * 15 + [[1, "2"]]}, "'joints' holds \"2\", expected numbers"),
    "flag": ({"joints_vis": [1] * 15 + [2]}, "'joints_vis' holds 2, expected 0 or 1"),
    "scale": ({"scale": 0.0}, "'scale' is 0, expected more than 0"),
    "head": ({"headsize": 0.0}, "'headsize' is 0 px, expected more than 0"),
    "name": ({"image": "photo.jpg"}, r"the image's name 'photo.jpg' has no number"),
    "same number": ({"image": "1.jpg"}, "the images '000000001.jpg' and '1.jpg' have the same number"),
    "outside": ({"image": "../9.jpg"}, "expected a path inside images"),
}


@pytest.mark.parametrize("mistake", MPII_MISTAKES)
def test_a_wrong_mpii_record_is_named(tmp_path: Path, mistake: str) -> None:
    persons = files.mpii_persons(5)
    change, message = MPII_MISTAKES[mistake]
    persons[3] |= change
    with pytest.raises(FarposeError, match=f"valid.json: (person number 3|image 9).*{message}"):
        mpii(tmp_path, persons)


def test_wrong_mpii_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FarposeError, match="expected a JSON list of persons"):
        mpii(tmp_path, {"images": []})  # type: ignore[arg-type]
    files.write_head_boxes(tmp_path / "annot" / "gt_valid.mat", np.ones((2, 2, 3)))
    with pytest.raises(FarposeError, match=r"gt_valid.mat: 'headboxes_src' has the shape \(2, 2, 3\), expected \(2, 2, 8\)"):
        mpii(tmp_path, files.mpii_persons(5))
    for name, content, message in (
        ("valid.h5", b"\x89HDF\r\n\x1a\n", "not an HDF5 file of MPII"),
        ("new.mat", b"MATLAB 7.3 MAT-file", "version 7.3 .HDF5., which is not read .*save -v7"),
        ("bad.mat", b"nothing of the kind" * 20, "not a Matlab file"),
    ):
        (tmp_path / "annot" / name).write_bytes(content)
        with pytest.raises(FarposeError, match=message):
            read_file(tmp_path, f"annot/{name}", "images", "mpii", "train")
    savemat(tmp_path / "annot" / "other.mat", {"x": 1})
    with pytest.raises(FarposeError, match="variable 'RELEASE' is missing"):
        read_file(tmp_path, "annot/other.mat", "images", "mpii", "train")


# --- LSP


def test_lsp_and_its_extended_set(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    extended = np.concatenate([rng.uniform(5, 90, (14, 2, 7)), (rng.random((14, 1, 7)) < 0.7).astype(float)], 1)
    extended[0, 2] = 1
    savemat(tmp_path / "joints.mat", {"joints": extended})
    changes = {"skeleton": "lsp_14"}
    found = read_file(tmp_path, "joints.mat", "images", "lspet", "train", **changes).persons
    for i in range(7):
        seen = extended[:, 2, i] == 1
        assert found.keypoints[i, seen, :2] == pytest.approx(extended[seen, :2, i] - 1)
        assert (found.keypoints[i, :, 2] == 2 * seen).all()
        low, high = extended[seen, :2, i].min(0) - 1, extended[seen, :2, i].max(0) - 1
        side = np.maximum(high - low, 1)
        assert found.bbox_xywh[i] == pytest.approx([*(low - 0.15 * side), *(1.3 * side)])
    assert found.frame["image_path"].tolist() == [f"images/im{i:05d}.jpg" for i in range(1, 8)]
    with pytest.raises(FarposeError, match="training data alone, it has no split 'val'"):
        read_file(tmp_path, "joints.mat", "images", "lspet", "val", **changes)
    savemat(tmp_path / "lsp.mat", {"joints": rng.uniform(5, 90, (3, 14, 1003)) * [[[1]], [[1]], [[0]]]})
    train, test = (read_file(tmp_path, "lsp.mat", "images", "lspet", split, **changes).persons for split in ("train", "val"))
    assert (len(train), len(test)) == (1000, 3) and test.frame["image_path"].iloc[0] == "images/im1001.jpg"
    assert (test.frame["num_keypoints"] == 14).all()


@pytest.mark.parametrize(
    ("joints", "message"),
    [
        (np.ones((14, 2, 3)), r"'joints' has the shape \(14, 2, 3\)"),
        (np.where(np.arange(3)[:, None] == 1, np.nan, 1) * np.ones((14, 3, 2)), "person im00001.jpg: a joint is not finite"),
        (np.ones((14, 3, 2)) * [[1], [1], [0]], "person im00001.jpg: no joint is labelled"),
    ],
    ids=["shape", "nan", "nobody"],
)
def test_wrong_lsp_files_are_named(tmp_path: Path, joints: np.ndarray, message: str) -> None:
    savemat(tmp_path / "joints.mat", {"joints": joints})
    with pytest.raises(FarposeError, match=message):
        read_file(tmp_path, "joints.mat", "images", "lspet", "train", skeleton="lsp_14")


def test_lspet_in_coco_form(real_data: Path) -> None:
    content = json.loads((real_data / "lspet" / "annotations" / "lspet_val_crowdpose14.json").read_text())
    found = read_file(real_data / "lspet", "annotations/lspet_val_crowdpose14.json", "images", "lspet").persons
    joints = np.array([a["keypoints"] for a in content["annotations"]]).reshape(-1, 14, 3)
    assert (found.keypoints == joints).all() and (found.keypoints[..., 2] > 0).sum() == 6304


# --- COCO-WholeBody


def wholebody(root: Path, value: dict[str, Any], **changes: Any) -> AnnotationFile:
    (root / "wholebody.json").write_text(json.dumps(value))
    return read_file(root, "wholebody.json", "val2017", "wholebody", **changes)


def test_wholebody_joins_its_parts(tmp_path: Path) -> None:
    value = files.wholebody(0)
    found = wholebody(tmp_path, value).persons
    for row, person in enumerate(value["annotations"]):
        keys = ("keypoints", "foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts")
        joints = np.concatenate([np.array(person[key]).reshape(-1, 3) for key in keys])
        assert found.keypoints[row, :, :2] == pytest.approx(joints[:, :2])
        assert ((found.keypoints[row, :, 2] > 0) == (joints[:, 2] > 0)).all() and set(found.keypoints[row, :, 2]) <= {0, 1, 2}
        assert found.frame["num_keypoints"][row] == (joints[:, 2] > 0).sum() > person["num_keypoints"]
    fractions = [v for p in value["annotations"] for v in p["lefthand_kpts"][2::3] if 0 < v < 1]
    assert fractions


WHOLEBODY_MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"face_kpts": None}, "'face_kpts' is null, expected a list"),
    "short": ({"foot_kpts": [0] * 15}, "'foot_kpts' has 15 numbers, expected 18 .6 joints"),
    "flag": ({"lefthand_kpts": [1, 1, -1] * 21}, "a visibility flag is negative"),
    "count": ({"num_keypoints": 99}, "'num_keypoints' is 99, the body has"),
}


@pytest.mark.parametrize("mistake", WHOLEBODY_MISTAKES)
def test_a_wrong_wholebody_record_is_named(tmp_path: Path, mistake: str) -> None:
    value = files.wholebody(1)
    change, message = WHOLEBODY_MISTAKES[mistake]
    value["annotations"][2] |= change
    with pytest.raises(FarposeError, match=f"annotation 12: .*{message}"):
        wholebody(tmp_path, value)


def test_wholebody_needs_its_skeleton(tmp_path: Path) -> None:
    with pytest.raises(
        FarposeError, match=r"format wholebody has the joints of wholebody_133, the entry says coco_17 .*skeleton: wholebody_133"
    ):
        wholebody(tmp_path, files.wholebody(1), skeleton="coco_17")


# --- the whole way to a verdict


def validated(root: Path, out: Path, dataset: str, splits: dict[str, SplitFiles]) -> str:
    entry = replace(COMMITTED[dataset], splits=splits, manifest=None)
    params = DataParams(source=dataset, sources={dataset: entry}, splits=SplitShares())
    fetch(params, root, out / "persons", None)
    return validate(out / "persons", root, params, out / "validation").table()


def test_mpii_is_fetched_uncut_and_valid(tmp_path: Path) -> None:
    """Squares reach beyond the images and stay whole; persons without a known head size are told from damaged ones."""
    files.write_mpii(tmp_path / "mpii", train=6, valid=4)
    splits = {"train": SplitFiles("annot/train.json", "images"), "val": SplitFiles("annot/valid.json", "images")}
    assert "all 41 checks passed" in validated(tmp_path / "mpii", tmp_path, "mpii", splits)
    persons = Persons.read(tmp_path / "persons" / "persons.parquet")
    assert persons.bbox_xywh[:, 2] == pytest.approx(persons.bbox_xywh[:, 3])
    assert ((persons.bbox_xywh[:, :2] + persons.bbox_xywh[:, 2:]) > persons.frame[["image_width", "image_height"]].to_numpy()).any()


def swap_hands(value: dict[str, Any]) -> None:
    for person in value["annotations"]:
        person["lefthand_kpts"], person["righthand_kpts"] = person["righthand_kpts"], person["lefthand_kpts"]


@pytest.mark.parametrize(("change", "verdict"), [(None, "all 42 checks passed"), (swap_hands, "Hands begin at the wrist of their side")])
def test_wholebody_is_valid_unless_hands_are_swapped(tmp_path: Path, change: Callable[[dict[str, Any]], None] | None, verdict: str) -> None:
    root = tmp_path / "wholebody"
    root.mkdir()
    for split, first in (("train", 1), ("val", 50)):
        value = files.wholebody(first, first)
        if change:
            change(value)
        (root / f"{split}.json").write_text(json.dumps(value))
        files.write_images(root / split, {image["file_name"] for image in value["images"]})
    splits = {split: SplitFiles(f"{split}.json", split) for split in ("train", "val")}
    if change is None:
        assert verdict in validated(root, tmp_path, "wholebody", splits)
        return
    with pytest.raises(FarposeError, match=verdict):
        validated(root, tmp_path, "wholebody", splits)
    assert not (tmp_path / "validation").exists()


@pytest.mark.parametrize("extension", [".jpg", ".png", ".bmp"])
@pytest.mark.parametrize("flags", [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]], ids=["plain", "progressive"])
def test_image_sizes_from_headers(tmp_path: Path, extension: str, flags: list[int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (37, 91, 3), np.uint8)
    encoded = cv2.imencode(extension, image, flags if extension == ".jpg" else [])[1].tobytes()
    if extension == ".jpg":  # a comment before the frame, as cameras write their data
        encoded = encoded[:2] + b"\xff\xfe" + (2 + 5000).to_bytes(2, "big") + b"\xff\xc0" * 2500 + encoded[2:]
    (tmp_path / f"a{extension}").write_bytes(encoded)
    assert image_size(tmp_path / f"a{extension}") == (91, 37)


@pytest.mark.parametrize("content", [None, b"", b"\xff\xd8", b"\xff\xd8\xff\xc0\x00", b"\xff\xd8\xff\xda\x00\x00", b"text"])
def test_no_size_without_an_image(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.jpg").write_bytes(content)
    assert image_size(tmp_path / "a.jpg") is None
