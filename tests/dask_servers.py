"""A Dask scheduler and its workers, as processes of this machine that are started as docs/scale.md says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.repositories import PYTHON, REPOSITORY, variables

DASK = str(Path(PYTHON).parent / "dask")
PAGES = ("--dashboard-address", "127.0.0.1:0")  # else they are open to all, with `--no-dashboard` too
PATIENCE_S = 240.0


@contextmanager
def scheduler(workers: int, folder: Path) -> Iterator[str]:
    """The address of a scheduler on loopback with so many workers, each a process with a nanny; their logs are in `folder`."""
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, *arguments: str) -> Path:
        log = folder / f"{name}.log"
        environment = variables() | {"PYTHONPATH": str(REPOSITORY)}
        with log.open("w") as stream:
            started.append(
                subprocess.Popen([DASK, *arguments], cwd=folder, env=environment, stdout=stream, stderr=stream, start_new_session=True)
            )
        return log

    def said(what: str, log: Path) -> re.Match[str]:
        def found() -> re.Match[str] | None:
            assert started[-1].poll() is None, log.read_text()
            return re.search(what, log.read_text())

        return waited(found, log)

    try:
        address = said(r"tcp://127\.0\.0\.1:\d+", start("scheduler", "scheduler", "--host", "127.0.0.1", "--port", "0", *PAGES))[0]
        for number in range(workers):
            said("Registered to", start(f"worker{number}", "worker", address, "--host", "127.0.0.1", "--nthreads", "1", *PAGES))
        yield address
    finally:
        for process in reversed(started):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def waited(until, log: Path):
    deadline = time.monotonic() + PATIENCE_S
    while not (found := until()):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    return found
