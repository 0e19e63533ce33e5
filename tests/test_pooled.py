"""Variants that workers in other clones train: each once, with the results that one clone alone would have."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from components.base.errors import FarposeError
from pipelines import pooled
from pipelines.reproduction import Work
from tests.dask_servers import waited
from tests.repositories import PYTHON, REPOSITORY, assert_one_line, commit, dvc, farpose, git, module, toy_repository, variables
from tests.test_serving import PROXIES, free_ports
from tests.training_clone import NAMES, results, training_clone

POOL = "machines"


def test_entries_are_laid_into_a_lock_as_dvc_writes_it(tmp_path):
    whole = (REPOSITORY / "dvc.lock").read_text()
    names = list(yaml.safe_load(whole)["stages"])
    for some in (names[::2], names[1::2]):
        pooled.lay_entries(tmp_path, pooled.entries(REPOSITORY, some))
    assert yaml.safe_load((tmp_path / "dvc.lock").read_text()) == yaml.safe_load(whole)
    (tmp_path / "dvc.lock").unlink()
    pooled.lay_entries(tmp_path, pooled.entries(REPOSITORY, names))
    assert (tmp_path / "dvc.lock").read_text() == whole
    assert pooled.entries(REPOSITORY, ["train@none"]) == {}


def test_a_clone_with_other_files_is_refused_and_what_stages_write_may_differ(tmp_path):
    own, other = toy_repository(tmp_path / "own"), toy_repository(tmp_path / "other")
    for folder in (own, other):
        commit(folder)
    (other / "dvc.lock").write_text("another")
    (other / "results").mkdir()
    (other / "results" / "table.json").write_text("{}")
    pooled._require_same(own, pooled.contents(other))
    (other / "mode-x.txt").write_text("other\n")
    (other / "new.txt").write_text("new\n")
    with pytest.raises(FarposeError, match=r"differs from the one that asks in mode-x.txt, new.txt \(bring both to the same commit"):
        pooled._require_same(own, pooled.contents(other))


def test_a_flow_does_not_wait_for_a_worker_that_waits_for_it(tmp_path):
    work = Work(tmp_path, None, None)
    with pytest.raises(FarposeError, match=r"the pool farpose is that of `make serve`"):
        pooled.share_out(work, None, True, "farpose", None)
    with pytest.raises(FarposeError, match=r"this worker's clone is the one that asks"):
        pooled.begin({"asks": pooled._place(tmp_path)}, tmp_path)


def test_what_is_missing_is_one_line(tmp_path):
    folder = toy_repository(tmp_path / "toy")
    with pytest.raises(FarposeError, match=r"no default remote.*`dvc remote add --local --default store PLACE`"):
        pooled.require_remote(folder)


# ---------------------------------------------------------------- with real servers and workers


@contextmanager
def worker(folder: Path, api: str) -> Iterator[Path]:
    """`farpose work` in a clone; its log."""
    log = folder.parent / f"{folder.name}.log"
    environment = variables() | PROXIES | {"PREFECT_API_URL": api}
    with log.open("w") as stream:
        command = [PYTHON, "-m", "pipelines.cli", "work", POOL]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=stream, stderr=stream, start_new_session=True)
    try:
        waited(lambda: f"of pool {POOL}" in log.read_text() or process.poll() is not None, log)
        assert process.poll() is None, log.read_text()
        yield log
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def clones(tmp_path) -> Iterator[tuple[list[Path], str]]:
    """Three clones of one commit with one remote, and the address of the first one's Prefect server."""
    head = training_clone(tmp_path / "head")
    folders = [head, tmp_path / "first worker", tmp_path / "second worker"]
    for folder in folders[1:]:
        git(tmp_path, "clone", "--quiet", str(head), str(folder))
        (folder / "mlruns").mkdir(exist_ok=True)
    for folder in folders:
        assert dvc(folder, "remote", "add", "--local", "--default", "store", str(tmp_path / "store")).returncode == 0
    ports = dict(zip(("MLFLOW_PORT", "PREFECT_PORT"), free_ports(2), strict=True))
    served = module(head, "pipelines.serving", **ports, **PROXIES)
    assert served.returncode == 0, served.stdout + served.stderr
    yield folders, f"http://127.0.0.1:{ports['PREFECT_PORT']}/api"
    module(head, "pipelines.serving", "stop")


def trained(folder: Path) -> int:
    """Trainings that the clone's MLflow store knows."""
    database = folder / "mlruns" / "mlflow.db"
    if not database.is_file():
        return 0
    connection = sqlite3.connect(database)
    found = connection.execute("SELECT count(*) FROM tags WHERE key = 'kind' AND value = 'train'").fetchone()[0]
    connection.close()
    return int(found)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_workers_train_one_variant_each_and_one_lock_has_both(clones, tmp_path):
    (head, *workers), api = clones
    with worker(workers[0], api) as first, worker(workers[1], api) as second:
        done = farpose(head, "run", "last", "--no-verify", "--over", POOL, **PROXIES)
    assert done.returncode == 0, done.stdout + done.stderr + first.read_text() + second.read_text()
    assert [trained(folder) for folder in (head, *workers)] == [0, 1, 1], done.stdout
    for name in NAMES:
        assert f"train@{name} | ran (" in done.stdout and f"train@{name} | unchanged (" in done.stdout, done.stdout
    lock = yaml.safe_load((head / "dvc.lock").read_text())["stages"]
    assert set(lock) == {"prepare", *(f"train@{name}" for name in NAMES), "last"}
    assert dvc(head, "status", "--json").stdout.strip() == "{}"

    alone = tmp_path / "alone"
    git(tmp_path, "clone", "--quiet", str(head), str(alone))
    assert farpose(alone, "run", "last", "--no-verify").returncode == 0
    expected = results(alone)
    assert {path: digest for path, digest in results(head).items() if "checkpoints" not in path} == expected

    shutil.rmtree(head / ".dvc" / "cache")  # the remote has all that the workers made
    shutil.rmtree(head / "artifacts" / "models")
    pulled = dvc(head, "pull", *(f"train@{name}" for name in NAMES))
    assert pulled.returncode == 0, pulled.stderr
    models = {path: digest for path, digest in results(head).items() if path.startswith("artifacts/models")}
    assert models and models.items() <= expected.items()

    (workers[0] / "params" / "evaluate.yaml").write_text((workers[0] / "params" / "evaluate.yaml").read_text() + "\n")
    git(head, "checkout", "--quiet", ".")
    (head / "dvc.lock").unlink()
    with worker(workers[0], api):
        refused = farpose(head, "run", "last", "--no-verify", "--over", POOL, **PROXIES)
    assert_one_line(refused, "this clone differs from the one that asks in params/evaluate.yaml", "`git pull`")


@pytest.mark.slow
def test_without_a_server_there_are_no_workers(tmp_path):
    folder = training_clone(tmp_path / "clone")
    for command in (("run", "--over", POOL), ("work", POOL)):
        assert_one_line(farpose(folder, *command), "no Prefect server runs (`make serve` in the clone that asks")
