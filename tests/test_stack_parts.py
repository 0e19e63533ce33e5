"""Parts of docs/stack.md: the pages of `make ui`, a server with accounts, a profile of AWS, and the data that a run names."""

from __future__ import annotations

import base64
import signal
import subprocess
from pathlib import Path

import boto3
import pytest

from components.base.errors import FarposeError
from components.registry import store, tracking
from tests.browser import Browser
from tests.faulty_proxy import FaultyProxy, _Handler
from tests.mlflow_server import Server
from tests.repositories import PYTHON, dvc, processes_of, python, toy_on_copy, toy_repository, variables
from tests.s3_server import s3_server
from tests.test_registry import repository  # noqa: F401  (a fixture)
from tests.test_safety_servers import holding
from tests.test_serving import free_ports

NAME, WORD = "somebody", "a-word-4711"
RECORDED = """
from components.registry import store, tracking
with tracking.run("train@toy", tags={"kind": "train"}) as run:
    run.metrics({"loss": 0.25})
client, _ = store.open_store()
client.create_registered_model("toy_model")
"""


@pytest.mark.operation
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_make_ui_opens_the_pages_of_trainings_models_and_flows_and_ctrl_c_ends_it(tmp_path):
    folder = toy_on_copy(tmp_path / "clone")
    made = python(folder, RECORDED)
    assert made.returncode == 0, made.stderr
    ports = dict(zip(("MLFLOW_PORT", "PREFECT_PORT"), free_ports(2), strict=True))
    default = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    command = [PYTHON, "-m", "pipelines.servers"]
    serving = subprocess.Popen(command, cwd=folder, env=variables() | ports, stdout=subprocess.PIPE, text=True, preexec_fn=default)
    try:
        said = []
        while serving.stdout is not None and not (line := serving.stdout.readline()).startswith("Ctrl-C"):
            assert line, "it ended"
            said.append(line)
        runs, models, flows = (word for line in said[:3] for word in line.split() if word.startswith("http://"))
        with Browser() as browser:  # MLflow's own first page is the one for language models
            for page, shown in ((runs, "train@toy"), (models, "toy_model"), (flows, "Runs")):
                browser.visit(page)
                browser.wait(f"document.body.innerText.includes({shown!r})")
    finally:
        serving.send_signal(signal.SIGINT)
        code = serving.wait(60)
    assert code == 0 and processes_of(folder) == []


class Asking(_Handler):
    """Hands on what carries the name and the word, as a server with accounts does, and refuses everything else."""

    def answer(self) -> None:
        if self.headers.get("Authorization") == "Basic " + base64.b64encode(f"{NAME}:{WORD}".encode()).decode():
            return super().answer()
        self._body()
        return self._say(401)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = answer


@pytest.mark.operation
@pytest.mark.slow
def test_name_and_password_of_the_environment_open_a_server_with_accounts(tmp_path, monkeypatch):
    with Server(tmp_path / "server").start() as server:
        gate = FaultyProxy(server.url, share=0.0)
        gate.RequestHandlerClass = Asking
        try:
            clone = tmp_path / "clone"
            clone.mkdir()
            for name, value in {"URI": gate.url, "USERNAME": NAME, "PASSWORD": WORD}.items():
                monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
            (tmp_path / "picture.png").write_bytes(b"\x89PNG")
            with tracking.run("train@toy", repository=clone) as run:
                run.metrics({"loss": 0.25})
                run.artifact(tmp_path / "picture.png")
            kept = run.client.get_run(run.run_id)
            assert kept.info.status == "FINISHED" and kept.data.metrics == {"loss": 0.25}
            assert [path.read_bytes() for path in (tmp_path / "server").rglob("picture.png")] == [b"\x89PNG"]
            assert holding(tmp_path, WORD) == []
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "another")
            with pytest.raises(FarposeError, match="401") as told:
                store.open_store(clone)
            assert not isinstance(told.value, store.Down) and "another" not in str(told.value).replace("another store", "")
        finally:
            gate.close()


@pytest.mark.operation
@pytest.mark.slow
def test_dvc_takes_the_credentials_of_a_profile(tmp_path, monkeypatch):
    toy = toy_repository(tmp_path / "toy")
    (toy / "photo.bin").write_bytes(bytes(range(256)))
    (tmp_path / "credentials").write_text("[team]\naws_access_key_id = of-the-team\naws_secret_access_key = word\nregion = us-east-1\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    profile = {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"), "AWS_PROFILE": "team", "AWS_EC2_METADATA_DISABLED": "true"}
    with s3_server() as address:
        client = boto3.client("s3", endpoint_url=address, aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1")
        client.create_bucket(Bucket="team")
        for arguments in (
            ("add", "photo.bin"),
            ("remote", "add", "--local", "--default", "store", "s3://team/farpose"),
            ("remote", "modify", "--local", "store", "endpointurl", address),
        ):
            done = dvc(toy, *arguments)
            assert done.returncode == 0, done.stderr
        without = dvc(toy, "push", AWS_EC2_METADATA_DISABLED="true")
        assert without.returncode != 0 and "Contents" not in client.list_objects_v2(Bucket="team")
        done = dvc(toy, "push", **profile)
        assert done.returncode == 0, done.stderr
        (stored,) = client.list_objects_v2(Bucket="team")["Contents"]
        assert client.get_object(Bucket="team", Key=stored["Key"])["Body"].read() == bytes(range(256))


def test_dvc_draws_the_losses_of_a_training(tmp_path: Path):
    toy = toy_repository(tmp_path / "toy")
    (toy / "loss.csv").write_text("epoch,loss\n0,0.75\n1,0.5\n")
    (toy / "dvc.yaml").write_text("plots:\n  - loss.csv:\n      x: epoch\n      y: loss\n      title: training loss of toy\n")
    done = dvc(toy, "plots", "show", "--out", "shown")
    assert done.returncode == 0, done.stderr
    page = (toy / "shown" / "index.html").read_text()
    assert "training loss of toy" in page and "0.75" in page


def test_a_run_names_its_data_and_shards_with_their_digests(repository: Path):  # noqa: F811
    """What MLflow's page lists under *Datasets used*."""
    with tracking.run("train@toy", repository=repository) as run:
        run.used_data("0123abcd.dir")
        run.used_shards("direct_64x48", "f" * 64, "training")
    used = run.client.get_run(run.run_id).inputs.dataset_inputs
    told = {one.dataset.name: (one.dataset.digest, one.dataset.source, {tag.key: tag.value for tag in one.tags}) for one in used}
    shards = ("f" * 36, "artifacts/shards/direct_64x48", {"mlflow.data.context": "training"})  # as long as MLflow's database keeps them
    assert told == {"data": ("0123abcd.dir", "data.dvc", {}), "direct_64x48": shards}
