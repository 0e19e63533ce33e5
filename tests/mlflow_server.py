"""MLflow's own server on loopback, to be killed and started again, a line to it that loses answers, and a run to look for in a store."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

import requests

from components.registry import tracking
from pipelines import environment

START_S = 900.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


class Server:
    """Started by `start`; its database and artifacts are in `folder`, unless the arguments say otherwise."""

    def __init__(self, folder: Path, *arguments: str, **variables: str) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        own = ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}", "--artifacts-destination", str(folder / "served")]
        self._arguments, self._variables = list(arguments) or own, variables
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> Server:
        command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1", *self._arguments]
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
        with open(self.folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *command],
                env={**kept, **environment.ALWAYS, **environment.SERVERS, **self._variables},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while not self.answers():
            assert time.monotonic() < deadline and self._process.poll() is None, (self.folder / "server.log").read_text()[-3000:]
            time.sleep(0.2)
        return self

    def answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/health", timeout=10).ok
        except requests.RequestException:
            return False

    def kill(self) -> None:
        """End it and its workers at once."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()


class Lossy:
    """Hands requests on to a server, and loses the answers of every `period`-th of them, after the server has done its work."""

    def __init__(self, url: str, period: int) -> None:
        session, count = requests.Session(), iter(range(1, 1 << 30))
        self.lost: list[str] = []
        lost = self.lost

        class Handler(BaseHTTPRequestHandler):
            def hand_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                sent = {key: value for key, value in self.headers.items() if key.lower() not in ("host", "accept-encoding")}
                answer = session.request(self.command, url + self.path, data=body, headers=sent, timeout=60)
                if next(count) % period == 0:
                    lost.append(f"{self.command} {self.path.partition('?')[0]}")
                    self.close_connection = True
                    return
                self.send_response(answer.status_code)
                self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = hand_on

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> Lossy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()


def run_with_picture(repository: Path, model: Path, picture: bytes) -> str:
    """The id of a run in a clone's store that has `picture.png`, and so has version 1 of the registered model `x`.

    Args:
        model: a folder that is made, with what is logged.
    """
    model.mkdir()
    (model / "picture.png").write_bytes(picture)
    with tracking.run("evaluate@x", repository=repository) as run:
        run.artifact(model / "picture.png")
        logged = run.client.create_logged_model(run.experiment_id, "x", source_run_id=run.run_id)
        run.client.log_model_artifacts(logged.model_id, str(model))
        run.client.create_registered_model("x")
        run.client.create_model_version("x", f"models:/{logged.model_id}", run_id=run.run_id, model_id=logged.model_id)
        return str(run.run_id)
