"""A COCO-style data set of one's own, with its own joints, category and folders, runs through the whole graph without a line of code."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from components.pose.persons import Persons
from components.pose.skeleton import Skeleton
from tests.repositories import Console, copy_of_this, farpose, git, python

NAME, VARIANT, SHARDS = "farm", "dark_hrnet_tiny_farm_64x48", "direct_64x48"
JOINTS = ["head", "chest", "hand_l", "hand_r", "belt", "knee_l", "knee_r", "boot_l", "boot_r"]
PLACES = np.array([[0.5, 0.1], [0.5, 0.3], [0.15, 0.45], [0.85, 0.4], [0.5, 0.55], [0.35, 0.75], [0.65, 0.75], [0.3, 0.95], [0.7, 0.95]])
SKELETON = {
    "keypoint_names": JOINTS,
    "flips": [["hand_l", "hand_r"], ["knee_l", "knee_r"], ["boot_l", "boot_r"]],
    "limbs": [["head", "chest"], ["chest", "hand_l"], ["chest", "hand_r"], ["chest", "belt"], ["belt", "knee_l"], ["belt", "knee_r"]],
    "upper_body": ["head", "chest", "hand_l", "hand_r"],
    "sigmas": [0.1, 0.06, 0.08, 0.08, 0.1, 0.08, 0.08, 0.09, 0.09],
}
ENTRY = {
    "description": "Drawn farmers, nine joints each.",
    "licence": "CC0 1.0",
    "format": "coco",
    "skeleton": SKELETON,
    "evaluator": "oks",
    "manifest": "params/manifests/farm.sha256",
    "person_category": "Farmers",
    "splits": {
        "train": {"annotations": "labels/learn.json.gz", "images": "photos"},
        "val": {"annotations": "labels/exam.json", "images": "photos/exam"},
    },
}
TRAIN = {  # a few seconds: pictures this plain are learned at once
    "epochs": 40,
    "batch_size": 8,
    "learning_rate": 3e-3,
    "milestones": [0.8],
    "validate_every": 0,
    "augmentation": {"scale_sigma": 0.1, "rotation_sigma": 5.0, "half_body_probability": 0.0},
}
RUN_ALL = """
from pipelines import graph, stages
for stage in graph.load():  # in DVC's order
    name, _, item = stage.name.partition("@")
    stages.run_stage(name, item or None)
"""


def draw(folder: Path, first_id: int, count: int) -> dict[str, Any]:
    """Images of two drawn persons each, the annotations as a tool of one's own may export them, and a horse."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(first_id)
    images, annotations = [], []
    for image_id in range(first_id, first_id + count):
        picture = rng.integers(0, 60, (96, 128, 3), dtype=np.uint8)
        images.append({"id": image_id, "file_name": f"cam_{image_id}.png", "width": 128, "height": 96})
        for left in (6.0, 68.0):
            box = np.array([left + rng.uniform(0, 6), rng.uniform(2, 10), rng.uniform(36, 46), rng.uniform(66, 80)]).round(1)
            points = (box[:2] + PLACES * box[2:]).round(1)
            for joint, point in enumerate(points):
                cv2.circle(picture, tuple(int(n) for n in point.round()), 4, (40 + 24 * joint, 255 - 24 * joint, 128), -1)
            flags = np.where(rng.random(9) < 0.1, 0, 2)
            annotations.append(person(len(annotations) + 1000 * first_id, image_id, box, points, flags))
        annotations.append({"id": 10**6 * first_id + image_id, "image_id": image_id, "category_id": 3, "bbox": [0, 0, 9, 9]})
        cv2.imwrite(str(folder / f"cam_{image_id}.png"), picture)
    categories = [{"id": 3, "name": "Horses"}, {"id": 7, "name": "Farmers", "keypoints": JOINTS}]
    return {"images": images, "annotations": annotations, "categories": categories}


