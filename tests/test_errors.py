"""Errors after Ronchi & Perona: the kinds by a plain loop over joints, the gains by pycocotools, and what is refused."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from components.base.errors import FarposeError
from components.evaluate import error_gains, error_pictures
from components.evaluate import errors as taxonomy
from components.evaluate.errors import BACKGROUND, IGNORED, KINDS, PERSON, REPEAT, classify, corrected
from components.evaluate.params import EvaluateParams
from components.evaluate.predictions import Predictions
from components.evaluate.scoring import Truth
from components.pose.images import write_images
from components.pose.persons import Persons
from components.pose.skeleton import COCO_17, SKELETONS, Skeleton
from pipelines.cli import main
from tests import evaluation_cases as cases
from tests.repositories import REPOSITORY
from tests.test_peers import PERSONS, records, written

PARAMS = EvaluateParams(bootstrap_resamples=40, height_bins_px=(32.0, 96.0))


def truth_of(coco: dict[str, Any]) -> Truth:
    return Truth(cases.persons_of(coco), cases.image_ids_of(coco))


def ks_of(point: np.ndarray, joint: np.ndarray, area: float, sigma: float) -> float:
    if joint[2] == 0:
        return -1.0
    squared = (point[0] - joint[0]) ** 2 + (point[1] - joint[1]) ** 2
    return math.exp(-squared / (2 * area * (2 * sigma) ** 2))


def kind_by_hand(point: np.ndarray, k: int, own: int, others: list[int], persons: Persons) -> str | None:
    """One joint, in the words of the paper."""
    partner, areas, sigma = persons.skeleton.flip_permutation[k], persons.frame["area"], persons.skeleton.sigmas[k]
    joints = persons.keypoints
    if joints[own, k, 2] == 0:
        return None
    itself = ks_of(point, joints[own, k], areas[own], sigma)
    mirrored = ks_of(point, joints[own, partner], areas[own], sigma)
    elsewhere = max((ks_of(point, joints[p, j], areas[p], sigma) for p in others for j in (k, partner)), default=-1.0)
    best = max(itself, mirrored, elsewhere)
    if best < 0.5:
        return "miss"
    if itself == best:
        return "good" if itself > 0.85 else "jitter"
    return "inversion" if mirrored == best else "swap"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("boxes", [True, False], ids=["boxes", "no boxes"])
def test_every_joint_is_what_a_plain_loop_says(seed: int, boxes: bool) -> None:
    truth = truth_of(cases.random_coco(seed, images=15))
    predictions, scores = cases.noisy_predictions(cases.random_coco(seed, images=15), seed, noise=0.15)
    if boxes:
        labelled = truth.persons.labelled()
        rng = np.random.default_rng(seed)
        spread = 0.2 * np.sqrt(labelled.frame["area"].to_numpy())[:, None, None]
        joints = labelled.keypoints[..., :2] + rng.normal(0, 1, (len(labelled), 17, 2)) * spread
        scores = rng.random(len(labelled))
        frame = labelled.frame
        predictions = cases.predictions_of(frame["image_id"].to_numpy(), joints, scores, frame["annotation_id"].to_numpy())
    found = classify(truth, predictions, scores)
    persons, seen = truth.persons, set()
    for row in np.flatnonzero(found.person >= 0).tolist():
        own = int(found.person[row])
        assert persons.frame["image_id"][own] == predictions.image_id[row]
        others = [p for p in np.flatnonzero(persons.frame["image_id"] == predictions.image_id[row]).tolist() if p != own]
        for k in range(17):
            expected = kind_by_hand(predictions.keypoints_image[row, k], k, own, others, persons)
            got = None if found.kind[row, k] < 0 else KINDS[found.kind[row, k]]
            assert got == expected
            seen.add(got)
    assert seen >= {None, "good", "jitter", "miss"}
    if boxes:
        assert (persons.frame["annotation_id"].to_numpy()[found.person] == predictions.annotation_id).all() and not found.not_found.any()


@pytest.mark.parametrize("seed", range(3))
def test_persons_are_taken_best_score_first(seed: int) -> None:
    """By a plain loop: the labelled person of highest OKS that is free, from .1 on; the rest is a repeat, nobody's error, or background."""
    coco = cases.random_coco(seed, images=12)
    truth, (predictions, scores) = truth_of(coco), cases.noisy_predictions(coco, seed, noise=0.2)
    found, persons = classify(truth, predictions, scores), truth.persons
    for image in truth.image_ids.tolist():
        rows = np.flatnonzero(persons.frame["image_id"] == image)
        labelled = [p for p in rows.tolist() if not persons.frame["iscrowd"][p] and persons.frame["num_keypoints"][p] > 0]
        mine = np.flatnonzero(predictions.image_id == image)
        order = mine[np.argsort(-scores[mine], kind="stable")].tolist()
        free = list(labelled)
        for rank, row in enumerate(order):
            if rank >= 20:
                assert found.fate[row] == IGNORED and found.person[row] < 0
                continue
            oks = {p: _oks(predictions, row, persons, p) for p in rows.tolist()}
            best = max(free, key=lambda p: oks[p], default=None)
            if best is not None and oks[best] >= 0.1:
                free.remove(best)
                assert (found.person[row], found.fate[row]) == (best, PERSON) and found.oks[row] == pytest.approx(oks[best])
            elif any(oks[p] >= 0.5 for p in labelled):
                assert found.fate[row] == REPEAT
            else:
                assert found.fate[row] == (IGNORED if any(oks[p] >= 0.5 for p in rows if p not in labelled) else BACKGROUND)
        assert set(np.flatnonzero(found.not_found).tolist()) & set(rows.tolist()) == set(free)


