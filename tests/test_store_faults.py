"""MLflow's server killed before, in and after stages: they end well, and their records arrive once, whole, when it is back."""

from __future__ import annotations

import csv
import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from components.registry import lineage, store, tracking, waiting
from pipelines import settings
from tests.mlflow_server import Lossy, Server, run_with_picture
from tests.repositories import PYTHON, REPOSITORY, assert_one_line, commit, copy_of_this, farpose, variables
from tests.test_pipeline import FIRST, edit, little_to_do, run_these

PATIENCE_S = 240.0
EPOCHS = 40


def wait(until: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not until():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:.0f} s: {what}"
        time.sleep(0.1)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """One small variant, in a path with a space."""
    repository = copy_of_this(tmp_path / "a clone")
    little_to_do(repository)
    pipeline = yaml.safe_load((repository / "params" / "pipeline.yaml").read_text())
    pipeline["variants"] = {FIRST: pipeline["variants"][FIRST]}
    pipeline["shards"] = {pipeline["variants"][FIRST]["shards"]: pipeline["shards"][pipeline["variants"][FIRST]["shards"]]}
    run_these(repository, pipeline)
    edit(repository / "params" / "variants" / "demo.yaml", **{f"{FIRST}__train__epochs": EPOCHS})
    commit(repository)
    done = farpose(repository, "acquire", "synthetic")
    assert done.returncode == 0, done.stderr
    commit(repository)
    return repository


def stage(clone: Path, server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    return farpose(clone, "stage", *arguments, MLFLOW_TRACKING_URI=server.url, MLFLOW_HTTP_REQUEST_MAX_RETRIES="1")


def runs_of(client: MlflowClient) -> dict[str, Run]:
    """The runs by name, and by status if they did not finish; there is one of each."""
    experiment = client.get_experiment_by_name(store.EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id])
    ends = {run.info.run_id: "" if run.info.status == "FINISHED" else f": {run.info.status}" for run in runs}
    found = {f"{run.info.run_name}{ends[run.info.run_id]}": run for run in runs}
    assert len(found) == len(runs)
    return found


