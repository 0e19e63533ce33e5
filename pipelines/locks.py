"""One process at a time works on a stage: two trainings in one folder of checkpoints would write over each other.

DVC locks a stage's files only while DVC itself lives. These locks belong to the process that does the work, and the system
releases them when it ends, however it ends: none is ever stale.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.base.config import REPOSITORY
from components.base.errors import FarposeError
from components.base.locks import held

FOLDER = Path(".dvc", "tmp", "farpose")  # out of git's sight, and no stage's output


def path_of(address: str, repository: Path = REPOSITORY) -> Path:
    """The lock of a stage, such as `train@NAME`."""
    return repository / FOLDER / f"{re.sub(r'[^A-Za-z0-9_.@-]', '_', address)}.lock"


@contextmanager
def working_on(address: str, repository: Path = REPOSITORY) -> Iterator[None]:
    """Hold the lock of a stage; wait, and say so, while another process has it."""
    path = _made(path_of(address, repository))

    def say() -> None:
        print(f"{address}: another process works on it; waiting until it ends (`fuser {path}` names it)", file=sys.stderr)

    with held(path, say):
        yield


@contextmanager
def unless_at_work(address: str, repository: Path = REPOSITORY) -> Iterator[bool]:
    """True while the lock of a stage is held; False at once if a process works on the stage."""
    with held(_made(path_of(address, repository))) as free:
        yield free


def _made(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FarposeError(f"cannot be written: {error.strerror}", where=path.parent, fix="make .dvc and all in it writable") from error
    return path
