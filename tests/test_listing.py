"""The list of what `compare` reads, in dvc.yaml, and the entries of dvc.lock, follow params/pipeline.yaml."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from pathlib import Path

import pytest
import yaml

from components.base.errors import FarposeError
from pipelines import listing, settings
from tests.repositories import REPOSITORY

FIRST, SECOND = list(settings.load().variants)[:2]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    shutil.copy(REPOSITORY / "dvc.yaml", tmp_path)
    (tmp_path / "artifacts").mkdir()
    return tmp_path


def pipeline_of(*names: str) -> settings.Pipeline:
    pipeline = settings.load()
    return dataclasses.replace(pipeline, variants={name: settings.VariantPlan("demo", "direct_64x48") for name in names})


def compared(repository: Path) -> set[str]:
    """Variants whose files dvc.yaml names in `compare`, as YAML reads it."""
    deps = yaml.safe_load((repository / "dvc.yaml").read_text())["stages"]["compare"]["deps"]
    return {Path(path).stem for path in deps if not path.startswith(("components", "params"))}


def test_the_committed_list_is_in_step():
    listing.check(settings.load(), REPOSITORY)


def test_the_list_follows_the_pipeline_and_nothing_else_changes(repository):
    before = (repository / "dvc.yaml").read_text()
    with pytest.raises(FarposeError, match=r"^dvc\.yaml: the list of what `compare` reads still names .*farpose params"):
        listing.check(pipeline_of(FIRST), repository)
    with pytest.raises(FarposeError, match=r"lacks artifacts/evaluations/siu_tiny and 2 more"):
        listing.check(pipeline_of(*settings.load().variants, "siu_tiny"), repository)
    assert listing.keep_in_step(pipeline_of(FIRST), repository) and compared(repository) == {FIRST}
    listing.check(pipeline_of(FIRST), repository)
    assert not listing.keep_in_step(pipeline_of(FIRST), repository)
    assert listing.keep_in_step(settings.load(), repository)
    assert (repository / "dvc.yaml").read_text() == before


def test_a_dvc_yaml_without_the_list_is_one_line(repository):
    (repository / "dvc.yaml").write_text("stages: {}\n")
    with pytest.raises(FarposeError, match=r"dvc\.yaml: no list between .*git checkout dvc\.yaml"):
        listing.check(pipeline_of(FIRST), repository)


def test_entries_of_the_lock_leave_and_come_back_unchanged(repository):
    """A stage that left the graph leaves no trace in dvc.lock; put back, it is locked as it was, numbers included."""
    entry = {"cmd": "train", "params": {"params/train.yaml": {"train.learning_rate": 1e-05}}, "outs": [{"path": "a", "md5": "1"}]}
    stages = {
        "plan": {"cmd": "plan"},
        f"train@{FIRST}": entry,
        f"train@{SECOND}": copy.deepcopy(entry),
        "register": {"cmd": "of an older graph"},
    }
    from dvc.utils.serialize import dump_yaml, load_yaml

    lock, retired = repository / "dvc.lock", repository / "artifacts" / "retired.lock"
    dump_yaml(str(lock), {"schema": "2.0", "stages": stages})
    both = {name: stages[name] for name in stages if name != "register"}
    listing.keep_in_step(pipeline_of(FIRST, SECOND), repository)
    assert load_yaml(str(lock)) == {"schema": "2.0", "stages": both}
    text = lock.read_text()
    listing.keep_in_step(pipeline_of(FIRST), repository)
    assert load_yaml(str(lock))["stages"] == {"plan": {"cmd": "plan"}, f"train@{FIRST}": entry}
    assert load_yaml(str(retired))["stages"][f"train@{SECOND}"] == entry
    listing.keep_in_step(pipeline_of(FIRST, SECOND), repository)
    assert lock.read_text() == text and set(load_yaml(str(retired))["stages"]) == {"register"}
