"""Every bottom-up method's small form through the whole pipeline on the synthetic default."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.repositories import REPOSITORY, commit, copy_of_this, dvc, farpose

EXAMPLE = yaml.safe_load((REPOSITORY / "params" / "examples" / "bottom_up_256" / "pipeline.yaml").read_text())

AP_FLOORS = {  # a quarter to a half of what results/bottom_up_256 holds: the last bits of the weights differ between kinds of processors
    "higherhrnet_tiny_synthetic_256": 0.002,
    "litepose_tiny_synthetic_256": 0.0001,
    "higherpose_tiny_synthetic_256": 0.002,
    "higherpose_tiny_synthetic_256_published": 0.0015,
    "higherpose_tiny_synthetic_256_none": 0.002,
    "limbpose_tiny_synthetic_256": 0.002,
    "sr_head_bottomup_hrnet_tiny_synthetic_256": 0.002,
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A repository with the example's parameters and the synthetic default."""
    folder = copy_of_this(tmp_path_factory.mktemp("bottom_up") / "repository")
    commit(folder)
    for done in (farpose(folder, "params", "--apply", "bottom_up_256"), farpose(folder, "acquire", "synthetic")):
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow  # ten to twenty-five minutes each on one core
@pytest.mark.timeout(5400)
@pytest.mark.parametrize("name", EXAMPLE["variants"])
def test_a_small_form_goes_through_the_pipeline_and_finds_persons(name, repository):
    done = dvc(repository, "repro", f"evaluate@{name}")
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((repository / "results" / "pipeline" / "evaluate" / f"{name}.json").read_text())
    assert AP_FLOORS[name] < metrics["AP_no_boxes"] < metrics["target_AP"]


def test_the_committed_table_is_above_the_floors():
    rows = pd.read_csv(REPOSITORY / "results" / "bottom_up_256" / "comparison.csv").set_index("variant")
    assert {name: rows.loc[name, "AP_no_boxes"] > floor for name, floor in AP_FLOORS.items()} == dict.fromkeys(EXAMPLE["variants"], True)


def test_the_example_holds_every_small_bottom_up_form():
    forms = yaml.safe_load((REPOSITORY / "params" / "variants" / "demo.yaml").read_text())
    assert {name for name in forms if name.endswith(("_synthetic_256", "_256_published", "_256_none"))} == set(EXAMPLE["variants"])
