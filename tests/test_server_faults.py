"""Ports, addresses and stores that cannot be used: one line with the way out, with the real thing each time."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.base.errors import FarposeError
from components.registry import store
from tests.repositories import PYTHON, assert_one_line, copy_of_this, module, variables

NOWHERE = "http://127.0.0.1:9/api"  # nothing listens on the discard port
POSTGRES = "postgresql://somebody:hidden@127.0.0.1:9/mlflow"
NO_DRIVER = 'raise ModuleNotFoundError("No module named \'psycopg2\'", name="psycopg2")\n'  # as where the extra was not asked for
COMMANDS = {"make ui": ("pipelines.servers",), "make serve": ("pipelines.serving",), "farpose run": ("pipelines.cli", "run")}


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    return copy_of_this(tmp_path_factory.mktemp("a space") / "clone")


@pytest.fixture
def mlruns(clone: Path) -> Iterator[Path]:
    """The clone's folder of records, empty."""
    folder = clone / "mlruns"
    folder.mkdir()
    yield folder
    folder.chmod(0o700)
    shutil.rmtree(folder)


@pytest.fixture
def taken() -> Iterator[str]:
    """A port at which something answers, but no page."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield str(server.getsockname()[1])


def run(clone: Path, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return module(clone, *COMMANDS[command], **environment)


@pytest.mark.parametrize("command", ["make ui", "make serve"])
@pytest.mark.parametrize("variable", ["MLFLOW_PORT", "PREFECT_PORT"])
@pytest.mark.parametrize(("value", "problem"), [("abc", "'abc' is no port"), ("70000", "'70000' is no port"), (None, "is taken")])
def test_a_port_that_cannot_be_used(clone, mlruns, taken, command, variable, value, problem):
    others = {"MLFLOW_PORT": "58731", "PREFECT_PORT": "58732"}
    done = run(clone, command, **others | {variable: value or taken})
    assert_one_line(done, f"{variable}: ", problem, f"{variable}=", command)


@pytest.mark.parametrize("arguments", [("run",), ("schedule",), ("schedule", "0 3 * * *")], ids=" ".join)
def test_an_address_at_which_no_prefect_server_answers(clone, mlruns, arguments):
    done = module(clone, "pipelines.cli", *arguments, PREFECT_API_URL=NOWHERE)
    assert_one_line(done, f"PREFECT_API_URL: no Prefect server answers at {NOWHERE}: nothing listens there", "unset PREFECT_API_URL")


def test_an_address_at_which_something_else_answers(clone, mlruns, tmp_path):
    command = [PYTHON, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        port = server.stdout.readline().split("port ")[1].split()[0]  # Serving HTTP on 127.0.0.1 port 12345 (…
        done = module(clone, "pipelines.cli", "schedule", PREFECT_API_URL=f"http://127.0.0.1:{port}")
        server.kill()
    assert_one_line(done, "something else answers, with status 404", "the address ends in /api")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ((), ("no Prefect server runs", "`make serve` starts it")),
        (("off",), ("no Prefect server runs", "`make serve` starts it")),
        (("0", "3", "CONTRIBUTING.md", "Makefile", "README.md", "dvc.yaml"), ("one argument", 'quotes: farpose schedule "0 3 * * *"')),
    ],
)
def test_a_schedule_without_a_server_or_without_quotes(clone, mlruns, arguments, parts):
    assert_one_line(module(clone, "pipelines.cli", "schedule", *arguments), *parts)


@pytest.mark.parametrize("command", ["make serve", "farpose run"])
def test_a_folder_of_records_that_cannot_be_written(clone, mlruns, command):
    mlruns.chmod(0o500)
    limited = [] if os.geteuid() else ["setpriv", "--bounding-set=-dac_override"]  # else root may write anywhere
    if limited and not shutil.which("setpriv"):
        pytest.skip("root writes anywhere, and setpriv is missing")
    done = subprocess.run(
        [*limited, PYTHON, "-m", *COMMANDS[command]], cwd=clone, env=variables(), capture_output=True, text=True, check=False
    )
    assert_one_line(done, f"{mlruns}", "cannot be written", f"make {mlruns}", "writable")


@pytest.mark.parametrize(
    ("command", "address", "parts"),
    [
        ("make serve", "", ("mlflow.db: no MLflow store: the database is damaged", "move it away")),
        ("farpose run", POSTGRES, ("no MLflow store: the driver psycopg2 is missing", "`make setup EXTRAS=postgres`")),
    ],
    ids=["damaged", "no driver"],
)
def test_a_store_that_does_not_open(clone, mlruns, tmp_path, command, address, parts):
    (mlruns / "mlflow.db").write_text("these bytes are no database, " * 200)
    (tmp_path / "psycopg2.py").write_text(NO_DRIVER)
    path = os.pathsep.join([str(clone), str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = run(clone, command, PYTHONPATH=path, **({"MLFLOW_TRACKING_URI": address} if address else {}))
    assert_one_line(done, *parts)
    assert "hidden" not in done.stdout + done.stderr
    assert not (mlruns / "served.json").exists() and not list(mlruns.glob("*.log"))  # nothing was started


@pytest.mark.parametrize("damage", ["overwritten", "cut"])
def test_a_damaged_database_is_named_whatever_the_damage(tmp_path, monkeypatch, damage):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store.open_store(tmp_path)
    path = tmp_path / "mlruns" / "mlflow.db"
    whole = path.read_bytes()
    path.write_bytes(b"\0" * 4096 + whole[4096:] if damage == "overwritten" else whole[: len(whole) // 3])
    with pytest.raises(FarposeError, match=r"mlflow\.db: no MLflow store: the database is damaged \(put a backup in its place"):
        store.open_store(tmp_path)


@pytest.mark.operation
@pytest.mark.slow  # MLflow tries for seconds itself
def test_a_locked_database_is_tried_again_and_then_named(tmp_path, monkeypatch):
    path = tmp_path / "mlruns" / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}?timeout=0.1")  # how long SQLite itself waits, s
    _, experiment = store.open_store(tmp_path)
    writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr(store, "LOCK_S", 0.0)
    with pytest.raises(FarposeError, match=rf"another process keeps the database locked .*fuser {path}"):
        store.open_store(tmp_path)
    monkeypatch.setattr(store, "LOCK_S", 120.0)
    started = time.monotonic()
    release = threading.Timer(3.0, lambda: writer.execute("COMMIT"))
    release.start()
    assert store.open_store(tmp_path)[1] == experiment and time.monotonic() - started > 2.5
    release.join()
    writer.close()
