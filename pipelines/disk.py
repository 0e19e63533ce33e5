"""The error of a full disk, whoever meets it: the system, SQLite, Arrow or DVC."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from components.base.errors import FarposeError
from pipelines import causes
from pipelines.environment import REPOSITORY

FULL = "the disk is full"
SIGNS = ("No space left on device", "database or disk is full", "Disk quota exceeded")  # in the words of the system and of SQLite
WRITTEN = ("artifacts", "results", "mlruns", "data", ".dvc")  # places that may be on disks of their own


def named(error: BaseException) -> BaseException:
    """The error itself, or a FarposeError with the way out if a full disk is behind it."""
    if FULL in str(error) or not any(_is_full(one) for one in causes.chain(error, suppressed=True)):
        return error
    return FarposeError(FULL, where=REPOSITORY, fix=way_out())


def says_full(line: str) -> bool:
    """Whether a line of output tells of a full disk."""
    return any(sign in line for sign in SIGNS)


def way_out(repository: Path = REPOSITORY) -> str:
    places = [place for place in (repository, *(repository / name for name in WRITTEN)) if place.is_dir()]
    free = min(shutil.disk_usage(place).free for place in places) // 2**20
    return f"{free} MiB are free; free some space and run the same command again"


def _is_full(error: BaseException) -> bool:
    return (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or says_full(str(error))
