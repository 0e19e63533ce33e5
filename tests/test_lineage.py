"""What a run keeps of its origin: the lock, the parameters as used, and how the files differ from the commit."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import pytest

from components.registry import lineage, snapshot, store, tracking
from tests.repositories import commit, git


@pytest.fixture
def repository(tmp_path: Path, empty_tables: Path, monkeypatch) -> Path:
    """A repository with one commit and an empty store, in a path with a space."""
    for variable in ("MLFLOW_TRACKING_URI", tracking.PIPELINE_RUN, tracking.PREFECT_RUN):
        monkeypatch.delenv(variable, raising=False)
    folder = tmp_path / "a clone"
    for part in ("components", "params/variants", "mlruns", "results"):
        (folder / part).mkdir(parents=True)
    (folder / "components" / "code.py").write_text("ONE = 1\n")
    (folder / "params" / "train.yaml").write_text("train: {epochs: 3}\n")
    (folder / "params" / "variants" / "own.yaml").write_text("own: {}\n")
    (folder / "dvc.lock").write_text("schema: '2.0'\n")
    (folder / "data.dvc").write_text("outs:\n- md5: abc.dir\n  path: data\n")
    (folder / "results" / "a.json").write_text("1")
    (folder / ".gitignore").write_text("/mlruns/*\n")
    git(folder, "init", "--quiet")
    commit(folder)
    shutil.copy(empty_tables, folder / "mlruns")
    return folder


def kept(run: tracking.Run, tmp_path: Path) -> Path:
    """The run's folder `lineage/`, downloaded."""
    return Path(run.client.download_artifacts(run.run_id, snapshot.FOLDER, str(tmp_path)))


def test_a_run_keeps_the_lock_and_the_parameters_as_they_are_used(repository, tmp_path):
    (repository / "params" / "train.yaml").write_text("train: {epochs: 4}\n")  # as `dvc exp run -S` leaves it
    with tracking.run("train@x", repository=repository) as run:
        (repository / "params" / "train.yaml").write_text("train: {epochs: 5}\n")  # too late
    folder = kept(run, tmp_path)
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        "dvc.lock", "data.dvc", "params/train.yaml", "params/variants/own.yaml", "dirty.patch",
    }  # fmt: skip
    assert (folder / "params" / "train.yaml").read_text() == "train: {epochs: 4}\n"
    assert (folder / "data.dvc").read_bytes() == (repository / "data.dvc").read_bytes()


def test_a_pipelines_run_keeps_the_lock_of_its_end(repository, tmp_path):
    with tracking.pipeline_run(repository=repository) as (run, _):
        (repository / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    folder = kept(run, tmp_path)
    assert (folder / "dvc.lock").read_text() == "schema: '2.0'\nstages: {}\n"
    assert not (folder / "dirty.patch").exists()  # what the pipeline writes itself is no edit


def test_the_patch_brings_every_edit_to_a_clean_clone(repository, tmp_path):
    (repository / "components" / "code.py").write_text("ONE = 2\n")
    (repository / "params" / "train.yaml").unlink()
    (repository / "components" / "übung ünd.py").write_text("NEW = 1\n")  # git does not know it yet
    (repository / "params" / "table.bin").write_bytes(bytes(range(256)))
    (repository / "results" / "a.json").write_text("2")
    (repository / "notes.txt").write_text("no part of any result")
    assert lineage.git_commit(repository) == git(repository, "rev-parse", "HEAD").strip() + "-dirty"
    (tmp_path / "patch").write_bytes(lineage.patch(repository))
    clone = tmp_path / "clean"
    git(tmp_path, "clone", "--quiet", str(repository), str(clone))
    git(clone, "apply", str(tmp_path / "patch"))
    for part in ("components", "params"):
        files = {path.relative_to(repository): path.read_bytes() for path in (repository / part).rglob("*") if path.is_file()}
        assert files == {path.relative_to(clone): path.read_bytes() for path in (clone / part).rglob("*") if path.is_file()}
    assert (clone / "results" / "a.json").read_text() == "1" and not (clone / "notes.txt").exists()


@pytest.mark.parametrize(("name", "dirty"), [("components/new.py", True), ("params/new.yaml", True), ("notes.md", False)])
def test_a_new_file_is_an_edit_where_code_and_parameters_are(repository, name, dirty):
    (repository / name).write_text("1\n")
    assert lineage.git_commit(repository).endswith("-dirty") is dirty is bool(lineage.patch(repository))


def test_outside_of_git_there_is_no_patch(tmp_path):
    assert lineage.patch(tmp_path) == b"" and lineage.git_commit(tmp_path) == ""


def test_a_lock_that_is_being_written_is_kept_whole(repository, tmp_path):
    path, whole = repository / "dvc.lock", b"schema: '2.0'\n" * 1000

    def rewrite() -> None:
        for end in (0, 100, 5000, len(whole)):  # as DVC does: in place, part by part
            path.write_bytes(whole[:end])
            time.sleep(0.02)

    writer = threading.Thread(target=rewrite)
    path.write_bytes(b"")
    writer.start()
    snapshot.write(tmp_path, repository)
    writer.join()
    assert (tmp_path / "dvc.lock").read_bytes() == whole


def test_lineage_reads_what_dvc_wrote(tmp_path):
    (tmp_path / "data.dvc").write_text("outs:\n- md5: abc.dir\n  path: data\n")
    lock = {
        "stages": {
            "train@x": {"deps": [{"path": "artifacts/shards/s", "md5": "1.dir"}], "outs": [{"path": "artifacts/models/x", "md5": "2"}]}
        }
    }
    (tmp_path / "dvc.lock").write_text(json.dumps(lock))
    assert lineage.data_digest(tmp_path) == "abc.dir"
    assert lineage.lock_hashes("train@x", tmp_path) == {"artifacts/shards/s": "1.dir", "artifacts/models/x": "2"}
    assert lineage.lock_hashes("train@y", tmp_path) == {}
    assert lineage.tags("train@x", tmp_path)["data.md5"] == "abc.dir"


def test_lineage_tells_edited_code_from_written_results(tmp_path):
    git(tmp_path, "init", "--quiet")
    (tmp_path / "code.py").write_text("1")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a.json").write_text("1")
    commit(tmp_path)
    head = git(tmp_path, "rev-parse", "HEAD").strip()
    (tmp_path / "results" / "a.json").write_text("2")
    assert lineage.git_commit(tmp_path) == head
    (tmp_path / "code.py").write_text("2")
    assert lineage.git_commit(tmp_path) == f"{head}-dirty"


@pytest.mark.parametrize(
    ("repository", "expected"),
    [
        ("/a/clone", "/a/clone/mlruns"),
        ("/a/clone/.dvc/tmp/exps/tmp1", "/a/clone/mlruns"),
        ("/a/clone/.dvc/tmp/exps/standalone/tmp1", "/a/clone/mlruns"),
        ("/a/.dvc/tmp/clone", "/a/.dvc/tmp/clone/mlruns"),
    ],
)
def test_queued_experiments_of_dvc_are_recorded_where_they_were_queued(repository, expected, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert store.folder_of(Path(repository)) == Path(expected)
    assert store.tracking_uri(Path(repository)) == f"sqlite:///{expected}/mlflow.db"
