"""Each benchmark's numbers: equal to independent means on random sets, to the authors' own on theirs, and to what the fixtures keep."""

from __future__ import annotations

import gzip
import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.base.errors import FarposeError
from components.evaluate.evaluators import EVALUATORS, evaluator
from components.evaluate.oks import match
from components.evaluate.predictions import Predictions
from components.pose.persons import Persons
from components.pose.skeleton import COCO_17, CROWDPOSE_14, MPII_16, WHOLEBODY_133, Skeleton
from tests import evaluation_cases as cases
from tests import evaluator_cases as scenes

GOLDEN = Path(__file__).parent / "golden" / "evaluators"
FEW = settings(max_examples=12, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
SEEDS, LEVELS = st.integers(0, 10_000), st.sampled_from([None, 4])  # scores all different, or many equal
IMAGES = np.arange(1, 13)


def ranked(name: str, persons: Persons, predictions: Predictions, scores: np.ndarray, image_ids: np.ndarray) -> dict[str, float]:
    return evaluator(name).ranked(match(persons, predictions, scores, image_ids), persons, predictions, scores, image_ids)


@FEW
@given(seed=SEEDS, levels=LEVELS)
def test_crowdpose_equals_pycocotools_on_each_subset(seed: int, levels: int | None) -> None:
    made = scenes.scene(seed, CROWDPOSE_14, levels=levels)
    assert ranked("crowdpose", *made, IMAGES) == pytest.approx(scenes.crowdpose_by_pycocotools(*made, IMAGES), abs=1e-9)


@FEW
@given(seed=SEEDS, levels=LEVELS)
def test_wholebody_equals_pycocotools_on_each_part(seed: int, levels: int | None) -> None:
    made = scenes.scene(seed, WHOLEBODY_133, levels=levels)
    assert ranked("wholebody", *made, IMAGES) == pytest.approx(scenes.wholebody_by_pycocotools(*made, IMAGES), abs=1e-9)


@FEW
@given(seed=SEEDS, skeleton=st.sampled_from([COCO_17, CROWDPOSE_14, MPII_16, WHOLEBODY_133]))
def test_oks_equals_pycocotools_with_any_skeleton(seed: int, skeleton: Skeleton) -> None:
    persons, predictions, scores = scenes.scene(seed, skeleton)
    theirs = cases.oracle(scenes.as_coco(persons, IMAGES), cases.records_of(predictions, scores), IMAGES, skeleton.sigmas)
    assert ranked("oks", persons, predictions, scores, IMAGES) == pytest.approx(theirs, abs=1e-9)


@FEW
@given(seed=SEEDS)
def test_pckh_equals_a_loop_over_joints(seed: int) -> None:
    persons = scenes.scene(seed, MPII_16)[0]
    if not np.isfinite(persons.labelled().frame["head_size"]).any():
        return
    predictions = scenes.own_predictions(seed, persons)
    ours = evaluator("pckh").located(persons, predictions)
    assert {k: v for k, v in ours.items() if k.startswith("PCKh")} == pytest.approx(scenes.pckh_by_hand(persons, predictions), abs=1e-9)


def test_both_area_rules_of_wholebody_differ_only_in_the_ranges() -> None:
    numbers = [ranked("wholebody", *scenes.scene(seed, WHOLEBODY_133, images=40), np.arange(1, 41)) for seed in range(3)]
    assert any(abs(one["AP_M"] - one["AP_M_body_extent"]) > 1e-3 for one in numbers)
    assert all("AP_body_extent" not in one for one in numbers)


# --- the authors' own numbers


@pytest.fixture(scope="module")
def crowd(parity: Path) -> dict[str, Any]:
    """200 annotated images of CrowdPose, detections on them, and what the authors' evaluation says of these."""
    with gzip.open(parity / "codecs" / "crowd_ap.json.gz") as stream:
        return json.load(stream)


@pytest.mark.parametrize("subset", ["subset200", "subset200_dets_shuffled", "easy_images_only"])
def test_crowdpose_equals_the_authors(crowd: dict[str, Any], subset: str) -> None:
    detections, images = list(crowd["dets"]), {i["id"]: i["crowdIndex"] for i in crowd["gt"]["images"]}
    if subset.endswith("shuffled"):
        np.random.default_rng(0).shuffle(detections)
    annotations = [a | {"area": 0.53 * a["bbox"][2] * a["bbox"][3]} for a in crowd["gt"]["annotations"]]
    persons = cases.persons_of(cases.coco_of(crowd["gt"]["images"], annotations), CROWDPOSE_14)
    persons.frame["crowd_index"] = [images[i] for i in persons.frame["image_id"]]
    joints = np.array([d["keypoints"] for d in detections], np.float64).reshape(-1, 14, 3)[..., :2]
    scores = np.array([d["score"] for d in detections])
    predictions = cases.predictions_of(np.array([d["image_id"] for d in detections]), joints, scores)
    image_ids = np.array([i for i, index in images.items() if subset != "easy_images_only" or index < 0.2])
    ours = ranked("crowdpose", persons, predictions, scores, image_ids)
    theirs = dict(zip(crowd["meta"]["stats_names"], crowd["meta"]["results"][subset], strict=True))
    for name, key in {"AP": "AP", "AP50": "AP.5", "AP75": "AP.75", "AR": "AR", "AR50": "AR.5", "AR75": "AR.75"}.items():
        assert ours[name] == pytest.approx(theirs[key], abs=1e-12)
    for name, key in {"AP_easy": "AP_easy(ci<0.2)", "AP_medium": "AP_medium(<0.8)", "AP_hard": "AP_hard"}.items():
        assert round(ours[name], 4) == theirs[key]  # theirs are rounded to four digits
    assert ours["AP_easy"] > 0.5


def mpii(joints: np.ndarray, seen: np.ndarray, head_sizes: np.ndarray) -> Persons:
    """Persons of MPII, one an image: (N, 16, 2) image px, (N, 16) bool, (N,) px."""
    annotations = [
        {
            "id": i, "image_id": i, "bbox": [0, 0, 9, 9], "area": 1.0, "iscrowd": 0, "num_keypoints": int(own.sum()),
            "keypoints": np.c_[joints[i], 2 * own].ravel().tolist(),
        }
        for i, own in enumerate(seen)
    ]  # fmt: skip
    persons = cases.persons_of(cases.coco_of([{"id": i} for i in range(len(seen))], annotations), MPII_16)
    persons.frame["head_size"] = head_sizes
    return persons


def of_each(joints: np.ndarray) -> Predictions:
    numbers = np.arange(len(joints))
    return cases.predictions_of(numbers, joints, np.ones(len(joints)), numbers)


def assert_authors_pckh(file: Any) -> None:
    """PCKh of `official evaluate()`: each joint, the mean and "Mean@0.1"; MPII counts px from 1, predictions from 0."""
    heads = 0.6 * np.linalg.norm(file["headboxes_src"][1] - file["headboxes_src"][0], axis=0)
    persons = mpii(file["pos_gt_src"].transpose(2, 0, 1) - 1, file["jnt_missing"].T == 0, heads)
    ours = evaluator("pckh").located(persons, of_each(np.asarray(file["preds0based"], np.float64)[..., :2]))
    theirs = json.loads(str(file["meta_json"]))["result"]
    for joint in scenes.MPII_GROUPS:
        assert 100 * ours[f"PCKh_50_{joint}"] == pytest.approx(theirs[joint.capitalize()], abs=1e-9)
    assert 100 * ours["PCKh_50"] == pytest.approx(theirs["Mean"], abs=1e-9)
    assert 100 * ours["PCKh_11_legacy"] == pytest.approx(theirs["Mean@0.1"], abs=1e-9)
    assert ours["PCKh_10"] < ours["PCKh_11_legacy"] and ours["PCKh_left_out"] == 0


def test_pckh_equals_the_authors(parity: Path) -> None:
    with np.load(parity / "codecs" / "mpii_pckh.npz") as file:
        assert_authors_pckh(dict(file))


def test_pckh_of_real_predictions(real_data: Path) -> None:
    """The stacked hourglass on MPII's 2,958 validation persons: 88.95 over 16 joints, 88.02 over the 14 of the mean."""
    load = lambda name: json.loads(gzip.decompress((real_data / "annotations" / name).read_bytes()))  # noqa: E731
    rows = load("mpii_valid_2958.json.gz")
    columns = {key: np.array([row[key] for row in rows], np.float64) for key in ("joints", "joints_vis", "headsize")}
    persons = mpii(columns["joints"], columns["joints_vis"] > 0, columns["headsize"])
    found = of_each(np.array(load("mpii_valid_2958_preds_stacked_hourglass.json.gz"), np.float64))
    numbers = evaluator("pckh").located(persons, found)
    assert round(100 * numbers["PCK_head"], 2) == 88.95 and round(100 * numbers["PCKh_50"], 2) == 88.02


@pytest.mark.parametrize("dataset", ["coco_wholebody/annotations/test_coco_wholebody.json"])
def test_wholebody_on_real_annotations(real_data: Path, dataset: str) -> None:
    content = json.loads((real_data / dataset).read_text())
    keys = ("keypoints", "foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts")
    annotations = [a | {"keypoints": [*chain.from_iterable(a[key] for key in keys)]} for a in content["annotations"]]
    for annotation in annotations:
        annotation["num_keypoints"] = sum(flag > 0 for flag in annotation["keypoints"][2::3])
    persons = cases.persons_of(cases.coco_of(content["images"], annotations), WHOLEBODY_133)
    rng, image_ids = np.random.default_rng(0), np.unique([i["id"] for i in content["images"]])
    rows = np.repeat(np.arange(len(persons)), 3)
    spread = np.sqrt(persons.frame["area"].to_numpy()[rows])[:, None, None] * rng.choice([0.0, 0.01, 0.05, 0.2], (len(rows), 1, 1))
    joints = persons.keypoints[rows, :, :2] + spread * rng.normal(0, 1, (len(rows), 133, 2))
    scores = rng.random(len(rows))
    found = cases.predictions_of(persons.frame["image_id"].to_numpy()[rows], joints, scores)
    ours = ranked("wholebody", persons, found, scores, image_ids)
    assert ours == pytest.approx(scenes.wholebody_by_pycocotools(persons, found, scores, image_ids), abs=1e-9)
    assert all(0 < ours[f"AP_{part}"] < 1 for part in scenes.PARTS)


# --- fixtures


@pytest.mark.parametrize("name", ["oks", "crowdpose", "wholebody"])
def test_golden_numbers(name: str) -> None:
    """Numbers that pycocotools gave (`python -m tests.make_evaluator_golden`)."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        values = dict(file)
    skeleton = Skeleton.of(str(values["skeleton"]))
    columns = ("image_id", "bbox", "area", "iscrowd", "num_keypoints", "keypoints")
    rows = zip(*(values["image" if name == "image_id" else name].tolist() for name in columns), strict=True)
    annotations = [{"id": number, **dict(zip(columns, row, strict=True))} for number, row in enumerate(rows, 1)]
    persons = cases.persons_of(cases.coco_of([{"id": int(i)} for i in values["image_ids"]], annotations), skeleton)
    persons.frame["crowd_index"] = values["crowd_index"]
    joints = values["found"].astype(np.float64).reshape(len(values["scores"]), len(skeleton), 2)
    found = cases.predictions_of(values["found_image"], joints, values["scores"])
    expected = json.loads(str(values["numbers"]))
    ours = ranked(name, persons, found, values["scores"].astype(np.float64), values["image_ids"])
    assert ours == pytest.approx(expected, abs=1e-9)
    assert 0.1 < ours["AP"] < 0.9 and len({round(value, 6) for value in ours.values()}) > 5


def test_golden_pckh() -> None:
    """The authors' `evaluate()` on 200 random persons."""
    with np.load(GOLDEN / "pckh.npz") as file:
        assert_authors_pckh(dict(file))


def test_every_evaluator_has_a_small_fixture() -> None:
    files = {path.stem: path.stat().st_size for path in GOLDEN.glob("*.npz")}
    assert files.keys() == EVALUATORS.keys() and max(files.values()) < 100_000


# --- tables that an evaluator cannot judge


def test_unknown_evaluator() -> None:
    with pytest.raises(FarposeError, match=r"unknown evaluator 'pck' .*pckh"):
        evaluator("pck")


@pytest.mark.parametrize("index", [-0.1, np.nan, np.inf])
def test_a_crowd_index_out_of_range_is_named(index: float) -> None:
    persons = scenes.scene(3, CROWDPOSE_14)[0]
    persons.frame.loc[2, "crowd_index"] = index
    with pytest.raises(FarposeError, match=f"crowd index of image {persons.frame['image_id'][2]} is {index:g}, expected a number from 0"):
        evaluator("crowdpose").check(persons)


def test_persons_of_one_image_have_one_crowd_index() -> None:
    persons = scenes.scene(3, CROWDPOSE_14)[0]
    image = persons.frame["image_id"].mode()[0]
    persons.frame.loc[persons.frame.index[persons.frame["image_id"] == image][0], "crowd_index"] += 1
    with pytest.raises(FarposeError, match=f"image {image} has persons of different crowd indices"):
        evaluator("crowdpose").check(persons)


@pytest.mark.parametrize("size", [0.0, -3.0, np.inf])
def test_a_head_without_size_is_named(size: float) -> None:
    persons = scenes.scene(3, MPII_16)[0]
    row = int(np.flatnonzero((persons.frame["num_keypoints"] > 0) & ~persons.frame["iscrowd"])[0])
    persons.frame.loc[row, "head_size"] = size
    with pytest.raises(FarposeError, match=rf"head of annotation {row + 1} \(.*\.jpg\) has the size {size:g} px"):
        evaluator("pckh").check(persons)


def test_pckh_needs_one_head_at_least() -> None:
    persons = scenes.scene(3, MPII_16)[0]
    persons.frame["head_size"] = np.nan
    with pytest.raises(FarposeError, match=r"needs head sizes, none of .* labelled persons has one"):
        evaluator("pckh").check(persons)


def test_wholebody_needs_its_joints() -> None:
    with pytest.raises(FarposeError, match="needs the joints of wholebody_133, the persons have those of coco_17"):
        evaluator("wholebody").check(scenes.scene(3, COCO_17)[0])
