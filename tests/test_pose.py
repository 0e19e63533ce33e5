"""The vocabulary: skeletons are symmetric, the persons table survives a round trip."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from components.base.errors import FarposeError
from components.pose.persons import SCALAR_COLUMNS, Persons
from components.pose.skeleton import SKELETONS, WHOLEBODY_133, skeleton_of


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
