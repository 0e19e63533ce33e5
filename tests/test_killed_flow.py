"""`farpose run` killed at random moments, or asked to end: the next run ends with the same bytes, and nothing is left behind."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.faults import repeats, survived, wait_until, working_in
from tests.repositories import PYTHON, dvc, variables
from tests.training_clone import EPOCHS, NAMES, assert_nothing_is_left, forget, results, states, train_for, training_clone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
RUN = (PYTHON, "-m", "pipelines.cli", "run", "last", "--no-verify")


def start(folder: Path) -> subprocess.Popen[str]:
    """`farpose run` in a session of its own, as a terminal's job; its output goes to log.txt beside the clone."""
    default = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    with open(folder.parent / "log.txt", "w") as stream:
        return subprocess.Popen(
            RUN, cwd=folder, env=variables(), stdout=stream, stderr=stream, text=True, start_new_session=True, preexec_fn=default
        )


def log_of(folder: Path) -> str:
    return (folder.parent / "log.txt").read_text()


def finish(folder: Path) -> float:
    """Run to the end; seconds that it took."""
    started = time.monotonic()
    assert start(folder).wait(1200) == 0, log_of(folder)
    return time.monotonic() - started


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> tuple[Path, dict[str, str], float]:
    """A clone that has run once, its results, and how long an uninterrupted run takes, s."""
    folder = training_clone(tmp_path_factory.mktemp("killed") / "clone")
    seconds = finish(folder)
    return folder, results(folder), seconds


def kill_the_group(process: subprocess.Popen[str]) -> None:
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        member.suspend()  # so that none acts on another's end
    for member in family:
        member.kill()


def kill_farpose(process: subprocess.Popen[str]) -> None:
    process.kill()


def kill_dvc(process: subprocess.Popen[str]) -> None:
    """The DVC that runs now, or the next one."""

    def one() -> psutil.Process | None:
        for child in psutil.Process(process.pid).children():
            if "dvc" in child.cmdline():
                return child
        return None

    found = wait_until(lambda: process.poll() is not None or one(), "a DVC that runs")
    if process.poll() is None:
        found.kill()


KILLS = (kill_the_group, kill_farpose, kill_dvc)


def test_a_flow_killed_at_random_moments_ends_with_the_same_results(clone):
    folder, expected, seconds = clone
    moments, kills = random.Random(13), repeats(3)
    for number in range(kills):
        forget(folder)
        kill, moment = KILLS[number % len(KILLS)], moments.uniform(0.0, seconds)
        while True:
            process = start(folder)
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                kill(process)
                if process.wait(120) != 0:
                    break
            moment /= 2  # it was done before that moment: this machine is faster now
            forget(folder)
        wait_until(lambda: not working_in(folder), f"no process after {kill.__name__} at {moment:.1f} s: {working_in(folder)}", 60)
        finish(folder)
        assert results(folder) == expected, (kill.__name__, moment)
        assert_nothing_is_left(folder)
        assert dvc(folder, "status", "--json").stdout.strip() == "{}"
        assert not working_in(folder)
        survived("flow killed", 1)
    counts = states(folder)
    assert counts["flows"]["CRASHED"] + counts["flows"].get("FAILED", 0) >= 1 and counts["mlflow"]["KILLED"] >= 1, counts


ASKED = {
    "Ctrl-C in a terminal": (lambda process: os.killpg(process.pid, signal.SIGINT), 130, "farpose: interrupted; "),
    "SIGINT to farpose": (lambda process: process.send_signal(signal.SIGINT), 130, "farpose: interrupted; "),
    "SIGTERM to farpose": (lambda process: process.terminate(), 143, "farpose: ended by SIGTERM; "),
}


@pytest.mark.parametrize("how", ASKED)
def test_a_flow_that_is_asked_to_end_does_so_within_seconds_and_leaves_the_earlier_results(clone, how):
    folder, expected, _ = clone
    ask, code, said = ASKED[how]
    shutil.rmtree(folder / "artifacts" / "checkpoints", ignore_errors=True)
    kept = results(folder)
    before = states(folder)
    train_for(folder, 5000)
    process = start(folder)
    wait_until(lambda: re.search(r"epoch [2-9]/5000", log_of(folder)) or process.poll() is not None, "a training")
    assert process.poll() is None, log_of(folder)
    assert not (folder / "artifacts" / "models" / NAMES[0]).exists()  # DVC removed it
    asked = time.monotonic()
    ask(process)
    assert process.wait(120) == code, log_of(folder)
    took = time.monotonic() - asked
    assert log_of(folder).splitlines()[-1].startswith(said) and "Traceback" not in log_of(folder), log_of(folder)
    assert not working_in(folder) and took < 40.0, took
    shutil.rmtree(folder / "artifacts" / "checkpoints", ignore_errors=True)
    assert results(folder) == kept
    assert_nothing_is_left(folder)
    after = states(folder)
    assert after["flows"].get("CRASHED", 0) == before["flows"].get("CRASHED", 0) + 1
    assert after["mlflow"].get("KILLED", 0) >= before["mlflow"].get("KILLED", 0) + 2  # of the flow, and of its trainings
    train_for(folder, EPOCHS)
    finish(folder)
    assert results(folder) == expected
    survived(how, 1)
