"""Servers on loopback: `make ui` serves MLflow's and Prefect's pages until Ctrl-C; `farpose run` has a Prefect server of its own.

`make serve` (pipelines.serving) starts the same two to stay. Their output, errors of their background services included, is in
`mlruns/mlflow-server.log` and `mlruns/prefect-server.log`; the log of the start before is kept as `….log.1`.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from components.base.config import REPOSITORY
from components.base.errors import FarposeError
from components.registry import store, tracking
from components.registry.secrets import without_secrets
from pipelines import environment, served

HOST = "127.0.0.1"
LOGS = REPOSITORY / "mlruns"
MLFLOW, PREFECT = "mlflow-server", "prefect-server"  # names of the logs and of the records
PORTS = {"MLFLOW_PORT": 5000, "PREFECT_PORT": 4200}
TRAINING = "machine_learning"  # MLflow's pages for training; its first page is the one for language models
START_S = 180.0  # a first start makes a database
ANSWER_S = 10.0
HEALTH = ("/health", "/api/health")  # of MLflow and of Prefect


def main() -> int:
    """Start both servers, print their addresses, and wait; exit code 1 if one cannot start."""
    from pipelines.cli import report

    running: list[subprocess.Popen] = []
    try:
        if served.read().living():
            raise FarposeError("the servers of `make serve` run already", where="make ui", fix="`make serve` prints their addresses")
        ports = [free_port(name, "make ui") for name in PORTS]
        prepare_folder()
        _, experiment = store.open_store()  # so that the page has its experiment
        tracking.ready()
        running = [start_mlflow(ports[0]), start_prefect(ports[1])]
        wait_until_all_answer(running, [url + path for url, path in zip(map(url_of, ports), HEALTH, strict=True)])
        print("\n".join(pages(url_of(ports[0]), url_of(ports[1]), experiment)))
        print(
            f"Runs of `farpose run` appear there at once with PREFECT_API_URL={url_of(ports[1])}/api\nCtrl-C stops both; "
            "what they say is in mlruns/*-server.log",
            flush=True,
        )
        while all(process.poll() is None for process in running):
            time.sleep(0.5)
        raise FarposeError("a server stopped by itself", where="make ui", fix=f"see {LOGS}/*-server.log")
    except KeyboardInterrupt:
        return 0
    except FarposeError as error:
        return report(error)
    finally:
        for process in running:
            _stop(process)


def pages(mlflow: str, prefect: str, experiment: str) -> list[str]:
    """Where a person looks; one line per page."""
    return [
        f"MLflow   {mlflow}/#/experiments/{experiment}/runs?workflowType={TRAINING}   runs and metrics",
        f"         {mlflow}/#/models?workflowType={TRAINING}   registered models",
        f"Prefect  {prefect}/runs   flow runs and their graph",
    ]


def own_prefect() -> None:
    """Name a Prefect server for the rest of this process, before Prefect is imported.

    It is the one of PREFECT_API_URL, else that of `make serve`, else one that starts here. The server that Prefect would start by
    itself stops at the same Ctrl-C that the flow must still report to it. This one has its own process group and stops last:
    Prefect sends its logs while the interpreter shuts down.

    Raises:
        FarposeError: the server does not start, or PREFECT_API_URL names none that answers.
    """
    if prefect_in_use():
        return
    from filelock import FileLock

    prepare_folder()
    with FileLock(Path(os.environ["PREFECT_HOME"]) / ".start.lock"):  # two that start at once would both make the database's tables
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]
        server = start_prefect(port)
        atexit.register(_stop, server)
        wait_until_all_answer([server], [url_of(port) + HEALTH[1]])
    os.environ["PREFECT_API_URL"] = f"{url_of(port)}/api"


def prefect_in_use() -> bool:
    """Whether a Prefect server runs already: that of PREFECT_API_URL, else that of `make serve`, whose address the variable then gets.

    Raises:
        FarposeError: none answers at PREFECT_API_URL.
    """
    if address := os.environ.get("PREFECT_API_URL"):
        if problem := problem_of(f"{address.rstrip('/')}/health"):
            fix = "unset PREFECT_API_URL, or start the server that it names; the address ends in /api"
            raise FarposeError(without_secrets(f"no Prefect server answers at {address}: {problem}"), where="PREFECT_API_URL", fix=fix)
        return True
    record = served.read()
    if PREFECT in record.living():
        os.environ["PREFECT_API_URL"] = f"{record.addresses[PREFECT]}/api"
        return True
    return False


def free_port(name: str, command: str, known: str = "") -> int:
    """The port that is `known`, else that of the environment variable, or its default.

    Raises:
        FarposeError: it is no port, or something answers there.
    """
    text = known or os.environ.get(name) or str(PORTS[name])
    if not text.isdecimal() or not 0 < int(text) < 1 << 16:
        raise FarposeError(
            f"{text!r} is no port", where=name, fix=f"{name}={PORTS[name] + 1} {command}, or another free number up to 65535"
        )
    with socket.socket() as probe:
        probe.settimeout(1.0)
        if probe.connect_ex((HOST, int(text))) == 0:
            raise FarposeError(f"port {text} is taken", where=name, fix=f"{name}=ANOTHER {command}")
    return int(text)


def url_of(port: int) -> str:
    return f"http://{HOST}:{port}"


def prepare_folder() -> None:
    """Make `mlruns/` and Prefect's folder.

    Raises:
        FarposeError: this user cannot write there, or Prefect cannot name its database there.
    """
    store.sqlite_address(Path(os.environ["PREFECT_HOME"]) / "prefect.db", "PREFECT_HOME")
    try:
        environment.make_prefect_home()
        LOGS.mkdir(parents=True, exist_ok=True)
        for folder in (LOGS, Path(os.environ["PREFECT_HOME"])):
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError as error:
        raise FarposeError(f"cannot be written: {error.strerror}", where=error.filename or LOGS, fix=f"make {LOGS} writable") from error


def start_mlflow(port: int, start: Callable[..., subprocess.Popen] | None = None) -> subprocess.Popen:
    arguments = ["mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1", "--uvicorn-opts", "--log-level warning"]
    address = store.tracking_uri()  # a password in it is not for the list of processes
    return (start or start_process)(MLFLOW, arguments, {"MLFLOW_BACKEND_STORE_URI": address, "MLFLOW_REGISTRY_STORE_URI": address})


def start_prefect(port: int, start: Callable[..., subprocess.Popen] | None = None) -> subprocess.Popen:
    arguments = ["prefect", "server", "start", "--host", HOST, "--port", str(port)]
    return (start or start_process)(PREFECT, arguments, {"PREFECT_SERVER_UI_API_URL": f"{url_of(port)}/api"})


def start_process(name: str, arguments: list[str], variables: Mapping[str, str], stays: bool = False) -> subprocess.Popen:
    """Start `python -m ARGUMENTS` in a session of its own, output in `mlruns/NAME.log`; it ends with us unless it `stays`."""
    log = LOGS / f"{name}.log"
    if log.is_file():
        os.replace(log, log.with_name(f"{log.name}.1"))
    with open(log, "wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=REPOSITORY,
            env={**os.environ, **environment.SERVERS, **variables},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=None if stays else _end_with_parent,
        )


def _end_with_parent() -> None:
    """On Linux: get SIGTERM when the parent is killed before it can send it (PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))


def wait_until_all_answer(running: list[subprocess.Popen], addresses: list[str]) -> None:
    """Wait until every address answers.

    Raises:
        FarposeError: a process ended, or took too long.
    """
    deadline = time.monotonic() + START_S
    waiting = list(addresses)
    while waiting := [address for address in waiting if problem_of(address)]:
        if time.monotonic() > deadline or any(process.poll() is not None for process in running):
            raise FarposeError(f"no server starts at {waiting[0]}", fix=f"see {LOGS}/*-server.log")
        time.sleep(0.3)


def problem_of(address: str) -> str:
    """Why no health page is at `address`; empty if one is. One that asks for a password is."""
    import requests

    try:
        answer = requests.get(address, timeout=ANSWER_S)
    except requests.exceptions.ConnectionError:
        return "nothing listens there"
    except requests.exceptions.RequestException as error:
        return " ".join(str(error).split())[:200]
    well = answer.status_code in (401, 403) or (answer.ok and answer.text.strip() in ("OK", "true"))
    return "" if well else f"something else answers, with status {answer.status_code}"


def _stop(process: subprocess.Popen) -> None:
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(10)
    except ProcessLookupError:
        return
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
