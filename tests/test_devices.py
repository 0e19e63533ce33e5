"""Where a job runs: what FARPOSE_DEVICE may say, and that several GPUs have one job each. Counts of GPUs are told; locks are real."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest
import torch

from components.base.errors import FarposeError
from pipelines import devices
from pipelines.commands import doctor
from tests.repositories import PYTHON, REPOSITORY


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Tell torch's number of GPUs; locks lie in a folder of the test's own."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv(devices.VARIABLE, raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def tell(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return tell


@pytest.mark.parametrize(
    ("asked", "count", "names"),
    [
        (None, 0, ["cpu"]), ("", 0, ["cpu"]), ("cpu", 2, ["cpu"]), (None, 1, ["cuda:0"]), (None, 2, ["cuda:0", "cuda:1"]),
        ("cuda", 2, ["cuda"]), ("cuda:1", 2, ["cuda:1"]),
    ],
)  # fmt: skip
def test_the_variable_chooses_and_else_any_gpu(asked, count, names, gpus, monkeypatch):
    gpus(count)
    if asked is not None:
        monkeypatch.setenv(devices.VARIABLE, asked)
    assert devices.choices() == names and devices.device_name() == names[0]
    with devices.taken() as device:
        assert device == names[0]


@pytest.mark.parametrize(
    ("asked", "count", "words"),
    [
        ("gpu", 1, "'gpu' is no device (name cpu, cuda or cuda:1"),
        ("cuda:x", 1, "'cuda:x' is no device"),
        ("cuda:-1", 1, "'cuda:-1' is no device"),
        ("CUDA", 1, "'CUDA' is no device"),
        ("mps", 0, "'mps' is no device"),
        ("cuda:7", 2, "this machine has no cuda:7, only cuda:0, cuda:1"),
        ("cuda", 0, "'cuda' is asked for, but torch finds no GPU here"),
    ],
)
def test_a_device_that_is_not_there_is_one_clear_line(asked, count, words, gpus, monkeypatch):
    gpus(count)
    monkeypatch.setenv(devices.VARIABLE, asked)
    for ask in (devices.device_name, devices.choices, devices.taken().__enter__):
        with pytest.raises(FarposeError) as caught:
            ask()
        assert words in str(caught.value) and devices.VARIABLE in str(caught.value) and "\n" not in str(caught.value)
    (line,) = [line for line in doctor._devices() if line[0] == "jobs run on"] if not count else [doctor._chosen()]
    assert line[1] == "no device" and words in line[2]


def test_several_gpus_have_one_job_each_and_the_next_job_waits_for_the_first_free(gpus, monkeypatch, capsys):
    gpus(2)
    monkeypatch.setattr(devices, "LOOK_EVERY_S", 0.01)
    found: list[str] = []
    has = threading.Event()

    def third() -> None:
        with devices.taken() as device:
            found.append(device)
            has.set()

    with devices.taken() as first:
        with devices.taken() as second:
            assert (first, second) == ("cuda:0", "cuda:1")
            waiting = threading.Thread(target=third)
            waiting.start()
            assert not has.wait(0.5)
        assert has.wait(60) and found == ["cuda:1"]
    waiting.join(60)
    assert capsys.readouterr().err == "cuda:0, cuda:1: each has a job; waiting until one ends\n"


def test_a_job_that_fails_frees_its_gpu(gpus):
    gpus(2)
    with pytest.raises(ValueError, match="broken"), devices.taken():
        raise ValueError("broken")
    with devices.taken() as device:
        assert device == "cuda:0"


def test_a_job_of_several_processes_has_as_many_gpus(gpus):
    gpus(3)
    with devices.taken(processes=2) as whole, devices.taken() as other:
        assert (whole, other) == ("cuda:0", "cuda:2")


def test_a_gpu_has_one_lock_whatever_another_program_hides(gpus, monkeypatch):
    gpus(2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-8f6d/x")
    names = [devices.gpu_lock(f"cuda:{number}").name for number in (0, 1)]
    assert names == ["farpose-cuda-2.lock", "farpose-cuda-GPU-8f6d_x.lock"]


@pytest.mark.parametrize(
    ("recorded", "count", "here"),
    [("cpu", 0, "cpu"), ("cpu", 2, "cpu"), ("cuda:3", 0, None), ("cuda:3", 2, "cuda:0"), ("cuda:1", 2, "cuda:1")],
)
def test_a_recorded_device_is_one_of_its_kind_here(recorded, count, here, gpus):
    gpus(count)
    assert devices.fitting(recorded) == here


def test_doctor_says_where_jobs_run(gpus, monkeypatch):
    gpus(2)
    assert doctor._chosen()[1].startswith(
        "the first free one of cuda:0, cuda:1, one job each (FARPOSE_DEVICE=cuda:1 or cpu chooses), in bf16"
    )
    monkeypatch.setenv(devices.VARIABLE, "cuda:1")
    assert doctor._chosen()[1].startswith("cuda:1 (as FARPOSE_DEVICE says)")
    monkeypatch.setenv(devices.VARIABLE, "cpu")
    assert doctor._chosen() == ("jobs run on", "the CPU, in fp32", "")


def test_a_command_ends_with_that_line(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), devices.VARIABLE: "cuda:x"}
    command = [
        PYTHON,
        "-c",
        "import sys; from pipelines import cli; sys.exit(cli.main())",
        "stage",
        "train",
        "categorical_fused_fpn_synthetic_64x48_x2",
    ]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1 and "FARPOSE_DEVICE" in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
