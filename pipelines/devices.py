"""Which device a job computes on: FARPOSE_DEVICE if set, else a free GPU, else the CPU. A GPU has one job at a time."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from components.base.errors import FarposeError
from pipelines import locks

VARIABLE = "FARPOSE_DEVICE"
CPU = "cpu"
LOOK_EVERY_S = 1.0  # while all GPUs have a job


def device_name() -> str:
    """The device that is asked for, or the first GPU, or the CPU.

    Raises:
        FarposeError: FARPOSE_DEVICE names no device, or none of this machine.
    """
    return _asked() or ("cuda:0" if _gpus() else CPU)


def choices() -> list[str]:
    """The devices of which a job takes the first that is free.

    Raises:
        FarposeError: as `device_name`.
    """
    asked = _asked()
    return [asked] if asked else [f"cuda:{number}" for number in range(_gpus())] or [CPU]


@contextlib.contextmanager
def taken(processes: int = 1) -> Iterator[str]:
    """A device for one job alone: jobs of several clones and users share the GPUs of a machine, one job each.

    Args:
        processes: of the job; several have the GPUs from the first on, one each.
    Raises:
        FarposeError: as `device_name`.
    """
    names = choices()
    with contextlib.ExitStack() as held:
        if processes > 1 and names[0] != CPU:
            for number in range(processes):
                held.enter_context(device_lock(f"cuda:{number}"))
            yield "cuda:0"
        elif len(names) == 1:
            held.enter_context(device_lock(names[0]))
            yield names[0]
        else:
            yield _first_free(names, held)


def _first_free(names: list[str], held: contextlib.ExitStack) -> str:
    """Waits until one of these GPUs has no job, and takes it."""
    told = False
    while True:
        for name in names:
            path = gpu_lock(name)
            if path is not None and held.enter_context(locks.held(path)):
                return name
        if not told:
            print(f"{', '.join(names)}: each has a job; waiting until one ends", file=sys.stderr)
            told = True
        time.sleep(LOOK_EVERY_S)


def device_lock(device: str) -> AbstractContextManager[Any]:
    """Hold the lock of a GPU, one for all trainings and evaluations of the machine; wait, and say so, while another has it.

    Nothing on a CPU. `predict` and `submit` do not take it: they answer beside a training, and a camera holds no training up.
    """
    path = gpu_lock(device)
    if path is None:
        return contextlib.nullcontext()

    def say() -> None:
        print(f"{device}: another job works on it; waiting until it ends (`fuser {path}` names it)", file=sys.stderr)

    return locks.held(path, say)


def gpu_lock(device: str) -> Path | None:
    """The file of a GPU's lock; None for a CPU."""
    kind, _, number = device.partition(":")
    return Path(tempfile.gettempdir()) / f"farpose-cuda-{_physical(int(number or 0))}.lock" if kind == "cuda" else None  # "cuda": the first


def fitting(recorded: str) -> str | None:
    """The device of this machine that is of the recorded one's kind; None where there is none."""
    if recorded == CPU:
        return CPU
    if not _gpus():
        return None
    return recorded if recorded in {f"cuda:{number}" for number in range(_gpus())} else "cuda:0"


def _asked() -> str | None:
    """FARPOSE_DEVICE, checked; None where it is not set."""
    value = os.environ.get(VARIABLE)
    if not value:
        return None
    if not re.fullmatch(r"cpu|cuda(:\d+)?", value):
        raise FarposeError(f"{value!r} is no device", where=VARIABLE, fix="name cpu, cuda or cuda:1, or unset it")
    if value == CPU:
        return value
    count = _gpus()
    if not count:
        raise FarposeError(f"{value!r} is asked for, but torch finds no GPU here", where=VARIABLE, fix="unset it, or see `farpose doctor`")
    if int(value.partition(":")[2] or 0) >= count:
        names = ", ".join(f"cuda:{number}" for number in range(count))
        raise FarposeError(f"this machine has no {value}, only {names}", where=VARIABLE, fix="name one of these, or unset it")
    return value


def _gpus() -> int:
    """How many GPUs torch can use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _physical(number: int) -> str:
    """What stands for a GPU whatever CUDA_VISIBLE_DEVICES hides: its number or identifier on the machine."""
    seen = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    name = seen[number] if number < len(seen) else str(number)
    return re.sub(r"[^A-Za-z0-9-]", "_", name)
