"""Flows of one clone take turns: two that start together both end well, and no stage runs twice at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from pipelines import locks

LOCK, HOLDER = ".flow.lock", ".flow.txt"  # in mlruns/; the system frees the lock of a process that was killed


@contextmanager
def turn(what: str, repository: Path, told: Callable[[str], None]) -> Iterator[None]:
    """Wait until no other flow is at work in the clone, and keep others waiting until the block ends.

    Args:
        what: the flow does, for those that wait.
        told: receives a line if there is something to wait for.
    """
    folder = repository / "mlruns"
    folder.mkdir(exist_ok=True)
    holder = folder / HOLDER

    def say() -> None:
        who = holder.read_text() if holder.is_file() else "another flow"
        told(f"{who} is at work in this clone; this one goes on when it has ended")

    with locks.held(folder / LOCK, say):
        holder.write_text(f"{what} (process {os.getpid()}, since {datetime.now():%H:%M})")
        yield
