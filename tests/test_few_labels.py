"""One labelled joint a person and one person a step: a training goes on past the steps that teach nothing, and is scored."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import yaml

from components.base.files import read_json
from tests.repositories import commit, copy_of_this, farpose, python

VARIANT = "udp_offset_hrnet_tiny_coco_64x48"
STEPS = """
from pipelines import stages
for name in ("plan", "fetch", "validate"):
    stages.run_stage(name)
for name, item in {"degrade": "direct_64x48", "train": VARIANT, "evaluate": VARIANT}.items():
    stages.run_stage(name, item)
"""


@pytest.mark.timeout(600)
def test_one_labelled_joint_a_person_in_batches_of_one(cases: Path, tmp_path: Path) -> None:
    repository = copy_of_this(tmp_path / "repository")
    annotations = json.loads((cases / "one_joint_b1" / "annotations" / "person_keypoints_train2017.json").read_text())["annotations"]
    assert {sum(flag > 0 for flag in annotation["keypoints"][2::3]) for annotation in annotations} == {1}
    for name, change in {
        f"variants/{table_of(repository)}": {VARIANT: {"train": {"epochs": 2, "batch_size": 1, "validate_every": 0, "validate_on": "val"}}},
        "data.yaml": {"data": {"splits": {"dev": 0}}},  # 14 images are too few for a development split
        "evaluate.yaml": {"evaluate": {"bootstrap_resamples": 10, "gallery_size": 1}},
    }.items():
        path = repository / "params" / name
        path.write_text(yaml.safe_dump(laid(yaml.safe_load(path.read_text()), change), sort_keys=False))
    commit(repository)
    for done in (
        farpose(repository, "params", "--only", VARIANT),
        farpose(repository, "acquire", "coco", "--from", str(cases / "one_joint_b1")),
        python(repository, f"VARIANT = {VARIANT!r}\n{STEPS}"),
    ):
        assert done.returncode == 0, done.stdout + done.stderr
    summary = read_json(repository / "results" / "pipeline" / "train" / f"{VARIANT}.json")
    metrics = read_json(repository / "results" / "pipeline" / "evaluate" / f"{VARIANT}.json")
    assert summary["steps"] == 2 * len(annotations)
    assert "steps taught nothing: no labelled joint lay inside a crop" in done.stderr + done.stdout
    assert metrics["persons"] == 21 and metrics["target_AP"] > 0.9 and math.isfinite(metrics["AP_gt_boxes"])


def table_of(repository: Path) -> str:
    """The file of params/variants/ that holds the variant."""
    (found,) = [path.name for path in (repository / "params" / "variants").glob("*.yaml") if f"\n{VARIANT}:" in path.read_text()]
    return found


def laid(base: dict, change: dict) -> dict:
    """`base` with the keys of `change` in it."""
    return {**base, **{key: laid(base.get(key) or {}, value) if isinstance(value, dict) else value for key, value in change.items()}}