def _oks(predictions: Predictions, row: int, persons: Persons, person: int) -> float:
    from components.evaluate.matching import object_keypoint_similarity

    area, box = persons.frame["area"].to_numpy()[person : person + 1], persons.bbox_xywh[person : person + 1]
    pair = predictions.keypoints_image[row : row + 1], persons.keypoints[person : person + 1]
    return float(object_keypoint_similarity(*pair, area, box, np.asarray(persons.skeleton.sigmas))[0])


@pytest.mark.parametrize("name", ["coco_17", "mpii_16", "crowdpose_14", "wholebody_133"])
def test_each_kind_is_recognised_and_corrected_as_far_as_it_allows(name: str) -> None:
    """Two persons far apart; one joint of the first is moved to where each kind of error puts it."""
    skeleton = SKELETONS[name]
    truth = two_people(skeleton)
    persons, area = truth.persons, float(truth.persons.frame["area"][0])
    k = next(i for i, other in enumerate(skeleton.flip_permutation) if other != i)
    partner, sigma = skeleton.flip_permutation[k], skeleton.sigmas[k]
    at = lambda ks: 2 * sigma * math.sqrt(-2 * area * math.log(ks))  # noqa: E731  px from the joint where KS has this value
    places = {
        "good": persons.keypoints[0, k, :2] + [at(0.9), 0],
        "jitter": persons.keypoints[0, k, :2] + [0, at(0.7)],
        "inversion": persons.keypoints[0, partner, :2] + [at(0.8), 0],
        "swap": persons.keypoints[1, k, :2] + [at(0.6), 0],
        "miss": persons.keypoints[0, k, :2] + [3000.0, 4000.0],
    }
    left_at = {"good": 0.9, "jitter": 0.85, "inversion": 0.8, "swap": 0.6, "miss": 0.5}
    for number, (kind, place) in enumerate(places.items()):
        joints = persons.keypoints[..., :2].copy()
        joints[0, k] = place
        predictions = cases.predictions_of(np.array([1, 1]), joints, np.array([0.9, 0.8]), np.array([1, 2]))
        found = classify(truth, predictions, predictions.box_scores)
        assert KINDS[found.kind[0, k]] == kind and (np.delete(found.kind, k, 1) == 0).all()
        mended = corrected(truth, predictions, found, [number] if kind != "good" else [1, 2, 3, 4])
        offset = mended.keypoints_image[0, k] - persons.keypoints[0, k, :2]
        assert math.exp(-(offset @ offset) / (2 * area * (2 * sigma) ** 2)) == pytest.approx(left_at[kind])
        if kind == "miss":
            np.testing.assert_allclose(offset / np.linalg.norm(offset), [0.6, 0.8])  # in the direction in which it lay
        untouched = np.ones(joints.shape[:2], bool)
        untouched[0, k] = False
        np.testing.assert_array_equal(mended.keypoints_image[untouched], joints[untouched])
        other = np.arange(len(skeleton)) != k
        np.testing.assert_array_equal(corrected(truth, predictions, found, [number], other).keypoints_image, joints)


def two_people(skeleton: Skeleton) -> Truth:
    """Two persons of one image whose joints are all far from each other."""
    count = len(skeleton)
    coco = cases.random_coco(0, images=1)
    names = {"image_id": 1, "category_id": 1, "iscrowd": 0, "num_keypoints": count, "area": 400.0}
    xy = [np.stack([np.arange(count) * 300.0, np.full(count, 5000.0 * p)], 1) for p in range(2)]
    joints = [np.concatenate([points, np.full((count, 1), 2.0)], 1) for points in xy]
    made = [{**names, "id": p + 1, "bbox": [0, 5000.0 * p, 20, 40], "keypoints": joints[p].ravel().tolist()} for p in range(2)]
    persons = cases.persons_of({**coco, "annotations": made}, skeleton)
    return Truth(persons, np.array([1]))