def files_of(client: MlflowClient, run: Run, folder: Path) -> dict[str, bytes]:
    place = Path(client.download_artifacts(run.info.run_id, "", str(folder)))
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.mark.operation
@pytest.mark.slow
def test_stages_end_well_while_the_server_is_gone_and_their_records_arrive_once(clone, tmp_path):
    shards = next(iter(settings.load(clone / "params" / "pipeline.yaml").shards))
    with Server(tmp_path / "server") as server:
        for arguments in (("plan",), ("fetch",), ("degrade", shards)):  # before it ever ran
            done = stage(clone, server, *arguments)
            assert done.returncode == 0, done.stderr
            assert arguments == ("plan",) or done.stderr.count("MLflow does not answer; the record waits in") == 1
        assert len(list((clone / "mlruns" / "waiting").glob("*/journal.jsonl"))) == 2

        server.start()
        database = f"file:{tmp_path / 'server' / 'server.db'}?mode=ro"
        asked = {"MLFLOW_TRACKING_URI": server.url, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
        command = [PYTHON, "-m", "pipelines.cli", "stage", "train", FIRST]
        training = subprocess.Popen(
            command, cwd=clone, env=variables() | asked, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )

        def has_numbers() -> bool:
            assert training.poll() is None, "the training ended before its numbers were there"
            with sqlite3.connect(database, uri=True) as connection:
                return bool(connection.execute("select count(*) from metrics where key = 'loss'").fetchone()[0])

        wait(has_numbers, "numbers of the training")
        server.kill()
        assert training.wait(PATIENCE_S) == 0, training.stderr.read() if training.stderr else ""
        assert training.stderr is not None and "MLflow does not answer" in training.stderr.read()
        done = stage(clone, server, "evaluate", FIRST)
        assert done.returncode == 0, done.stderr
        done = stage(clone, server, "register", FIRST)
        assert_one_line_at_the_end(done, "no MLflow store: ", "start it")
        assert not (clone / "artifacts" / "registration").exists()

        server.start()
        done = stage(clone, server, "register", FIRST)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        assert not [path for path in (clone / "mlruns" / "waiting").iterdir() if path.is_dir()]
        check_records(clone, MlflowClient(server.url), shards, tmp_path)


def assert_one_line_at_the_end(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    done.stderr = "".join(line for line in done.stderr.splitlines(True) if not line.startswith("MLflow does not answer"))
    assert_one_line(done, *parts)


def check_records(clone: Path, client: MlflowClient, shards: str, scratch: Path) -> None:
    """What the server has is what the stages wrote into files."""
    runs = runs_of(client)
    failed = runs.pop(f"register@{FIRST}: FAILED")
    assert "does not answer" in failed.data.tags["error"] or "no MLflow store" in failed.data.tags["error"]
    assert set(runs) == {"fetch", f"degrade@{shards}", f"train@{FIRST}", f"evaluate@{FIRST}", f"register@{FIRST}"}
    results, training = clone / "results" / "pipeline", runs[f"train@{FIRST}"]
    fetched = tracking.numbers(json.loads((results / "fetch.json").read_text()))
    assert runs["fetch"].data.metrics == {tracking.key_name(key): value for key, value in fetched.items()}
    with open(results / "train" / f"{FIRST}.csv") as stream:
        losses = {int(row["epoch"]): float(row["loss"]) for row in csv.DictReader(stream)}
    history = client.get_metric_history(training.info.run_id, "loss")
    assert len(history) == len(losses) == EPOCHS
    assert [point.value for point in sorted(history, key=lambda point: point.step)] == pytest.approx(list(losses.values()), rel=1e-5)
    for name, run in runs.items():
        assert run.info.status == "FINISHED" and run.info.start_time < run.info.end_time, name
        kept = files_of(client, run, scratch / name)
        assert kept["lineage/data.dvc"] == (clone / "data.dvc").read_bytes(), name
        assert kept["lineage/params/train.yaml"] == (clone / "params" / "train.yaml").read_bytes()
        assert run.data.tags["data.md5"] == lineage.data_digest(clone)
        assert next(one.dataset for one in run.inputs.dataset_inputs if one.dataset.name == "data").digest == lineage.data_digest(clone)
    gallery = clone / "artifacts" / "evaluations" / FIRST / "gallery.png"
    assert files_of(client, runs[f"evaluate@{FIRST}"], scratch / "again")["gallery.png"] == gallery.read_bytes()
    sheet = clone / "artifacts" / "shards" / shards / "contact_sheet.png"
    assert files_of(client, runs[f"degrade@{shards}"], scratch / "sheet")["contact_sheet.png"] == sheet.read_bytes()
    assert {one.dataset.name for one in training.inputs.dataset_inputs} == {"data", shards}
    version = client.get_model_version_by_alias(FIRST, "challenger")
    assert version.run_id == training.info.run_id  # found, because the training's record was sent first


@pytest.mark.operation
@pytest.mark.slow
def test_answers_that_are_lost_make_nothing_twice(tmp_path, monkeypatch):
    """The server has done what was asked when the line breaks, again and again; requests are then made once more."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    repository = tmp_path / "clone"
    repository.mkdir()
    (tmp_path / "picture.png").write_bytes(b"\x89PNG" + bytes(2000))
    with Server(tmp_path / "server").start() as server, Lossy(server.url, period=3) as line:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", line.url)
        for number in range(5):
            with tracking.run(f"train@{number}", params={"a": {"b": number}}, repository=repository) as run:
                for step in range(30):
                    run.keep(tracking.timed({"loss": number + step / 8}, step))
                run.artifact(tmp_path / "picture.png")
        tracking.ready(repository)
        client = MlflowClient(server.url)
        assert waiting.records(repository) == [] and len(line.lost) >= 15 and any("runs/create" in request for request in line.lost), (
            line.lost
        )
        runs = runs_of(client)
        assert sorted(runs) == [f"train@{number}" for number in range(5)]
        for number in range(5):
            run = runs[f"train@{number}"]
            points = client.get_metric_history(run.info.run_id, "loss")
            assert sorted((point.step, point.value) for point in points) == [(step, number + step / 8) for step in range(30)]
            assert run.data.params == {"a.b": str(number)} and run.info.status == "FINISHED"
            assert files_of(client, run, tmp_path / str(number)) == {"picture.png": (tmp_path / "picture.png").read_bytes()}


KILLED = """
import os, signal, sys
from pathlib import Path
from components.registry import tracking
with tracking.run("train@x", repository=Path(sys.argv[1])) as run:
    run.params({"a": 1})
    run.keep(tracking.timed({"loss": 0.5}, 7))  # not sent yet
    with open(run.record.journal, "a") as stream:
        stream.write('{"request": "metr')  # killed within a line
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_stage_had_said_is_sent_by_the_next_one(tmp_path, empty_tables, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns" / "mlflow.db").write_bytes(empty_tables.read_bytes())
    done = subprocess.run([PYTHON, "-c", KILLED, str(tmp_path)], cwd=REPOSITORY, env=variables(), check=False)
    assert done.returncode == -signal.SIGKILL and len(waiting.records(tmp_path)) == 1
    with tracking.run("train@x", repository=tmp_path) as run:
        pass
    first = next(one for one in run.client.search_runs([run.experiment_id]) if one.info.run_id != run.run_id)
    assert (first.info.status, first.data.metrics, first.data.params) == ("KILLED", {"loss": 0.5}, {"a": "1"})
    assert waiting.records(tmp_path) == []


def test_records_wait_for_the_store_that_they_were_made_for(tmp_path, empty_tables, monkeypatch):
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns" / "mlflow.db").write_bytes(empty_tables.read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:hidden@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with tracking.run("fetch", repository=tmp_path) as run:
        with pytest.raises(store.Down, match="start it"):
            _ = run.run_id
        assert not run.answers and tracking.children(run) == {}
    assert "hidden" not in run.record.journal.read_text()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    client, experiment_id = tracking.ready(tmp_path) or (None, "")
    assert client is not None and client.search_runs([experiment_id]) == [] and waiting.records(tmp_path) == []
    assert [record.key for record in waiting.records(tmp_path, every=True)] == [run.record.key]


def test_a_run_that_was_deleted_holds_nothing_up(tmp_path, empty_tables, monkeypatch, capsys):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns" / "mlflow.db").write_bytes(empty_tables.read_bytes())
    with tracking.run("fetch", repository=tmp_path) as run:
        run.client.delete_run(run.run_id)
        run.metrics({"persons": 3})
    assert "MLflow refuses metrics of run" in capsys.readouterr().err and waiting.records(tmp_path) == []


def test_a_clone_that_was_moved_keeps_its_pictures_and_models(tmp_path, empty_tables, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before, after, copied = tmp_path / "a clone", tmp_path / "new place" / "clone 100%25", tmp_path / "copy"
    (before / "mlruns").mkdir(parents=True)
    (before / "mlruns" / "mlflow.db").write_bytes(empty_tables.read_bytes())
    run_id = run_with_picture(before, tmp_path / "model", b"picture")
    after.parent.mkdir()
    os.rename(before, after)
    read(after, run_id)
    subprocess.run(["cp", "-r", str(after), str(copied)], check=True)
    (after / "mlruns" / "artifacts").rename(tmp_path / "gone")  # the copy must not read its original's
    read(copied, run_id)


def read(repository: Path, run_id: str) -> None:
    import mlflow

    os.environ.pop("MLFLOW_TRACKING_URI", None)
    client, _ = store.open_store(repository)
    assert Path(client.download_artifacts(run_id, "picture.png")).read_bytes() == b"picture"
    folder = Path(mlflow.artifacts.download_artifacts("models:/x/1"))
    assert (folder / "picture.png").read_bytes() == b"picture"
    with sqlite3.connect(repository / "mlruns" / "mlflow.db") as connection:
        assert not [line for line in connection.iterdump() if "a clone/" in line and "INSERT" in line and "mlruns/0" not in line]
