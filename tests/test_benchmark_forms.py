"""The benchmarks from their raw files to their numbers: synthetic people in each form, and the real samples through the whole graph."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from components.approaches import approach
from components.base.files import read_json
from components.datasets.fetch import PERSONS_FILE, fetch
from components.datasets.params import DataParams, SplitShares
from components.datasets.synthetic import SyntheticParams, write_synthetic
from components.datasets.synthetic.forms import ANNOTATE, crowd_index
from components.degrade.params import DegradeParams, ShardSpec
from components.degrade.shard import Source
from components.degrade.stage import degrade
from components.evaluate import stage
from components.evaluate.approach import EvaluationContext, EvaluationData
from components.evaluate.params import EvaluateParams
from components.models import zoo
from components.models.variant import Variant
from components.models.weights import load_weights
from components.pose.images import IMAGES_FILE, read_images
from components.pose.persons import Persons
from components.train import recipe
from components.train.loop import train
from tests.coco_files import COMMITTED
from tests.repositories import REPOSITORY, commit, copy_of_this, farpose, python
from tests.test_contributing_dataset import RUN_ALL

FORMS = [name for name, annotate in ANNOTATE.items() if annotate]
PEOPLE = SyntheticParams(train_images=8, val_images=8, min_height_px=60.0, empty_fraction=0.2)
SIZE = (64, 48)
NUMBERS = {
    "synthetic_crowdpose": {"AP_easy_gt_boxes", "AP_gt_boxes"},
    "synthetic_mpii": {"PCKh_50_gt_boxes", "PCKh_10_gt_boxes", "PCKh_11_legacy_gt_boxes", "PCKh_50_head_gt_boxes", "AP_gt_boxes"},
    "synthetic_wholebody": {f"AP_{part}_gt_boxes" for part in ("body", "foot", "face", "lefthand", "righthand")} | {"AP_gt_boxes"},
}


@pytest.fixture(scope="module", params=FORMS)
def form(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A data set's name, and the folder of its raw files."""
    root = tmp_path_factory.mktemp(request.param) / request.param
    write_synthetic(root, PEOPLE, progress=False, workers=1, annotate=ANNOTATE[request.param])
    return request.param, root


@pytest.fixture(scope="module")
def persons(form: tuple[str, Path]) -> Persons:
    name, root = form
    entry = dataclasses.replace(COMMITTED[name], manifest=None)
    fetch(DataParams(source=name, sources={name: entry}, splits=SplitShares()), root, root.parent / "persons", None)
    return Persons.read(root.parent / "persons" / PERSONS_FILE)


def test_the_images_are_those_of_the_default(form: tuple[str, Path], tmp_path: Path) -> None:
    few = dataclasses.replace(PEOPLE, train_images=1, val_images=1)
    write_synthetic(tmp_path / "default", few, progress=False, workers=1)
    (image,) = (tmp_path / "default" / "train").iterdir()
    assert (form[1] / "train" / image.name).read_bytes() == image.read_bytes()


def test_the_tables_hold_the_figures_own_joints(form: tuple[str, Path], persons: Persons, tmp_path: Path) -> None:
    """Joints of the same name are those of the default's COCO annotations; heads, crowds and squares follow from the figures."""
    write_synthetic(tmp_path / "default", PEOPLE, progress=False, workers=1)
    entry = dataclasses.replace(COMMITTED["synthetic"], manifest=None)
    params = DataParams(source="synthetic", sources={"synthetic": entry}, splits=SplitShares())
    fetch(params, tmp_path / "default", tmp_path / "persons", None)
    default = Persons.read(tmp_path / "persons" / PERSONS_FILE)
    shared = [name for name in default.skeleton.keypoint_names if name in persons.skeleton.keypoint_names]
    ours, theirs = (table.keypoints[:, [table.skeleton.index(name) for name in shared]] for table in (persons, default))
    assert len(shared) >= 12 and len(persons) == len(default) > 20
    assert ours[..., :2] == pytest.approx(theirs[..., :2]) and ((ours[..., 2] > 0) == (theirs[..., 2] > 0)).all()
    if form[0] == "synthetic_mpii":
        top, neck = (persons.keypoints[:, persons.skeleton.index(name)] for name in ("head_top", "upper_neck"))
        both = (top[:, 2] > 0) & (neck[:, 2] > 0)
        between = np.linalg.norm(top - neck, axis=1)[both]
        assert persons.frame["head_size"].to_numpy()[both] == pytest.approx(0.75 * between, abs=0.02) and both.any()
        middles = default.bbox_xywh[:, :2] + default.bbox_xywh[:, 2:] / 2
        assert persons.bbox_xywh[:, :2] + persons.bbox_xywh[:, 2:] / 2 == pytest.approx(middles, abs=1e-3)
        assert persons.bbox_xywh[:, 2] == pytest.approx(default.bbox_xywh[:, 2:].max(1))


