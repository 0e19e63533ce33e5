"""Servers on loopback: `make ui` serves MLflow's and Prefect's pages until Ctrl-C; `farpose run` has its own Prefect server.

Their output, errors of their background services included, is in `mlruns/mlflow-server.log` and `mlruns/prefect-server.log`.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time

from components.base.config import REPOSITORY
from components.base.errors import FarposeError
from components.registry import store
from pipelines import environment

HOST = "127.0.0.1"
LOGS = REPOSITORY / "mlruns"
TRAINING = "machine_learning"  # MLflow's pages for training; its first page is the one for language models
START_S = 180.0  # a first start makes a database


def main() -> int:
    """Start both servers, print their addresses, and wait; exit code 1 if one cannot start."""
    from pipelines.cli import report

    environment.make_prefect_home()
    mlflow_port, prefect_port = int(os.environ.get("MLFLOW_PORT", "5000")), int(os.environ.get("PREFECT_PORT", "4200"))
    running: list[subprocess.Popen] = []
    try:
        for name, port in (("MLFLOW_PORT", mlflow_port), ("PREFECT_PORT", prefect_port)):
            if _answers(port):
                raise FarposeError(f"port {port} is taken", where=name, fix=f"{name}=ANOTHER make ui")
        _, experiment = store.open_store()  # so that the page has its experiment
        running = [_mlflow(mlflow_port), _prefect(prefect_port)]
        _wait_until_all_answer(running, (mlflow_port, prefect_port))
        print(f"MLflow   http://{HOST}:{mlflow_port}/#/experiments/{experiment}/runs?workflowType={TRAINING}   runs and metrics")
        print(f"         http://{HOST}:{mlflow_port}/#/models?workflowType={TRAINING}   registered models")
        print(f"Prefect  http://{HOST}:{prefect_port}/runs   flow runs and their graph")
        print(
            f"Runs of `farpose run` appear there at once with PREFECT_API_URL=http://{HOST}:{prefect_port}/api\nCtrl-C stops both; "
            "what they say is in mlruns/*-server.log",
            flush=True,
        )
        while all(process.poll() is None for process in running):
            time.sleep(0.5)
        raise FarposeError("a server stopped by itself", where="make ui")
    except KeyboardInterrupt:
        return 0
    except FarposeError as error:
        return report(error)
    finally:
        for process in running:
            _stop(process)


def own_prefect() -> None:
    """Start a Prefect server for the rest of this process, unless PREFECT_API_URL names one; before Prefect is imported.

    The server that Prefect would start by itself stops at the same Ctrl-C that the flow must still report to it. This one has
    its own process group and stops last: Prefect sends its logs while the interpreter shuts down.

    Raises:
        FarposeError: the server does not start.
    """
    if os.environ.get("PREFECT_API_URL"):
        return
    environment.make_prefect_home()
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    server = _prefect(port)
    atexit.register(_stop, server)
    _wait_until_all_answer([server], (port,))
    os.environ["PREFECT_API_URL"] = f"http://{HOST}:{port}/api"


def _mlflow(port: int) -> subprocess.Popen:
    arguments = ["mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    return _start([*arguments, "--backend-store-uri", store.tracking_uri(), "--registry-store-uri", store.tracking_uri()])


def _prefect(port: int) -> subprocess.Popen:
    os.environ["PREFECT_SERVER_UI_API_URL"] = f"http://{HOST}:{port}/api"
    return _start(["prefect", "server", "start", "--host", HOST, "--port", str(port)])


def _start(arguments: list[str]) -> subprocess.Popen:
    log = LOGS / f"{arguments[0]}-server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=REPOSITORY,
            env={**os.environ, **environment.SERVERS},
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )


def _end_with_parent() -> None:
    """On Linux: get SIGTERM when the parent is killed before it can send it (PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))


def _wait_until_all_answer(running: list[subprocess.Popen], ports: tuple[int, ...]) -> None:
    deadline = time.monotonic() + START_S
    while not all(_answers(port) for port in ports):
        if time.monotonic() > deadline or any(process.poll() is not None for process in running):
            raise FarposeError("a server does not start", fix=f"see {LOGS}/prefect-server.log and mlflow-server.log")
        time.sleep(0.3)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0


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
