"""Flows of one clone take turns, and a flow that was killed keeps nobody waiting."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest

from pipelines import devices, locks, turns
from tests.repositories import PYTHON, REPOSITORY

HOLDER = """
import sys, time
from pathlib import Path
from pipelines import turns
with turns.turn("train@x", Path(sys.argv[1]), print):
    print("has it", flush=True)
    time.sleep(600)
"""


def test_a_second_flow_is_told_who_is_at_work_and_goes_on_when_that_one_is_gone(tmp_path: Path):
    first = subprocess.Popen([PYTHON, "-c", HOLDER, str(tmp_path)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None and first.stdout.readline() == "has it\n"
        told: list[str] = []
        waits, done = threading.Event(), threading.Event()

        def second() -> None:
            with turns.turn("compare", tmp_path, lambda line: (told.append(line), waits.set())):
                done.set()

        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(60) and not done.wait(2.0)
        first.kill()
        thread.join(60)
        assert done.is_set() and len(told) == 1 and told[0].startswith(f"train@x (process {first.pid}, since ")
    finally:
        first.kill()
        first.wait()
    with turns.turn("alone", tmp_path, told.append):
        assert len(told) == 1


@pytest.mark.parametrize(("ours", "shared"), [("cuda", True), ("cuda:0", True), ("cuda:1", False)])
def test_jobs_on_one_gpu_take_turns_under_either_of_its_names(tmp_path, monkeypatch, ours, shared):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with devices.device_lock("cuda:0"), devices.device_lock("cpu"), devices.device_lock("cpu"), locks.held(devices.gpu_lock(ours)) as free:
        assert free is not shared
    with locks.held(devices.gpu_lock(ours)) as free:
        assert free


def test_a_job_that_waits_for_a_gpu_says_so_and_one_on_a_cpu_does_not_wait(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    inside = threading.Event()

    def second() -> None:
        with devices.device_lock("cuda"):
            inside.set()

    thread = threading.Thread(target=second)
    with devices.device_lock("cuda:0"):
        thread.start()
        said = ""
        while "another job works on it; waiting until it ends" not in said:
            said += capsys.readouterr().err
            assert thread.is_alive()
        assert said.startswith("cuda: ") and not inside.is_set()
        with devices.device_lock("cpu"):
            pass
    thread.join(60)
    assert inside.is_set()
