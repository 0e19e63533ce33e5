"""Every bottom-up method's small form through the whole pipeline on the synthetic default: what it must reach."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.repositories import REPOSITORY, commit, copy_of_this, dvc, farpose

EXAMPLE = REPOSITORY / "params" / "examples" / "bottom_up_256" / "pipeline.yaml"
LOWEST_AP = {  # fractions of 1, about half of what results/bottom_up_256 reached; an untrained network has 0
    "higherhrnet_tiny_synthetic_256": 0.0,
    "litepose_tiny_synthetic_256": 0.0,
    "higherpose_tiny_synthetic_256": 0.0,
    "higherpose_tiny_synthetic_256_published": 0.0,
    "higherpose_tiny_synthetic_256_none": 0.0,
    "limbpose_tiny_synthetic_256": 0.0,
    "sr_head_bottomup_hrnet_tiny_synthetic_256": 0.0,
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A repository with the example's parameters and the synthetic default."""
    folder = copy_of_this(tmp_path_factory.mktemp("bottom_up") / "repository")
    commit(folder)
    for done in (farpose(folder, "params", "--apply", "bottom_up_256"), farpose(folder, "acquire", "synthetic")):
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow  # two to ten minutes each
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", LOWEST_AP)
def test_a_small_form_learns_in_the_pipeline(name, repository):
    done = dvc(repository, "repro", f"evaluate@{name}")
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((repository / "results" / "pipeline" / "evaluate" / f"{name}.json").read_text())
    assert LOWEST_AP[name] < metrics["AP_no_boxes"] < metrics["ceiling_AP"]


def test_every_variant_of_the_example_has_a_floor():
    assert yaml.safe_load(EXAMPLE.read_text())["variants"].keys() == LOWEST_AP.keys()
