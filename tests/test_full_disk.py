"""The disk is full while a stage runs: one line with the way out, the earlier results stay, and the next run continues.

The clone lies on a small file system of its own, which a file fills up to the number of bytes that a test leaves free.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.base.errors import FarposeError
from pipelines import graph
from pipelines.driver import Driver
from tests.faults import survived
from tests.repositories import PYTHON, REPOSITORY, Console, assert_one_line, copy_of_this, dvc, git
from tests.test_pipeline import FIRST, little_to_do, outputs

pytestmark = [pytest.mark.operation, pytest.mark.slow]
STAGES = [
    ("plan",),
    ("fetch",),
    ("validate",),
    ("degrade", "direct_64x48"),
    ("train", FIRST),
    ("evaluate", FIRST),
    ("compare",),
    ("report",),
    ("register", FIRST),
]
LEFT = (0, 200_000)  # bytes: no room for a record of the run; room for that, but not for all that the stage writes


@pytest.fixture(scope="module")
def disk(tmp_path_factory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("small") / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900m", "tmpfs", place], capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture(scope="module")
def console(disk: Path) -> Iterator[Console]:
    """A process that runs commands in a clone on the small disk, in which every stage has run."""
    repository = copy_of_this(disk / "clone")
    shutil.rmtree(repository / "released")
    little_to_do(repository, (FIRST,))
    made = Console(repository)
    for command in (("acquire", "synthetic"), *(("stage", *stage) for stage in STAGES)):
        done = made.farpose(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    yield made
    made.close()


class Filled:
    """The disk has `left` bytes within the block."""

    def __init__(self, disk: Path, left: int) -> None:
        self.file, self.left = disk / "filler", left

    def __enter__(self) -> None:
        free = os.statvfs(self.file.parent)
        with open(self.file, "wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, free.f_bavail * free.f_frsize - self.left)

    def __exit__(self, *_: object) -> None:
        self.file.unlink()


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage[0])
def test_a_stage_on_a_full_disk_is_one_line_and_the_next_run_continues(disk, console, stage):
    before, failures = outputs(console.folder), 0
    for left in LEFT:
        with Filled(disk, left):
            done = console.farpose("stage", *stage)
        said = [line for line in done.stderr.splitlines(True) if not line.startswith("MLflow does not answer; the record waits")]
        done.stderr = "".join(said)  # the store is on the same disk
        if done.returncode:
            assert_one_line(done, "the disk is full", "MiB are free", "run the same command again")
            assert outputs(console.folder) == before
            failures += 1
        assert left or done.returncode, "it needs no room at all"
    done = console.farpose("stage", *stage)
    assert done.returncode == 0, done.stderr
    assert outputs(console.folder).keys() == before.keys()
    assert [path for path in console.folder.rglob(".*.tmp") if ".git" not in path.parts] == []
    survived("disk full in a stage", failures)


def test_a_full_disk_under_dvcs_cache_is_named_and_the_next_run_continues(disk):
    folder = disk / "toy"
    (folder / ".dvc").mkdir(parents=True)
    shutil.copy(REPOSITORY / ".dvc" / "config", folder / ".dvc" / "config")
    (folder / "work.py").write_text("open('big.bin', 'wb').write(b'x' * 3_000_000)")
    (folder / "dvc.yaml").write_text(f"stages:\n  work:\n    cmd: '\"{PYTHON}\" work.py'\n    deps: [mode.txt]\n    outs: [big.bin]\n")
    (folder / "mode.txt").write_text("1")
    git(folder, "init", "--quiet")
    assert dvc(folder, "repro").returncode == 0
    before = (folder / "dvc.lock").read_bytes()
    (folder / "mode.txt").write_text("2")
    for kept in (folder / ".dvc" / "cache").rglob("*"):
        if kept.is_file() and kept.stat().st_size == 3_000_000:
            kept.unlink()  # so that it must be written again
    stage = graph.load(folder)[0]
    with Filled(disk, 1_000_000), pytest.raises(FarposeError, match=r"^stage work: the disk is full \(0 MiB are free; free some space"):
        Driver(folder, 600.0, lambda line: None).reproduce(stage)
    assert (folder / "dvc.lock").read_bytes() == before
    assert Driver(folder, 600.0, lambda line: None).reproduce(stage).outcome == "ran"
    assert dvc(folder, "status", "--json").stdout.strip() == "{}"
    survived("disk full in DVC's cache", 1)
