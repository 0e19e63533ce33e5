"""A DVC or a flow that is killed takes its stages with it, and what it leaves is put in order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import psutil
import pytest
import yaml

from components.base import processes
from components.base.errors import FarposeError
from pipelines import graph, interrupted, lifeline, locks
from pipelines.driver import Driver
from tests.faults import survived, wait_until, working_in
from tests.repositories import PYTHON, REPOSITORY, commit, dvc, git, variables

HALF = "half a dvc.lock, or a stale list of files in use"  # as python -m benchmarks.faults names it
GRAPH = """
stages:
  work:
    cmd: PATH="$PWD:$PATH" "{python}" stage.py
    deps: [mode.txt]
    outs: [made/model.txt]
    metrics: [score.json: {{cache: false}}]
"""
STAGE = """
import sys, time
from pathlib import Path
from pipelines import interrupted, lifeline, locks
from pipelines.cli import report
from components.base.files import atomic_file
here = Path.cwd()
with lifeline.terminable():
    lifeline.follow()
    with locks.working_on("work", here), interrupted.noted("work", here):
        mode = Path("mode.txt").read_text().strip()
        if mode.startswith("hang"):
            with atomic_file(here / "made" / "model.txt") as temporary:
                temporary.write_text("half")
                print("hanging", flush=True)
                time.sleep(600)
        if mode.startswith("full"):
            sys.exit("OSError: [Errno 28] No space left on device")
        with atomic_file(here / "made" / "model.txt") as temporary:
            temporary.write_text(mode)
        Path("score.json").write_text('{"score": 1}')
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A finished graph of one stage, committed; mode.txt says what it does next."""
    folder = tmp_path / "toy"
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc" / "config").write_text((REPOSITORY / ".dvc" / "config").read_text())
    (folder / ".gitignore").write_text("made\n.dvc/cache\n.dvc/tmp\n")
    (folder / "dvc.yaml").write_text(GRAPH.format(python=PYTHON))
    (folder / "stage.py").write_text(STAGE)
    (folder / "mode.txt").write_text("first")
    git(folder, "init", "--quiet")
    done = dvc(folder, "repro")
    assert done.returncode == 0, done.stdout + done.stderr
    commit(folder)
    return folder


def start(folder: Path, *command: str) -> subprocess.Popen[str]:
    """A process whose output goes to log.txt of `folder`'s parent."""
    log = folder.parent / "log.txt"
    with open(log, "w") as stream:
        return subprocess.Popen(command, cwd=folder, env=variables(), stdout=stream, stderr=stream, text=True, start_new_session=True)


def hang(folder: Path, *command: str) -> tuple[subprocess.Popen[str], psutil.Process]:
    """Start a command whose stage hangs; also the stage's process."""
    (folder / "mode.txt").write_text("hang")
    process = start(folder, *command)
    log = folder.parent / "log.txt"
    wait_until(lambda: "hanging" in log.read_text() or process.poll() is not None, "a stage that hangs")
    assert process.poll() is None, log.read_text()
    found = [child for child in psutil.Process(process.pid).children(recursive=True) if "stage.py" in child.cmdline()]
    return process, found[-1]


DVC = (PYTHON, "-m", "dvc", "repro")
DRIVE = (PYTHON, "-c", "from pathlib import Path; from pipelines import graph; from pipelines.driver import Driver;"
         "Driver(Path.cwd(), 600, lambda line: print(line, flush=True)).reproduce(graph.load(Path.cwd())[0])")  # fmt: skip


def outputs(folder: Path) -> dict[str, str]:
    places = [*sorted((folder / "made").rglob("*")), folder / "score.json"]
    return {str(path.relative_to(folder)): path.read_text() for path in places if path.is_file()}