def person(annotation_id: int, image_id: int, box: np.ndarray, points: np.ndarray, flags: np.ndarray) -> dict[str, Any]:
    keypoints = np.column_stack([points * (flags > 0)[:, None], flags]).ravel().tolist()
    area, count = float((box[2] * box[3] * 0.5).round(1)), int((flags > 0).sum())
    identity = {"id": annotation_id, "image_id": image_id, "category_id": 7, "iscrowd": 0}
    return {**identity, "bbox": box.tolist(), "area": area, "num_keypoints": count, "keypoints": keypoints}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which the data set is entered as CONTRIBUTING.md says, acquired and run through every stage."""
    folder, raw = copy_of_this(tmp_path_factory.mktemp("farm") / "repository"), tmp_path_factory.mktemp("raw")
    learn, exam = draw(raw / "photos", 1, 12), draw(raw / "photos" / "exam", 501, 4)
    (raw / "labels").mkdir()
    (raw / "labels" / "learn.json.gz").write_bytes(gzip.compress(json.dumps(learn).encode()))
    (raw / "labels" / "exam.json").write_text(json.dumps(exam))

    params = folder / "params"
    data = yaml.safe_load((params / "data.yaml").read_text())
    data["data"] |= {"source": NAME, "splits": {"dev": 0.3}}
    data["data"]["sources"][NAME] = ENTRY
    (params / "data.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    pipeline = yaml.safe_load((params / "pipeline.yaml").read_text())
    pipeline["variants"] = {VARIANT: {"table": NAME, "shards": SHARDS}}
    (params / "pipeline.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))
    evaluation = yaml.safe_load((params / "evaluate.yaml").read_text())
    evaluation["evaluate"] |= {"bootstrap_resamples": 20, "gallery_size": 1}
    (params / "evaluate.yaml").write_text(yaml.safe_dump(evaluation, sort_keys=False))
    row = {"method": "dark", "backbone": "hrnet_tiny", "dataset": NAME, "input_size": [64, 48], "network": {"branches": 3}, "train": TRAIN}
    (params / "variants" / f"{NAME}.yaml").write_text(yaml.safe_dump({VARIANT: row}))

    for done in (farpose(folder, "params"), farpose(folder, "acquire", NAME, "--from", str(raw)), python(folder, RUN_ALL)):
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def console(repository: Path) -> Iterator[Console]:
    console = Console(repository)
    yield console
    console.close()


def test_no_code_file_is_touched(repository: Path) -> None:
    touched = {line[3:] for line in git(repository, "status", "--porcelain", "--untracked-files=all").splitlines()}
    made = {path for path in touched if path.startswith("results/") or path in ("dvc.lock", "dvc.yaml", "data.dvc")}
    assert touched - made == {
        "params/data.yaml",
        "params/evaluate.yaml",  # by this test alone: fewer resamplings
        "params/pipeline.yaml",
        f"params/variants/{NAME}.yaml",
        f"params/manifests/{NAME}.sha256",  # written by `farpose acquire`
    }
    assert sum(path.endswith(".py") or path.startswith(("components/", "pipelines/")) for path in touched) == 0


def test_the_persons_have_the_entrys_joints_and_splits(repository: Path) -> None:
    persons = Persons.read(repository / "artifacts" / "persons" / "persons.parquet")
    assert persons.skeleton == Skeleton.of(SKELETON, name=f"{NAME}_9")
    assert persons.skeleton.flip_permutation == (0, 1, 3, 2, 4, 6, 5, 8, 7)
    counts = persons.frame["split"].value_counts().to_dict()
    assert counts["train"] + counts["dev"] == 24 and counts["val"] == 8 and counts["dev"] > 0
    assert json.loads((repository / "results" / "pipeline" / "fetch.json").read_text())["splits"]["val"]["other_categories"] == 4


def test_it_is_trained_and_scored_with_its_own_sigmas_as_pycocotools_does(repository: Path) -> None:
    metrics = json.loads((repository / "results" / "pipeline" / "evaluate" / f"{VARIANT}.json").read_text())
    found = json.loads((repository / "artifacts" / "evaluations" / VARIANT / "predictions.json").read_text())
    assert {len(person["keypoints"]) for person in found} == {3 * len(JOINTS)}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(repository / "data" / NAME / "labels" / "exam.json"))
        judge = COCOeval(truth, truth.loadRes([{**person, "category_id": 7} for person in found]), "keypoints")
        judge.params.kpt_oks_sigmas, judge.params.catIds = np.array(SKELETON["sigmas"]), [7]
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    assert metrics["AP_gt_boxes"] == pytest.approx(judge.stats[0], abs=1e-9) and metrics["AP_gt_boxes"] > 0.2
    assert VARIANT in (repository / "results" / "pipeline" / "comparison.json").read_text()


def test_the_registered_model_brings_its_joints(repository: Path) -> None:
    (stored,) = (repository / "mlruns").rglob("variant.yaml")
    assert Skeleton.of(yaml.safe_load(stored.read_text())["joints"]) == Skeleton.of(SKELETON, name=f"{NAME}_9")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"person_category": "farmers"}, "0 categories are named 'farmers', expected one"),
        ({"person_category": 1}, "0 categories have the id 1, expected one"),
        ({"skeleton": "lsp_14"}, "expected those of lsp_14"),
        ({"skeleton": {**SKELETON, "keypoint_names": [*JOINTS[:7], "boot_r", "boot_l"]}}, "joint 8 is 'boot_l', expected 'boot_r'"),
        ({"skeleton": {key: value for key, value in SKELETON.items() if key != "sigmas"}}, "has no sigmas: OKS needs them"),
        ({"evaluator": "pckh"}, "the evaluator 'pckh' needs the column head_size, which the format 'coco' does not give"),
    ],
    ids=["category name", "category id", "known skeleton", "order of joints", "sigmas", "evaluator"],
)
def test_an_entry_that_contradicts_the_files_is_one_line(repository: Path, console: Console, change: dict[str, Any], message: str) -> None:
    path = repository / "params" / "data.yaml"
    before = path.read_text()
    value = yaml.safe_load(before)
    value["data"]["sources"][NAME] |= change
    try:
        path.write_text(yaml.safe_dump(value, sort_keys=False))
        done = console.farpose("stage", "fetch")
    finally:
        path.write_text(before)
    assert done.returncode == 1 and message in done.stderr and done.stderr.strip().count("\n") == 0
