"""Whether a process still runs, by its number and the time at which it started."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

SAME_START_S = 1.0  # start times are read from a clock that may be set


def this_process() -> str:
    """The name by which `living` finds this process: its number and start time."""
    import psutil

    return f"{os.getpid()}:{psutil.Process().create_time():.2f}"


def living(name: str) -> psutil.Process | None:
    """The process of this name, or None if it is gone; its number alone may be another process by now."""
    import psutil

    pid, _, started = name.partition(":")
    try:
        process = psutil.Process(int(pid))
        same = abs(process.create_time() - float(started)) < SAME_START_S
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.Error, ValueError):
        return None


def runs(process: psutil.Process) -> bool:
    """Whether this process, and no other one under its number, has not ended yet."""
    import psutil

    with contextlib.suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
