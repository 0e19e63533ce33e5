"""What a run was made of, as files on its page: artifact folder `lineage/`, from which `farpose reproduce` builds it again.

dvc.lock, data.dvc   as they are when the run begins; of a pipeline's run, when it ends
params/              as they are used, with the changes of `dvc exp run -S`
dirty.patch          how the files differ from the commit, for `git apply`; only if they do
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from components.base.config import REPOSITORY
from components.registry import lineage

FOLDER, PATCH = "lineage", "dirty.patch"
FILES = ("dvc.lock", "data.dvc")
PARAMS = "params"
TRIES, WAIT_S = 100, 0.05


def write(folder: Path, repository: Path = REPOSITORY) -> None:
    """Write those of the files that there are into an empty folder."""
    for name in FILES:
        if (repository / name).is_file():
            (folder / name).write_bytes(_settled(repository / name))
    if (repository / PARAMS).is_dir():
        shutil.copytree(repository / PARAMS, folder / PARAMS)
    if patch := lineage.patch(repository):
        (folder / PATCH).write_bytes(patch)


def _settled(path: Path) -> bytes:
    """A file's bytes once they stay the same: DVC writes dvc.lock in place, and stages run side by side."""
    before = None
    for _ in range(TRIES):
        now = path.read_bytes()
        if now and now == before:
            return now
        before = now
        time.sleep(WAIT_S)
    return before or b""
