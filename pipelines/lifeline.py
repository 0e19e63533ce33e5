"""Processes that end together: a stage ends soon after the DVC or the flow that runs it, however that ended.

On Linux the kernel tells at once (PR_SET_PDEATHSIG, pidfd); elsewhere a thread looks every second.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

from components.base import processes

if TYPE_CHECKING:
    import psutil

DRIVER = "FARPOSE_DRIVER"  # variable of a stage's environment: pid and start time of the process whose driver runs it
DVC_STAGE = "DVC_STAGE"  # that DVC sets for the command of a stage
SHELLS = ("sh", "bash", "dash", "zsh", "ksh", "fish", "busybox")  # DVC runs a stage's command in one
LOOK_EVERY_S = 1.0
GRACE_S = 8.0  # between asking this process to end and killing it
INTERRUPTED, TERMINATED = 130, 143  # exit codes: 128 + number of the signal
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: a child between fork and exec loads nothing


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived; like Ctrl-C, with another exit code."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Within the block SIGTERM raises `Terminated` in the main thread, so that what runs can put things in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def raise_it(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, raise_it)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def end_with_parent() -> None:
    """On Linux: get SIGTERM when the parent's thread that started this process ends. For `preexec_fn`."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))


def follow() -> None:
    """In a stage that DVC runs: end this process, as SIGTERM does, once that DVC is gone, or the flow that runs the DVC.

    Raises:
        Terminated: one of them is gone already.
    """
    if DVC_STAGE not in os.environ:
        return
    leaders = _leaders()
    if leaders is None:
        raise Terminated
    threading.Thread(target=_end_after, args=(leaders,), daemon=True, name="lifeline").start()


def _leaders() -> list[psutil.Process] | None:
    """DVC's process, the shell between if there is one, and the flow's; None if one is gone."""
    import psutil

    found = []
    try:
        parent = psutil.Process().parent()
        if parent is None or (parent.pid == 1 and "dvc" not in " ".join(parent.cmdline())):  # adopted
            return None
        found.append(parent)
        if parent.name() in SHELLS and (above := parent.parent()) is not None:
            if above.pid == 1 and "dvc" not in " ".join(above.cmdline()):
                return None
            found.append(above)
    except psutil.AccessDenied:
        pass
    except psutil.NoSuchProcess:
        return None
    if named := os.environ.get(DRIVER):
        driver = processes.living(named)
        if driver is None:
            return None
        found.append(driver)
    return found


def _end_after(leaders: list[psutil.Process]) -> None:
    _wait_for_one(leaders)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)


def _wait_for_one(watched: list[psutil.Process]) -> None:
    """Return when one of the processes has ended."""
    handles: list[int] = []
    with contextlib.suppress(OSError, AttributeError):  # AttributeError: not on Linux
        handles = [os.pidfd_open(process.pid) for process in watched]
    while all(processes.runs(process) for process in watched):  # asked after opening: a number may have been given away
        if len(handles) == len(watched):
            select.select(handles, [], [])
        else:
            time.sleep(LOOK_EVERY_S)
