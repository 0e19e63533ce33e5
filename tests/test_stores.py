"""PostgreSQL and S3 as MLflow's store, named by the environment alone: runs, pictures and models, and a database that goes away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import numpy as np
import psutil
import pytest
import requests

from components.base.errors import FarposeError
from components.registry import register, store, tracking, waiting
from pipelines import servers
from tests.mlflow_server import free_port
from tests.postgres import PASSWORD, Postgres
from tests.s3_server import s3_server
from tests.test_registry import NAME, candidate  # noqa: F401  a fixture

PICTURE = b"\x89PNG" + bytes(range(256))


@pytest.fixture
def database() -> Iterator[Postgres]:
    pytest.importorskip("psycopg2", reason="the driver is missing: make setup EXTRAS=postgres")
    with Postgres() as made:
        yield made.start()


@pytest.fixture
def bucket(monkeypatch) -> Iterator[str]:
    """The address of an S3 server with a bucket `runs`; credentials are in the environment alone."""
    for name, value in {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret-key", "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    with s3_server() as address:
        boto3.client("s3", endpoint_url=address).create_bucket(Bucket="runs")
        yield address


def objects(address: str) -> dict[str, bytes]:
    client = boto3.client("s3", endpoint_url=address)
    keys = [item["Key"] for item in client.list_objects_v2(Bucket="runs").get("Contents", [])]
    return {key: client.get_object(Bucket="runs", Key=key)["Body"].read() for key in keys}


@pytest.mark.operation
@pytest.mark.slow
def test_postgres_and_s3_hold_everything_and_may_go_away(database, bucket, candidate, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database.address)
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", "s3://runs/farpose")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", bucket)
    repository = tmp_path / "clone"
    repository.mkdir()
    (tmp_path / "picture.png").write_bytes(PICTURE)
    with tracking.run(f"train@{NAME}", params={"recipe": {"epochs": 2}}, tags={"kind": "train"}, repository=repository) as run:
        run.metrics({"loss": 0.25}, step=1)
        run.artifact(tmp_path / "picture.png")
        run.tags({register.WEIGHTS_TAG: candidate.weights_sha256})
        register.register(
            replace(candidate, card="# card\n\n" + "\n## Part\n".join("x" * 900 for _ in range(9))), run
        )  # as long as real ones
    assert database.ask("select key, value, step from metrics where key = 'loss'") == [("loss", 0.25, 1)]
    assert database.ask("select value from params where key = 'recipe.epochs'") == [("2",)]
    kept = objects(bucket)
    assert kept[f"farpose/{run.run_id}/artifacts/picture.png"] == PICTURE
    assert candidate.weights.read_bytes() in kept.values()
    assert sorted(path.name for path in (repository / "mlruns").iterdir()) == [".store.lock", "waiting"]  # nothing is on this disk
    crops = np.ascontiguousarray(candidate.examples.transpose(0, 2, 3, 1))
    assert register.load(NAME, repository=repository).predict(crops)["keypoints"].shape == (len(crops), 17, 2)
    page(run.run_id)
    goes_away(database, repository, monkeypatch)


def page(run_id: str) -> None:
    """MLflow's server, started as `make ui` starts it, shows the picture of the bucket, and nobody reads the password off it."""
    port = free_port()
    server = servers.start_mlflow(port, lambda name, arguments, variables: servers.start_process(name, arguments, variables))
    try:
        servers.wait_until_all_answer([server], [f"http://127.0.0.1:{port}/health"])
        answer = requests.get(f"http://127.0.0.1:{port}/get-artifact", {"path": "picture.png", "run_uuid": run_id}, timeout=60)
        assert answer.content == PICTURE
        shown = [part for one in (psutil.Process(server.pid), *psutil.Process(server.pid).children(True)) for part in one.cmdline()]
        assert shown and not any(PASSWORD in part or "secret-key" in part for part in shown)
    finally:
        servers._stop(server)


def goes_away(database: Postgres, repository: Path, monkeypatch) -> None:
    with tracking.run("evaluate@x", repository=repository) as run:
        run.metrics({"before": 1.0})
        database.kill()
        run.metrics({"during": 2.0})
    assert len(waiting.records(repository)) == 1 and PASSWORD not in run.record.journal.read_text()
    with pytest.raises(store.Down) as told:
        store.open_store(repository)
    assert PASSWORD not in str(told.value) and "start it" in str(told.value)
    database.start()
    assert tracking.ready(repository) is not None and waiting.records(repository) == []
    query = "select name, status, m.key, m.value from runs join metrics m using (run_uuid) where name = 'evaluate@x' order by key"
    assert database.ask(query) == [("evaluate@x", "FINISHED", "before", 1.0), ("evaluate@x", "FINISHED", "during", 2.0)]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database.address.replace(PASSWORD, "wrong-word"))
    with pytest.raises(FarposeError) as refused:
        store.open_store(repository)
    assert not isinstance(refused.value, store.Down) and "wrong-word" not in str(refused.value)
    assert "password authentication failed" in str(refused.value)