@pytest.mark.parametrize("seed", [1, 2])
def test_gains_are_the_differences_that_pycocotools_sees(seed: int) -> None:
    coco = cases.random_coco(seed, images=20)
    truth, (predictions, scores) = truth_of(coco), cases.noisy_predictions(coco, seed, noise=0.12)
    result, found = error_gains.diagnose(truth, (predictions, scores), PARAMS)
    ap = lambda joints, scores: cases.oracle(coco, cases.records_of(joints, scores), truth.image_ids)["AP"]  # noqa: E731
    before = ap(predictions, scores)
    assert result["AP"] == pytest.approx(before, abs=1e-9)
    gains = {row["kind"]: row for row in result["kinds"]}
    for name, kinds in error_gains.JOINT_KINDS.items():
        after = ap(corrected(truth, predictions, found, kinds), scores)
        assert gains[name]["gain"] == pytest.approx(after - before, abs=1e-9)
        assert gains[name]["gain_low"] <= gains[name]["gain"] + 0.02 and gains[name]["gain_high"] >= gains[name]["gain"] - 0.02
    kept = ~np.isin(found.fate, (BACKGROUND, REPEAT))
    assert gains["background"]["gain"] == pytest.approx(ap(predictions.select(kept), scores[kept]) - before, abs=1e-9)
    assert gains["background"]["gain"] > 0 and gains["all joint errors"]["gain"] > max(
        gains[name]["gain"] for name in error_gains.JOINT_KINDS
    )
    lost = set(truth.persons.frame["annotation_id"][found.not_found])
    fewer = {**coco, "annotations": [a for a in coco["annotations"] if a["id"] not in lost]}
    after = cases.oracle(fewer, cases.records_of(predictions, scores), truth.image_ids)["AP"]
    assert gains["not found"]["gain"] == pytest.approx(after - before, abs=1e-9) and gains["not found"]["errors"] == len(lost) > 0


def test_counts_add_up_over_heights_and_joints() -> None:
    coco = cases.random_coco(5, images=30)
    result, found = error_gains.diagnose(truth_of(coco), cases.noisy_predictions(coco, 5, noise=0.1), PARAMS)
    joints = int((found.kind >= 0).sum())
    assert sum(one["joints"] for one in result["by_height"]) == sum(one["joints"] for one in result["by_joint"]) == joints
    assert sum(one["persons"] for one in result["by_height"]) == result["persons"]
    for one in (*result["by_height"], *result["by_joint"]):
        assert sum(one["share"].values()) == pytest.approx(1)
    assert [one["joint"] for one in result["by_joint"]][:3] == ["nose", "eye", "ear"]
    wrong = sum(one["persons_wrong"]["background"] for one in result["by_height"])
    assert wrong == next(row for row in result["kinds"] if row["kind"] == "background")["errors"]


def test_without_predictions_everybody_is_not_found() -> None:
    coco = cases.random_coco(5, images=10)
    nothing = cases.predictions_of(np.zeros(0), np.zeros((0, 17, 2)), np.zeros(0)), np.zeros(0)
    result, found = error_gains.diagnose(truth_of(coco), nothing, PARAMS)
    assert result["AP"] == 0 and int(found.not_found.sum()) == result["persons"] > 0
    assert {row["kind"]: row["errors"] for row in result["kinds"]}["not found"] == result["persons"]
    assert error_gains.in_words("m", result) == "m: AP 0.0; no correction changes it." and error_gains.table(result)[1]