@pytest.mark.operation
@pytest.mark.slow
@pytest.mark.parametrize("command", [DVC, DRIVE], ids=["dvc", "farpose"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_a_stage_ends_with_what_runs_it_and_its_results_come_back(toy, command, how):
    before, lock = outputs(toy), (toy / "dvc.lock").read_bytes()
    process, stage = hang(toy, *command)
    assert not (toy / "score.json").exists()  # DVC removed what was there
    process.send_signal(how)
    process.wait(60)
    wait_until(lambda: not working_in(toy), f"no process of the stage {stage}", 60)
    said = list(interrupted.put_in_order(toy))
    assert said == ["work: its earlier results are back, after a run that was killed"]
    assert outputs(toy) == before and (toy / "dvc.lock").read_bytes() == lock
    assert list(interrupted.put_in_order(toy)) == []
    (toy / "mode.txt").write_text("second")
    done = dvc(toy, "repro")
    assert done.returncode == 0 and outputs(toy)["made/model.txt"] == "second", done.stderr
    assert dvc(toy, "status", "--json").stdout.strip() == "{}"
    survived("DVC or farpose killed in a stage", 1)


def test_a_flow_that_no_kernel_follows_is_followed_by_the_next_one(toy):
    """As on systems without PR_SET_PDEATHSIG: a process of the stage that looks after nobody."""
    gone = subprocess.Popen([PYTHON, "-c", ""])
    value = f"{gone.pid}:{psutil.Process(gone.pid).create_time():.2f}"
    gone.wait()
    left = subprocess.Popen(["sleep", "600"], cwd=toy, env=variables() | {lifeline.DRIVER: value})
    other = subprocess.Popen(["sleep", "600"], cwd=toy, env=variables() | {lifeline.DRIVER: processes.this_process()})
    try:
        assert list(interrupted.put_in_order(toy)) == ["ended 1 processes of a run that was killed"]
        assert left.wait(10) == -signal.SIGTERM and other.poll() is None
    finally:
        for process in (left, other):
            process.kill()
            process.wait()


@pytest.mark.operation
@pytest.mark.slow
def test_ctrl_c_in_a_driver_ends_the_stage_and_brings_its_results_back_at_once(toy):
    before = outputs(toy)
    process, _ = hang(toy, *DRIVE)
    process.send_signal(signal.SIGINT)
    process.wait(60)
    assert not working_in(toy) and outputs(toy) == before
    assert list(interrupted.put_in_order(toy)) == []


def test_a_second_process_waits_for_the_first_and_says_so(tmp_path, capfd):
    (tmp_path / ".dvc").mkdir()
    code = (
        f"import time; from pathlib import Path; from pipelines import locks\nwith locks.working_on('train@a', Path({str(tmp_path)!r})):\n"
    )
    first = subprocess.Popen([PYTHON, "-c", code + " print('at work', flush=True); time.sleep(600)"], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None and first.stdout.readline() == "at work\n"
    with locks.unless_at_work("train@a", tmp_path) as free:
        assert not free
    with locks.working_on("train@b", tmp_path):  # another stage's
        pass
    held = threading.Event()

    def second() -> None:
        with locks.working_on("train@a", tmp_path):
            held.set()

    thread = threading.Thread(target=second)
    thread.start()
    wait_until(lambda: "train@a: another process works on it; waiting until it ends" in capfd.readouterr().err, "a line")
    time.sleep(0.3)
    assert not held.is_set()
    first.kill()  # no lock is stale
    first.wait()
    first.stdout.close()
    thread.join(30)
    assert held.is_set()
    survived("a second process on a stage", 1)


@pytest.mark.parametrize("damage", ["half", "bytes", "no mapping"])
@pytest.mark.parametrize("kept", [True, False], ids=["copy", "git"])
def test_half_a_lock_is_replaced_by_the_last_whole_one(toy, damage, kept):
    whole = (toy / "dvc.lock").read_bytes()
    if kept:
        interrupted.keep_lock(toy)
        (toy / "dvc.lock").unlink()
        commit(toy)  # git has none
    content = {"half": whole[: whole.index(b"md5:") + 2], "bytes": whole[:40] + b"\xff\xfe", "no mapping": b"- 1\n"}[damage]
    (toy / "dvc.lock").write_bytes(content)
    said = list(interrupted.put_in_order(toy))
    assert said == ["dvc.lock was half written by a run that was killed; the copy from before is back"]
    assert (toy / "dvc.lock").read_bytes() == whole and dvc(toy, "status", "--json").stdout.strip() == "{}"
    survived(HALF, 1)


def blocked(folder: Path, content: str) -> str:
    (folder / ".dvc" / "tmp" / "rwlock").write_text(content)
    done = dvc(folder, "--wait-for-lock", "repro", "--single-item", "work")
    return done.stdout + done.stderr


@pytest.mark.operation
@pytest.mark.slow
def test_files_that_a_dead_dvc_used_are_free(toy):
    entry = {"pid": os.getpid(), "cmd": "dvc repro"}  # its number belongs to this program now
    stale = json.dumps({"write": {str(toy / "made" / "model.txt"): entry}, "read": {}})
    for content in (stale, stale[:30], "[]"):
        assert "busy" in blocked(toy, content) or "RWLock-file" in blocked(toy, content)
        interrupted.mend_rwlock(toy)
        assert dvc(toy, "--wait-for-lock", "repro", "--single-item", "work").returncode == 0
        survived(HALF, 1)
    process, _ = hang(toy, *DVC)
    before = (toy / ".dvc" / "tmp" / "rwlock").read_text()
    assert str(process.pid) in before
    interrupted.mend_rwlock(toy)
    assert (toy / ".dvc" / "tmp" / "rwlock").read_text() == before  # a living one keeps its files
    process.kill()
    process.wait()
    wait_until(lambda: not working_in(toy), "no process of the stage", 60)


def test_a_full_disk_is_named_whoever_met_it(toy):
    before = outputs(toy)
    (toy / "mode.txt").write_text("full")
    with pytest.raises(
        FarposeError, match=r"^stage work: the disk is full \(\d+ MiB are free; free some space and run the same command again\)$"
    ):
        Driver(toy, 60, lambda line: None).reproduce(graph.load(toy)[0])
    assert outputs(toy) == before


def test_a_fresh_clone_has_nothing_to_put_in_order(tmp_path):
    assert list(interrupted.put_in_order(tmp_path)) == []


def test_what_a_lock_lists_is_what_dvc_made(toy):
    listed = interrupted.outputs_of("work", toy)
    assert sorted(path.relative_to(toy).as_posix() for path in listed) == ["made/model.txt", "score.json"]
    entry = yaml.safe_load((toy / "dvc.lock").read_text())["stages"]["work"]["outs"]
    assert set(listed.values()) == {out["md5"] for out in entry} and interrupted.outputs_of("other", toy) == {}