def test_crowd_index_by_hand() -> None:
    """Two persons of two joints, one of the second's inside the first's box: (1/2 + 0/2) / 2."""
    boxes, joints = [[0, 0, 10, 10], [8, 0, 10, 10]], [[[1.0, 1, 2], [2, 2, 2]], [[9, 9, 1], [15, 5, 2]]]
    assert crowd_index(boxes, joints) == pytest.approx((1 / 2 + 0) / 2)
    assert crowd_index([], []) == 0 and crowd_index([[0, 0, 1, 1]], [[[5, 5, 2.0]]]) == 0


def test_a_model_learns_and_is_scored_by_the_benchmark(form: tuple[str, Path], persons: Persons) -> None:
    name, root = form
    work = root.parent
    images = read_images(work / "persons" / IMAGES_FILE)
    degrade(Source(persons, root, images), ShardSpec(SIZE), DegradeParams(threads=1), work / "shard", progress=False)
    variant = Variant(f"dark_hrnet_tiny_{name}_64x48", "dark", "hrnet_tiny", name, SIZE, network={"branches": 3})
    short = dataclasses.replace(recipe.load(), epochs=1, batch_size=8, validate_every=0, validate_on="val", num_threads=1)
    train(variant, work / "shard", work / "model", short, "cpu", work / "checkpoints")
    built, judge = zoo.build(variant), approach("crops")
    built.model.load_state_dict(load_weights(work / "model" / "model.safetensors", variant))
    scored = images[images["split"] == "val"]
    data = EvaluationData(judge.inputs(work / "shard", variant), persons.split("val"), scored, root, evaluator=COMMITTED[name].evaluator)
    params = EvaluateParams(bootstrap_resamples=10, gallery_size=1)
    metrics = stage.evaluate(judge, EvaluationContext(built.model, built.codec, data, params, work / "out", {}))
    assert NUMBERS[name] <= metrics.keys() and all(0 <= metrics[key] <= 1 for key in NUMBERS[name])
    records = read_json(work / "out" / "predictions.json")
    assert {len(record["keypoints"]) for record in records} == {3 * len(persons.skeleton)}


