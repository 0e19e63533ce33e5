"""Servers on loopback alone, with their checks on, and credentials that reach no message, tag, artifact or file."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from components.base.errors import FarposeError
from components.registry import store, tracking
from components.registry.secrets import without_secrets
from pipelines import servers
from tests.repositories import assert_one_line, copy_of_this, module, python
from tests.test_clone_paths import ARTIFACT, DOCTOR, FLOW
from tests.test_serving import NAMES, Clone

SECRET = "hidden-4711"
NOWHERE = "127.0.0.1:9"  # nothing listens on the discard port
STORES = {
    "a server": f"http://somebody:{SECRET}@{NOWHERE}",
    "a path": f"http://somebody:{SECRET}@{NOWHERE}/below",
    "an at sign": f"http://somebody:pass@{SECRET}@{NOWHERE}",
    "no driver": f"postgresql+pg8000://somebody:{SECRET}@{NOWHERE}/mlflow",
    "no such kind": f"nonsense://somebody:{SECRET}@{NOWHERE}/mlflow",
}
AWS = {
    "AWS_ACCESS_KEY_ID": f"AKIA-{SECRET}",
    "AWS_SECRET_ACCESS_KEY": f"key-{SECRET}",
    "AWS_SESSION_TOKEN": f"token-{SECRET}",
    "AWS_DEFAULT_REGION": "us-east-1",
}


WAITS = """
import contextlib
from pipelines import environment
from components.registry import tracking
with contextlib.suppress(ValueError), tracking.run("one") as run:
    run.params({"seed": 1})
    raise ValueError("an error")
"""


def holding(folder: Path, text: str) -> list[str]:
    """Files below a folder that hold a text."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


@pytest.mark.operation
@pytest.mark.slow
def test_servers_listen_on_loopback_refuse_strangers_and_keep_a_password_to_themselves(tmp_path):
    first, second = Clone(tmp_path / "first"), Clone(tmp_path / "second")
    try:
        first.make()
        processes = [psutil.Process(first.pid(name)) for name in NAMES]
        family = [member for process in processes for member in (process, *process.children(recursive=True))]
        listening = {
            (socket.laddr.ip, str(socket.laddr.port))
            for process in family
            for socket in process.net_connections(kind="inet")
            if socket.status == psutil.CONN_LISTEN
        }
        assert {port for _, port in listening} >= set(first.ports.values()) and {ip for ip, _ in listening} == {"127.0.0.1"}

        mlflow = f"http://127.0.0.1:{first.ports['MLFLOW_PORT']}"
        search = f"{mlflow}/api/2.0/mlflow/experiments/search"
        ask = {"max_results": 1}
        assert first.session.post(search, json=ask, timeout=60).status_code == 200
        assert first.session.post(search, json=ask, headers={"Origin": mlflow}, timeout=60).status_code == 200
        for strange in ({"Host": "attacker.example"}, {"Origin": "http://attacker.example"}):
            assert first.session.post(search, json=ask, headers=strange, timeout=60).status_code == 403, strange
        assert first.session.get(f"{mlflow}/", headers={"Host": "attacker.example"}, timeout=60).status_code == 403

        named = {"MLFLOW_TRACKING_URI": mlflow.replace("//", f"//somebody:{SECRET}@")}
        done = module(second.folder, "pipelines.serving", **second.ports, **named)
        said = done.stdout + done.stderr
        assert done.returncode == 0 and f"MLflow   {mlflow}/#/" in said, said + second.logs()
        for code in (ARTIFACT, FLOW):
            done = python(second.folder, code, **named)
            assert done.returncode == 0, done.stdout + done.stderr
            said += done.stdout + done.stderr
        of_a_worker = psutil.Process(second.pid(NAMES[2]))
        assert of_a_worker.environ()["MLFLOW_TRACKING_URI"] == named["MLFLOW_TRACKING_URI"]  # its runs need it
        arguments = [" ".join(member.cmdline()) for member in (of_a_worker, *of_a_worker.children(recursive=True))]
        assert SECRET not in said + "".join(arguments)
    finally:
        for clone in (second, first):
            module(clone.folder, "pipelines.serving", "stop")
    assert holding(tmp_path, SECRET) == []  # databases, logs, records and artifacts of both


