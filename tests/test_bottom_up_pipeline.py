"""Every bottom-up method's small form through the whole pipeline on the synthetic default."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.repositories import REPOSITORY, commit, copy_of_this, dvc, farpose

EXAMPLE = yaml.safe_load((REPOSITORY / "params" / "examples" / "bottom_up_256" / "pipeline.yaml").read_text())


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A repository with the example's parameters and the synthetic default."""
    folder = copy_of_this(tmp_path_factory.mktemp("bottom_up") / "repository")
    commit(folder)
    for done in (farpose(folder, "params", "--apply", "bottom_up_256"), farpose(folder, "acquire", "synthetic")):
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow  # five to fifteen minutes each
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", EXAMPLE["variants"])
def test_a_small_form_goes_through_the_pipeline_and_learns_its_heatmaps(name, repository):
    """Twenty epochs from random weights are too few for persons that OKS counts (AP stays about 0); the maps must take shape."""
    done = dvc(repository, "repro", f"evaluate@{name}")
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((repository / "results" / "pipeline" / "evaluate" / f"{name}.json").read_text())
    assert 0 <= metrics["AP_no_boxes"] < metrics["ceiling_AP"] and metrics["found_persons"] > 0
    history = json.loads((repository / "artifacts" / "models" / name / "history.json").read_text())
    assert history[-1]["heatmaps"] < 0.85 * history[1]["heatmaps"], "the first epoch only learns that most cells are empty"


def test_the_example_holds_every_small_bottom_up_form():
    forms = yaml.safe_load((REPOSITORY / "params" / "variants" / "demo.yaml").read_text())
    assert {name for name in forms if name.endswith(("_synthetic_256", "_256_published", "_256_none"))} == set(EXAMPLE["variants"])
