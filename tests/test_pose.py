"""The vocabulary: skeletons are symmetric, the persons table survives a round trip."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from components.base.config import parse
from components.base.errors import FarposeError
from components.models import zoo
from components.models.variant import Variant
from components.pose.persons import SCALAR_COLUMNS, Persons
from components.pose.skeleton import COCO_17, CROWDPOSE_14, SKELETONS, WHOLEBODY_133, Skeleton
from components.pose.sources import skeleton_of


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=lambda skeleton: skeleton.name)
def test_skeletons_are_consistent(skeleton):
    count = len(skeleton)
    assert len(set(skeleton.keypoint_names)) == count == len(skeleton.sigmas)
    permutation = np.array(skeleton.flip_permutation)
    assert (permutation[permutation] == np.arange(count)).all(), "mirroring twice is the identity"
    sigmas = np.array(skeleton.sigmas)
    if skeleton is not WHOLEBODY_133:  # whose published ones differ between the sides
        assert (sigmas[permutation] == sigmas).all(), "a joint and its mirror image are equally precise"
    limbs = {frozenset(limb) for limb in skeleton.limb_indices}
    assert {frozenset(permutation[list(limb)].tolist()) for limb in limbs} == limbs, "the drawing is symmetric"
    assert {joint for limb in limbs for joint in limb} == set(range(count)), "every joint is drawn"
    upper = skeleton.upper_body_mask
    assert (upper[permutation] == upper).all() and 0 < upper.sum() < count


def test_coco_constants_equal_those_of_pycocotools():
    from pycocotools.cocoeval import Params

    np.testing.assert_allclose(skeleton_of("coco").sigmas, Params(iouType="keypoints").kpt_oks_sigmas, rtol=1e-15)


def test_an_unknown_data_set_is_named():
    with pytest.raises(FarposeError, match=r"unknown data set 'coko' \(did you mean 'coco'"):
        skeleton_of("coko")


NINE = {
    "name": "horse_9",
    "keypoint_names": ["muzzle", "withers", "near_knee", "far_knee", "near_hoof", "far_hoof", "croup", "left_ear", "right_ear"],
    "sigmas": [0.03, 0.06, 0.05, 0.05, 0.05, 0.05, 0.08, 0.03, 0.03],
    "limbs": [["muzzle", "withers"], ["withers", "croup"]],
    "flips": [["near_knee", "far_knee"], ["near_hoof", "far_hoof"]],
}


def test_a_spelled_out_skeleton_flips_as_it_says():
    skeleton = Skeleton.of(NINE)
    assert skeleton.flip_permutation == (0, 1, 3, 2, 5, 4, 6, 7, 8), "left_ear and right_ear are not in its pairs"
    assert Skeleton.of({**NINE, "flips": None}).flip_permutation == (0, 1, 2, 3, 4, 5, 6, 8, 7), "without pairs, left_ and right_ are"
    assert Skeleton.of(json.loads(json.dumps(skeleton.plain()))) == skeleton


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=lambda skeleton: skeleton.name)
def test_a_known_skeleton_is_itself_again(skeleton):
    assert Skeleton.of(json.loads(json.dumps(skeleton.plain()))) is Skeleton.of(skeleton.name) is skeleton


BAD = {
    "no sigmas": ({"sigmas": ...}, "the skeleton has no sigmas: OKS needs them, and they are never guessed .give one per joint"),
    "a sigma too few": ({"sigmas": [0.1] * 8}, "sigmas must be 9 positive numbers"),
    "a sigma of zero": ({"sigmas": [0.1] * 8 + [0.0]}, "sigmas must be 9 positive numbers"),
    "a joint twice": ({"keypoint_names": ["muzzle"] * 9}, "keypoint_names must be different names"),
    "limb of another joint": ({"limbs": [["muzzle", "tail"]]}, "unknown joint in limbs: 'tail'"),
    "flip of another joint": ({"flips": [["near_knee", "far_kne"]]}, "unknown joint in flips: 'far_kne' .did you mean 'far_knee'"),
    "flip twice": ({"flips": [["near_knee", "far_knee"], ["near_knee", "croup"]]}, "flips must name each joint once"),
    "a pair of three": ({"flips": [["near_knee", "far_knee", "croup"]]}, "expected 2 values, got 3"),
    "half of other joints": ({"upper_body": ["tail"]}, "unknown joint in upper_body: 'tail'"),
    "another key": ({"sigma": 1}, "unknown parameter 'sigma' .did you mean 'sigmas'"),
    "no names": ({"keypoint_names": ...}, "parameter 'keypoint_names' is missing"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_skeleton_is_named(case):
    changes, message = BAD[case]
    plain = {key: value for key, value in {**NINE, **changes}.items() if value is not ...}
    with pytest.raises(FarposeError, match=rf"here(\.flips\[0\])?: {message}"):
        Skeleton.of(plain, "here")


def test_the_joints_of_an_entry_are_read_again_when_the_file_changes(tmp_path):
    path = tmp_path / "data.yaml"
    path.write_text(yaml.safe_dump({"data": {"sources": {"horses": {"skeleton": {k: v for k, v in NINE.items() if k != "name"}}}}}))
    assert skeleton_of("horses", path).name == "horses_9" and skeleton_of("horses", path).sigmas == tuple(NINE["sigmas"])
    path.write_text(yaml.safe_dump({"data": {"sources": {"horses": {"skeleton": "crowdpose_14"}, "none": {}}}}))
    os.utime(path, ns=(1, 1))
    assert skeleton_of("horses", path) is CROWDPOSE_14
    with pytest.raises(FarposeError, match=r"data\.yaml: data\.sources\.none: parameter 'skeleton' is missing"):
        skeleton_of("none", path)


def test_a_variant_takes_its_joints_from_its_data_sets_entry_or_brings_them(tmp_path):
    made = zoo.variant("hrnet_tiny_synthetic_64x48")
    assert made.skeleton is COCO_17
    own = dataclasses.replace(made, joints=Skeleton.of(NINE))
    stored = json.loads(json.dumps(dataclasses.asdict(own)))
    again = parse(Variant, stored, "variant.yaml")
    assert again.skeleton == Skeleton.of(NINE) and again.num_keypoints == 9
    with torch.no_grad():
        assert zoo.build(again).model(torch.zeros(1, 3, 64, 48))[0].shape[1] == 9


def random_persons(count: int, skeleton, seed: int = 0) -> Persons:
    rng = np.random.default_rng(seed)
    fill = {"int64": lambda: rng.integers(0, 99, count), "float64": lambda: rng.normal(size=count), "bool": lambda: rng.random(count) < 0.3}
    columns = {name: fill[kind]() if kind in fill else [f"{name}{i}" for i in range(count)] for name, kind in SCALAR_COLUMNS.items()}
    frame = pd.DataFrame(columns).astype(SCALAR_COLUMNS)
    frame["split"] = np.where(np.arange(count) % 3 == 0, "val", "train")
    frame.loc[0, "head_size"] = np.nan
    return Persons(frame, rng.normal(size=(count, 4)), rng.normal(size=(count, len(skeleton), 3)), skeleton)


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=lambda skeleton: skeleton.name)
@pytest.mark.parametrize("count", [1, 7])
def test_persons_table_round_trip(tmp_path, skeleton, count):
    persons = random_persons(count, skeleton)
    persons.write(tmp_path / "persons.parquet")
    back = Persons.read(tmp_path / "persons.parquet")
    assert back.skeleton is skeleton
    own = dataclasses.replace(skeleton, name="another", sigmas=(0.5,) * len(skeleton))
    dataclasses.replace(persons, skeleton=own).write(tmp_path / "persons.parquet")
    assert Persons.read(tmp_path / "persons.parquet").skeleton == own
    assert np.array_equal(back.bbox_xywh, persons.bbox_xywh) and np.array_equal(back.keypoints, persons.keypoints)
    pd.testing.assert_frame_equal(back.frame, persons.frame[list(SCALAR_COLUMNS)], check_dtype=False)


def test_selection_keeps_rows_together():
    persons = random_persons(9, SKELETONS["coco_17"])
    validation = persons.split("val")
    rows = np.flatnonzero(persons.frame["split"] == "val")
    assert np.array_equal(validation.keypoints, persons.keypoints[rows]) and len(validation) == 3
    kept = persons.labelled().frame
    assert (kept["num_keypoints"] > 0).all() and not kept["iscrowd"].any()
    with pytest.raises(FarposeError, match="unknown split 'vla'"):
        persons.split("vla")


def test_a_file_that_is_no_persons_table_is_named(tmp_path):
    path = tmp_path / "persons.parquet"
    with pytest.raises(FarposeError, match=r"not found.*run the fetch stage"):
        Persons.read(path)
    path.write_bytes(b"PAR1 but not really")
    with pytest.raises(FarposeError, match=r"persons\.parquet: not a persons table"):
        Persons.read(path)
