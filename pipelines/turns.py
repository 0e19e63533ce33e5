"""Flows of one clone take turns: two that start together both end well, and no stage runs twice at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

LOCK, HOLDER = ".flow.lock", ".flow.txt"  # in mlruns/; the system frees the lock of a process that was killed
POLL_S = 0.5


@contextmanager
def turn(what: str, repository: Path, told: Callable[[str], None]) -> Iterator[None]:
    """Wait until no other flow is at work in the clone, and keep others waiting until the block ends.

    Args:
        what: the flow does, for those that wait.
        told: receives a line if there is something to wait for.
    """
    from filelock import FileLock, Timeout

    folder = repository / "mlruns"
    folder.mkdir(exist_ok=True)
    lock, holder = FileLock(folder / LOCK), folder / HOLDER
    try:
        lock.acquire(timeout=0)
    except Timeout:
        who = holder.read_text() if holder.is_file() else "another flow"
        told(f"{who} is at work in this clone; this one goes on when it has ended")
        lock.acquire(poll_interval=POLL_S)
    try:
        holder.write_text(f"{what} (process {os.getpid()}, since {datetime.now():%H:%M})")
        yield
    finally:
        lock.release()
