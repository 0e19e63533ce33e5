"""What `make serve` started: `mlruns/served.json` holds the processes' ids and start times.

A process that one of them starts carries a mark in its environment, so that a run is found after its worker died. Nothing is
ever ended because of its name.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from components.base import processes
from components.base.config import REPOSITORY
from components.base.files import read_json, write_json

MARK = "FARPOSE_SERVED"  # the environment variable
RECORD = REPOSITORY / "mlruns" / "served.json"


@dataclass
class Served:
    """Processes by name, as (pid, start in s since 1970), the servers' addresses, and MLflow's id of the experiment."""

    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    addresses: dict[str, str] = field(default_factory=dict)
    experiment: str = ""
    processes: dict[str, tuple[int, float]] = field(default_factory=dict)

    def add(self, name: str, pid: int) -> None:
        """Remember a process that was just started."""
        self.processes[name] = (pid, psutil.Process(pid).create_time())
        self.write()

    def write(self, path: Path | None = None) -> None:
        write_json(path or RECORD, asdict(self))

    def living(self) -> dict[str, psutil.Process]:
        """Those of the recorded processes that still run: the number alone may be another process by now."""
        found = {}
        for name, (pid, started) in self.processes.items():
            if (process := processes.living(f"{pid}:{started}")) is not None:
                found[name] = process
        return found

    def members(self) -> dict[int, psutil.Process]:
        """All processes that belong to it, by pid: recorded, descended from those, or marked; never this one."""
        found = {}
        for process in self.living().values():
            with contextlib.suppress(psutil.Error):
                found.update({member.pid: member for member in (process, *process.children(recursive=True))})
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark:
                    found[process.pid] = process
        found.pop(os.getpid(), None)
        return {pid: process for pid, process in found.items() if processes.runs(process)}


def read(path: Path | None = None) -> Served:
    """The record; an empty one if nothing was started."""
    path = path or RECORD
    return Served(**read_json(path)) if path.is_file() else Served()


def forget() -> None:
    """Remove the record."""
    RECORD.unlink(missing_ok=True)


def end(
    find: Callable[[], dict[int, psutil.Process]], patience_s: float, only_first: Callable[[psutil.Process], bool] | None = None
) -> None:
    """End the processes that `find` gives: ask them, wait, then kill. `only_first` picks those that are asked; they end the others."""
    for process in find().values():
        if only_first is None or only_first(process):
            _signal(process, signal.SIGTERM)
    for number, wait_s in ((signal.SIGTERM, patience_s), (signal.SIGKILL, 3.0), (signal.SIGKILL, 3.0)):
        deadline = time.monotonic() + wait_s
        while (left := find()) and time.monotonic() < deadline:
            time.sleep(0.1)
        for process in left.values():
            _signal(process, number)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.Error):
        process.send_signal(number)  # checks the start time again