def test_a_skeleton_without_flip_pairs_is_refused() -> None:
    bare = dataclasses.replace(COCO_17, name="bare", flips=())
    truth = Truth(dataclasses.replace(PERSONS, skeleton=bare), np.unique(PERSONS.frame["image_id"]))
    with pytest.raises(FarposeError, match=r"skeleton bare: the skeleton has no flip pairs.*`flips`"):
        classify(truth, *cases.truth_as_predictions(PERSONS))


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Tables and images of the persons of `test_peers`."""
    frame = PERSONS.frame.assign(area_range_px2=PERSONS.frame["area"])
    dataclasses.replace(PERSONS, frame=frame).write(tmp_path / "persons.parquet")
    first = PERSONS.frame.drop_duplicates("image_id")
    columns = ["image_id", "image_path", "image_width", "image_height", "split", "licence"]
    write_images(tmp_path / "images.parquet", first[columns])
    rng = np.random.default_rng(0)
    for name in first["image_path"]:
        cv2.imwrite(str(tmp_path / name), rng.integers(0, 255, (480, 640, 3), np.uint8))
    return tmp_path


def test_the_command_writes_numbers_plot_and_gallery(tables: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = written(tables / "other.json.gz", records(noise=0.15)), tables / "out"
    arguments = ["errors", str(file), "--data", str(tables), "--images", str(tables), "--output", str(out)]
    assert main(arguments) == 0
    assert "What a perfect correction of one kind of error alone would add: " in capsys.readouterr().out
    result = json.loads((out / "errors.json").read_text())
    assert result["boxes"] == "gt_boxes" and result["split"] == "val" and result["name"] == "other"
    lines = list(csv.DictReader((out / "errors.csv").open()))
    jitter = next(line for line in lines if line["by"] == "all" and line["kind"] == "jitter")
    assert float(jitter["gain"]) == next(row["gain"] for row in result["kinds"] if row["kind"] == "jitter")
    assert cv2.imread(str(out / "errors.png")).shape[1] > 1000 and cv2.imread(str(out / "worst.png")).shape[0] > 300
    assert main([*arguments, "--no-gallery"]) == 0 and not (out / "worst.png").exists()


def test_the_worst_of_a_kind_come_first(tables: Path) -> None:
    predictions, scores = cases.truth_as_predictions(PERSONS)
    rows = np.argsort(-PERSONS.labelled().frame["num_keypoints"].to_numpy(), kind="stable")[:2]
    moved = predictions.keypoints_image.copy()
    moved[rows[0]] += 5000
    moved[rows[1], :6] += 5000
    found = dataclasses.replace(predictions, keypoints_image=moved), scores
    truth = Truth(PERSONS, np.unique(PERSONS.frame["image_id"]))
    grey = lambda image: np.full((480, 640, 3), 128, np.uint8)  # noqa: E731
    pictures = error_pictures.worst(truth, found, classify(truth, *found), grey, 2)
    missed = [one for one in pictures if one.kind == "miss"]
    assert missed[0].caption.split(" ")[0] == str(PERSONS.labelled().frame["num_keypoints"].iloc[rows[0]])
    assert "OKS 0.00" in missed[0].caption and missed[0].picture.shape == (error_pictures.SIDE, error_pictures.SIDE, 3)


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"image_id": 999}, "image 999 is not in the data set"),
        ({"keypoints": [1.0] * 48}, "keypoints needs 51 numbers"),
        ({"person": 10**6}, "person 1000000 is not a labelled person of the split"),
    ],
    ids=["other images", "other joints", "other persons"],
)
def test_a_results_file_of_something_else_leaves_nothing(
    tables: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], problem: str
) -> None:
    content = records()
    content[3] |= change
    file, out = written(tables / "other.json", content), tables / "out"
    assert main(["errors", str(file), "--data", str(tables), "--output", str(out)]) == 1
    told = capsys.readouterr().err
    assert problem in told and "record 3" in told and told.count("\n") == 1 and not out.exists()


def test_missing_images_leave_nothing(tables: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = written(tables / "other.json", records(noise=0.2)), tables / "out"
    assert main(["errors", str(file), "--data", str(tables), "--images", str(tables / "no"), "--output", str(out)]) == 1
    assert capsys.readouterr().err.count("\n") == 1 and not out.exists()
    assert [path.name for path in tables.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("upright", [False, True], ids=["stored", "upright"])
def test_pictures_are_turned_as_the_coordinates_take_them(tables: Path, upright: bool) -> None:
    from PIL import Image

    from pipelines import reporting

    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20] = 255  # white above as stored; turned by 180 degrees for a viewer
    exif = Image.Exif()
    exif[274] = 3
    first = PERSONS.frame.iloc[0]
    Image.fromarray(pixels).save(tables / first["image_path"], exif=exif, quality=95)
    read = reporting.reader(tables, tables, dataclasses.replace(PERSONS, upright=upright))
    shown = read(int(first["image_id"]))
    white = shown[:10].mean() > 200, shown[30:].mean() > 200
    assert white == ((False, True) if upright else (True, False))


def test_a_folder_of_something_else_is_not_replaced(tables: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tables / "mine").mkdir()
    (tables / "mine" / "thesis.txt").write_text("mine")
    file = written(tables / "other.json", records())
    assert main(["errors", str(file), "--data", str(tables), "--no-gallery", "--output", str(tables / "mine")]) == 1
    assert "not a folder that the command made" in capsys.readouterr().err and (tables / "mine" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["nobody", "none.json"])
def test_an_unknown_name_is_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["errors", name]) == 1
    told = capsys.readouterr().err
    assert name in told and told.count("\n") == 1 and not (REPOSITORY / "scratch" / name).exists()


def test_kinds_and_fates_are_numbered_as_named() -> None:
    numbers = taxonomy.GOOD, taxonomy.JITTER, taxonomy.INVERSION, taxonomy.SWAP, taxonomy.MISS
    assert [KINDS[number] for number in numbers] == ["good", "jitter", "inversion", "swap", "miss"]
    assert [taxonomy.FATES[number] for number in (PERSON, REPEAT, BACKGROUND, IGNORED)] == ["person", "repeat", "background", "ignored"]
