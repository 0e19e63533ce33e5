"""Processor time of a `dvc repro` that has nothing to do. Run after `farpose run`: python -m benchmarks.repeated

`ratio` is three seconds, which it may take, over its time; all its processes count.
"""

from __future__ import annotations

import resource
import subprocess
import sys

from benchmarks import report
from components.base.config import REPOSITORY
from components.base.errors import FarposeError

ALLOWED_S, TURNS = 3.0, 5
DONE = "Data and pipelines are up to date."


def repeat() -> float:
    """Seconds of user and system time of one repetition.

    Raises:
        FarposeError: a stage ran, or is to be run.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = subprocess.run([sys.executable, "-m", "dvc", "repro"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if said.returncode or DONE not in said.stdout:
        raise FarposeError("the pipeline is not up to date", where="dvc repro", fix="`farpose run`, then this again")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    repeat()  # the first one reads what later ones find in the cache of files
    seconds = [repeat() for _ in range(TURNS)]
    row = report.row("seconds allowed / no-op dvc repro", [ALLOWED_S] * TURNS, seconds, 1.0)
    report.write("repeated", row, processor_seconds=seconds)


if __name__ == "__main__":
    main()
