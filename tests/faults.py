"""What tests of faults share: how often they repeat, where they count, and processes to wait for."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

REPEATS, RECORD = "FARPOSE_FAULT_REPEATS", "FARPOSE_FAULT_RECORD"  # variables that `python -m benchmarks.faults` sets
PATIENCE_S = 240.0


def repeats(default: int) -> int:
    """How often a test repeats: `default` here, what `python -m benchmarks.faults` asks for there."""
    return max(default, int(os.environ.get(REPEATS, "0")))


def survived(fault: str, times: int) -> None:
    """Count faults that were survived; called once all of them were."""
    if path := os.environ.get(RECORD):
        with open(path, "a") as stream:
            stream.write(json.dumps({"fault": fault, "survived": times}) + "\n")


def wait_until(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """What `condition` gives once it is true."""
    deadline = time.monotonic() + patience_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {patience_s:.0f} s: {what}"
        time.sleep(0.02)
    return found


def working_in(folder: Path) -> list[str]:
    """Command lines of all processes that work in `folder`, below it, or name it, but this one."""
    found = []
    for process in psutil.process_iter():
        try:
            here = Path(process.cwd()).is_relative_to(folder) or str(folder) in " ".join(process.cmdline())
            if here and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except (psutil.Error, OSError):
            continue
    return found