@pytest.mark.parametrize("kind", STORES)
def test_an_address_that_fails_is_named_without_its_password(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", STORES[kind])
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(FarposeError) as caught:
        store.open_store(tmp_path)
    assert SECRET not in str(caught.value) and NOWHERE in str(caught.value) and "MLFLOW_TRACKING_URI" in str(caught.value)


def test_a_store_s_password_is_no_argument_of_a_process(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", STORES["no driver"])
    started: list[tuple[list[str], dict[str, str]]] = []
    servers.start_mlflow(5000, lambda name, arguments, variables: started.append((arguments, dict(variables))))
    ((arguments, environment),) = started
    assert SECRET not in " ".join(arguments) and set(environment.values()) == {STORES["no driver"]}


def test_a_failed_run_s_tags_hold_no_secret(tmp_path, monkeypatch, empty_tables):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    (tmp_path / "mlflow.db").write_bytes(empty_tables.read_bytes())
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    text = f"{STORES['a server']}: {AWS['AWS_SECRET_ACCESS_KEY']} {AWS['AWS_SESSION_TOKEN']} refused"
    with pytest.raises(RuntimeError), tracking.run("fetch", repository=tmp_path):
        raise RuntimeError(text)
    assert holding(tmp_path, "refused") == ["mlflow.db"] and holding(tmp_path, SECRET) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://a:b@h:1/x failed", "http://h:1/x failed"),
        ("at postgresql://a:p@ss@h/db?x=1", "at postgresql://h/db?x=1"),
        ("https://token@h", "https://h"),
        ("http://h:1/#/models/NAME@champion", "http://h:1/#/models/NAME@champion"),
        ("NAME@champion, a@b.example, s3://bucket/a@b", "NAME@champion, a@b.example, s3://bucket/a@b"),
    ],
)
def test_what_is_taken_out_of_a_text(text, shown):
    assert without_secrets(text) == shown


@pytest.mark.operation
@pytest.mark.slow
def test_commands_whose_connections_fail_show_and_keep_no_credentials(tmp_path):
    clone = copy_of_this(tmp_path / "clone")
    (clone / "mlruns").mkdir()
    server = {"MLFLOW_TRACKING_URI": STORES["a server"], "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    prefect = {"PREFECT_API_URL": f"http://somebody:{SECRET}@{NOWHERE}/api"}
    kept = python(clone, WAITS, **server)
    assert kept.returncode == 0 and "MLflow does not answer" in kept.stderr and SECRET not in kept.stdout + kept.stderr, kept.stderr
    assert holding(clone / "mlruns" / "waiting", "an error")
    assert_quiet(module(clone, "pipelines.serving", **server), "no MLflow store")
    assert_quiet(module(clone, "pipelines.cli", "run", **prefect), "no Prefect server answers")
    origin = ("acquire", "coco", "--from", "s3://bucket/prefix", "--endpoint", f"http://{NOWHERE}")
    assert_quiet(module(clone, "pipelines.cli", *origin, **AWS, AWS_MAX_ATTEMPTS="1"), "bucket")
    assert_quiet(module(clone, "pipelines.cli", "acquire", "coco", "--from", f"http://somebody:{SECRET}@{NOWHERE}/coco.zip"), NOWHERE)
    told = python(clone, DOCTOR, **server, **prefect, **AWS)
    assert f"http://{NOWHERE} (server)" in told.stdout and f"http://{NOWHERE}/api" in told.stdout, told.stderr
    assert SECRET not in told.stdout + told.stderr
    assert holding(clone, SECRET) == []


def assert_quiet(done, *parts: str) -> None:
    assert_one_line(done, *parts)
    assert SECRET not in done.stdout + done.stderr
