"""`make ui`: MLflow's and Prefect's pages on loopback, until Ctrl-C."""

from __future__ import annotations

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
        store.open_store()  # so that the page has its experiment
        running = [_mlflow(mlflow_port), _prefect(prefect_port)]
        _wait_until_all_answer(running, (mlflow_port, prefect_port))
        print(f"MLflow   http://{HOST}:{mlflow_port}   runs, metrics, models")
        print(f"Prefect  http://{HOST}:{prefect_port}   flow runs and their graph")
        print(
            f"Runs of `farpose run` appear there at once with PREFECT_API_URL=http://{HOST}:{prefect_port}/api\nCtrl-C stops both",
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


def _mlflow(port: int) -> subprocess.Popen:
    arguments = ["mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    return _start([*arguments, "--backend-store-uri", store.tracking_uri(), "--registry-store-uri", store.tracking_uri()])


def _prefect(port: int) -> subprocess.Popen:
    os.environ["PREFECT_SERVER_UI_API_URL"] = f"http://{HOST}:{port}/api"
    return _start(["prefect", "server", "start", "--host", HOST, "--port", str(port)])


def _start(arguments: list[str]) -> subprocess.Popen:
    log = REPOSITORY / "mlruns" / f"{arguments[0]}-server.log"
    with open(log, "wb") as stream:
        command = [sys.executable, "-m", *arguments]
        return subprocess.Popen(command, cwd=REPOSITORY, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)


def _wait_until_all_answer(running: list[subprocess.Popen], ports: tuple[int, ...]) -> None:
    deadline = time.monotonic() + START_S
    while not all(_answers(port) for port in ports):
        if time.monotonic() > deadline or any(process.poll() is not None for process in running):
            raise FarposeError("a server does not start", where="make ui", fix="see mlruns/mlflow-server.log and mlruns/prefect-server.log")
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
