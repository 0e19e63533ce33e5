"""Shared by all benchmarks: interleaved timing, one record under results/benchmarks and one JSON line at the end."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from components.base.config import REPOSITORY
from components.base.files import write_json

RESULTS = REPOSITORY / "results" / "benchmarks"
PACKAGES = ("torch", "numpy", "opencv-python-headless", "scipy", "pycocotools", "onnxruntime")


def interleave(
    subjects: Mapping[str, Callable[[], Any]], repeats: int = 5, warm_up: int = 1, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each call, `repeats` per subject. Subjects take turns, so that a busy machine slows all of them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    for turn in range(warm_up + repeats):
        for name, call in subjects.items():
            start = clock()
            call()
            if turn >= warm_up:
                seconds[name].append(clock() - start)
    return seconds


def row(name: str, slow: Sequence[float], fast: Sequence[float], target: float, **more: Any) -> dict[str, Any]:
    """One result: median of `slow` over median of `fast`, seconds of the same work in interleaved turns.

    `spread` is [smallest, largest] of the turn-by-turn ratios, `n` the number of turns.
    """
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return {
        "name": name,
        "ratio": round(statistics.median(slow) / statistics.median(fast), 3),
        "target": target,
        "n": len(ratios),
        "spread": [round(min(ratios), 3), round(max(ratios), 3)],
        **more,
    }


def write(name: str, rows: dict[str, Any] | list[dict[str, Any]], **more: Any) -> Path:
    """Write results/benchmarks/<name>.json (command, date, hardware, versions, results) and print `rows` as the last line.

    Args:
        rows: one result or a list of them, each with at least name, ratio, target, n and spread.
        more: further facts for the record, such as the data that was used.
    """
    path = RESULTS / f"{name}.json"
    write_json(path, record(name, rows, **more))
    print(f"written to {path.relative_to(REPOSITORY)}")
    print(json.dumps(rows))
    return path


def record(name: str, rows: dict[str, Any] | list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """What a benchmark's file holds: command, date, hardware, versions, further facts, results."""
    command = " ".join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]])
    return {**made_by(command), **more, "results": rows}


def made_by(command: str) -> dict[str, Any]:
    """The first facts of a record: command, date, hardware, versions."""
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return {"command": command, "date": date, "hardware": hardware(), "versions": versions()}


def hardware() -> dict[str, Any]:
    """Processor, its usable cores, the threads torch uses, and the GPU if there is one."""
    import torch

    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that affect timings."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    """The processor's name from the kernel's list if it exists, because `platform` often knows only the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
