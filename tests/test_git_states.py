"""Clones of another owner, and folders without git: a run knows its commit, or one line says what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from components.base.errors import FarposeError
from pipelines import environment, graph
from pipelines.driver import Driver
from tests.repositories import REPOSITORY, assert_one_line, copy_of_this, dvc, farpose, git, python, toy_on_copy, toy_repository, variables
from tests.test_clone_paths import FLOW

COMMIT = "from components.registry import lineage; from pipelines import environment; print(lineage.git_commit())"
LOGGED = """
from components.registry import store
client, experiment = store.open_store()
print([run.data.tags.get("git.commit", "none") for run in client.search_runs([experiment], "tags.kind = 'pipeline'")])
"""
NOBODY = 65534  # uid of a user who is not us


def test_the_variables_name_this_clone_once_and_keep_what_was_set():
    first = environment.git_trust({}, Path("/a clone"))
    assert first == {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "/a clone"}
    assert environment.git_trust(first, Path("/a clone")) == {}
    second = environment.git_trust(first, Path("/b"))
    assert second == {"GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_1": "safe.directory", "GIT_CONFIG_VALUE_1": "/b"}
    environment.prepare()
    values = [value for name, value in os.environ.items() if name.startswith("GIT_CONFIG_VALUE_")]
    assert values.count(str(environment.REPOSITORY)) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_clone_of_another_owner_tells_its_commit_and_no_other_folder_is_trusted(tmp_path):
    clone, other = copy_of_this(tmp_path / "clone"), copy_of_this(tmp_path / "other")
    commit = git(clone, "rev-parse", "HEAD").strip()
    for folder in (clone, other):
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    plain = {name: value for name, value in variables().items() if not name.startswith("GIT_CONFIG")}
    refused = subprocess.run(["git", "rev-parse", "HEAD"], cwd=clone, env=plain, capture_output=True, text=True, check=False)
    assert "dubious ownership" in refused.stderr  # else there is nothing to test
    assert python(clone, COMMIT, GIT_CONFIG_COUNT="0").stdout == f"{commit}\n"
    edited = clone / "dvc.yaml"
    edited.write_text(edited.read_text() + "\n")
    assert python(clone, COMMIT, GIT_CONFIG_COUNT="0").stdout == f"{commit}-dirty\n"
    elsewhere = f"from pathlib import Path; {COMMIT.replace('git_commit()', f'git_commit(Path({str(other)!r}))')}"
    assert python(clone, elsewhere, GIT_CONFIG_COUNT="0").stdout == "\n"


@pytest.mark.slow
def test_an_unpacked_zip_is_told_what_it_lacks_and_runs_then(tmp_path):
    clone = copy_of_this(tmp_path / "unpacked")
    shutil.rmtree(clone / ".git")
    for command in (("run",), ("acquire", "synthetic"), ("train", "categorical_fused_fpn_synthetic_64x48_x2")):
        assert_one_line(farpose(clone, *command), "is not a git repository", "git init", "dvc config --local core.no_scm true")
    assert not (clone / "data").exists()  # nothing was drawn for nothing

    toy = toy_on_copy(tmp_path / "toy")
    shutil.rmtree(toy / ".git")
    assert dvc(toy, "config", "--local", "core.no_scm", "true").returncode == 0  # the second way out
    done = python(toy, FLOW)
    assert done.returncode == 0 and (toy / "last.txt").is_file(), done.stdout + done.stderr
    assert python(toy, LOGGED).stdout == "['none']\n"
    git(toy, "init")  # the first way out
    git(toy, "add", "--all")
    git(toy, "commit", "-m", "unpacked")
    assert dvc(toy, "config", "--local", "--unset", "core.no_scm").returncode == 0
    done = python(toy, FLOW)
    assert done.returncode == 0 and "outcome='unchanged'" in done.stdout, done.stdout + done.stderr
    commit = git(toy, "rev-parse", "HEAD").strip()
    assert commit in python(toy, LOGGED).stdout and toy != REPOSITORY


def test_data_that_are_not_there_name_the_command_that_makes_them(tmp_path):
    toy = toy_repository(tmp_path / "a clone")
    (toy / "dvc.yaml").write_text("stages: {fetch: {cmd: echo, deps: [data/synthetic]}}")
    (stage,) = graph.load(toy)
    with pytest.raises(FarposeError, match=r"stage fetch: .*data/synthetic'.* \(`farpose acquire synthetic`, or `dvc pull`"):
        Driver(toy, 300.0, lambda line: None).reproduce(stage)