# --- real samples, every stage of the graph


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def coco_parts(value: dict[str, Any], first: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first images with their annotations, and the others."""
    parts = []
    for images in (value["images"][:first], value["images"][first:]):
        ids = {image["id"] for image in images}
        parts.append({**value, "images": images, "annotations": [a for a in value["annotations"] if a["image_id"] in ids]})
    return parts[0], parts[1]


def mpii(real: Path, raw: Path) -> None:
    persons = json.loads((real / "mpii" / "annot" / "test_mpii.json").read_text())
    write(raw / "annot" / "train.json", persons[:3])
    write(raw / "annot" / "valid.json", persons[3:])
    shutil.copytree(real / "mpii" / "images", raw / "images")


def crowdpose(real: Path, raw: Path) -> None:
    parts = coco_parts(json.loads((real / "crowdpose" / "annotations" / "test_crowdpose.json").read_text()), 1)
    for name, value in zip(("trainval", "test"), parts, strict=True):
        write(raw / "annotations" / f"crowdpose_{name}.json", value)
    shutil.copytree(real / "crowdpose" / "images", raw / "images")


def wholebody(real: Path, raw: Path) -> None:
    parts = coco_parts(json.loads((real / "coco_wholebody" / "annotations" / "test_coco_wholebody.json").read_text()), 2)
    for split, value in zip(("train", "val"), parts, strict=True):
        write(raw / "annotations" / f"coco_wholebody_{split}_v1.0.json", value)
        for image in value["images"]:
            (raw / f"{split}2017").mkdir(exist_ok=True)
            shutil.copy(real / "coco_wholebody" / "val2017" / image["file_name"], raw / f"{split}2017")


def lspet(real: Path, raw: Path) -> None:
    for split, count in (("train", 24), ("val", 12)):
        value, _ = coco_parts(json.loads((real / "lspet" / "annotations" / f"lspet_{split}_crowdpose14.json").read_text()), count)
        write(raw / "annotations" / f"lspet_{split}_crowdpose14.json", value)
        (raw / "images").mkdir(exist_ok=True)
        for image in value["images"]:
            shutil.copy(real / "lspet" / "images" / image["file_name"], raw / "images")


REAL: dict[str, tuple[Callable[[Path, Path], None], set[str]]] = {
    "mpii": (mpii, {"PCKh_50_gt_boxes", "PCKh_10_gt_boxes", "PCKh_11_legacy_gt_boxes"}),
    "crowdpose": (crowdpose, {"AP_medium_gt_boxes"}),
    "wholebody": (wholebody, {"AP_body_gt_boxes", "AP_foot_gt_boxes", "AP_righthand_gt_boxes"}),
    "lspet": (lspet, {"AP_gt_boxes", "PCK_torso_gt_boxes"}),
}


LABELS = {
    "mpii": ("PCKh@0.5", "PCKh@0.1"),
    "crowdpose": ("AP medium",),
    "wholebody": ("AP body", "AP foot", "AP right hand"),
    "lspet": ("AP",),
}


@pytest.mark.slow  # a minute each on one core
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", REAL)
def test_real_samples_run_from_acquire_to_the_registry(name: str, real_data: Path, tmp_path: Path) -> None:
    raw, repository = tmp_path / "raw", copy_of_this(tmp_path / "repository")
    lay, numbers = REAL[name]
    lay(real_data, raw)
    variant = f"categorical_mobilenet_fpn_{name}_64x48_x2"  # the released model's network, from MoveNet's weights
    few = {"epochs": 24, "batch_size": 4, "validate_every": 0, "warmup_steps": 0}
    row = {"like": "categorical_mobilenet_fpn_coco_64x48_x2", "dataset": name, "baseline": None, "exceptions": {}, "train": few}
    write_yaml(repository / "params" / "variants" / "sample.yaml", {variant: row})
    change(repository / "params" / "data.yaml", lambda value: value["data"].update(source=name, splits={"dev": 0}))
    change(repository / "params" / "train.yaml", lambda value: value["train"].update(validate_on="val"))
    plan = {variant: {"table": "sample", "shards": "direct_64x48"}}
    change(repository / "params" / "pipeline.yaml", lambda value: value.update(variants=plan))
    fewer = {"bootstrap_resamples": 20, "gallery_size": 1}
    change(repository / "params" / "evaluate.yaml", lambda value: value["evaluate"].update(fewer))
    commit(repository)
    for done in (farpose(repository, "params"), farpose(repository, "acquire", name, "--from", str(raw)), python(repository, RUN_ALL)):
        assert done.returncode == 0, done.stdout + done.stderr
    metrics = read_json(repository / "results" / "pipeline" / "evaluate" / f"{variant}.json")
    assert numbers <= metrics.keys() and all(math.isfinite(metrics[key]) for key in numbers)
    assert list((repository / "mlruns").rglob("variant.yaml"))
    card = (repository / "artifacts" / "registration" / variant / "model_card.md").read_text()
    table, page = ((repository / "artifacts" / where).read_text() for where in ("comparison/comparison.md", "report/report.html"))
    assert f"licences | {COMMITTED[name].licence}" in card
    assert all(label in text for label in LABELS[name] for text in (card.split("## Results")[0], table, page))
    readme = (repository / "data" / "README.md").read_text()
    assert COMMITTED[name].licence in readme and (repository / "params" / "manifests" / f"{name}.sha256").is_file()


def write_yaml(path: Path, value: Any) -> None:
    path.write_text(yaml.safe_dump(value, sort_keys=False))


def change(path: Path, edit: Callable[[Any], None]) -> None:
    value = yaml.safe_load(path.read_text())
    edit(value)
    write_yaml(path, value)


def test_every_form_of_the_default_is_an_entry() -> None:
    assert ANNOTATE.keys() == {name for name in COMMITTED if name.startswith("synthetic")} and (REPOSITORY / "params").is_dir()
