"""A real PostgreSQL on loopback, from Debian's packages, with a password, in a folder of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests.mlflow_server import free_port

PASSWORD = "hidden-word"
START_S = 120.0


def programs() -> Path:
    """The folder of PostgreSQL's programs, the newest if there are several."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    named = shutil.which("postgres")
    if not found and named is None:
        pytest.skip("no PostgreSQL on this machine (Debian: apt-get install postgresql)")
    return (found[-1] if found else Path(str(named)).resolve()).parent


class Postgres:
    """Started by `start`, killed by `kill`; what it holds stays until the block ends."""

    def __init__(self) -> None:
        self._programs, self.port = programs(), free_port()
        self.address = f"postgresql://farpose:{PASSWORD}@127.0.0.1:{self.port}/postgres"
        self._folder = Path(tempfile.mkdtemp(prefix="farpose-postgres-"))
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:  # it refuses to run as root
            nobody = pwd.getpwnam("nobody")
            self._user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(self._folder, nobody.pw_uid, nobody.pw_gid)
        self._process: subprocess.Popen[bytes] | None = None
        word = self._folder / "word"
        word.write_text(PASSWORD)
        word.chmod(0o644)
        options = ["--auth=scram-sha-256", f"--pwfile={word}", "--username=farpose", "--no-sync", "--encoding=UTF8", "--locale=C"]
        self._run("initdb", "-D", str(self._data), *options)

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def start(self) -> Postgres:
        command = [str(self._programs / "postgres"), "-D", str(self._data), "-p", str(self.port), "-k", str(self._folder)]
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [*command, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"],
                cwd=self._folder,
                stdout=log,
                stderr=log,
                **self._user,
            )
        deadline = time.monotonic() + START_S
        while self._ready().returncode:
            assert time.monotonic() < deadline and self._process.poll() is None, (self._folder / "log").read_text()[-3000:]
            time.sleep(0.2)
        return self

    def kill(self) -> None:
        """End it at once, as when its machine is switched off; it mends its files at the next start."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(60)
            self._process = None

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        psycopg2 = pytest.importorskip("psycopg2")
        connection = psycopg2.connect(self.address)
        try:
            with connection.cursor() as cursor:
                cursor.execute(query)
                return list(cursor.fetchall())
        finally:
            connection.close()

    def _ready(self) -> subprocess.CompletedProcess[bytes]:
        command = [str(self._programs / "pg_isready"), "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, capture_output=True, check=False)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._programs / program), *arguments], cwd=self._folder, capture_output=True, text=True, check=False, **self._user
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def __enter__(self) -> Postgres:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
