"""Locks that belong to the process that does the work: the system releases them when it ends, however it ends. None is ever stale."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LOOK_EVERY_S = 0.2


@contextmanager
def held(path: Path, taken: Callable[[], None] | None = None) -> Iterator[bool]:
    """True while the lock of this file is held.

    Args:
        taken: called if another process has it, before this one waits; None: do not wait, the block gets False.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, mode=0o666)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if taken is None:
            yield False
            return
        taken()
        lock.acquire(poll_interval=LOOK_EVERY_S)
    try:
        yield True
    finally:
        lock.release()
