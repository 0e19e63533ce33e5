"""Training in one process, or in several that share every batch, as the recipe says (`processes`).

Several are started and watched by `torchrun`: if one dies, all begin again at the last checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from components.base.config import REPOSITORY
from components.base.errors import FarposeError
from components.base.files import read_json, write_json
from components.base.locks import held
from components.models import zoo
from components.models.variant import Variant
from components.train.loop import CHECKPOINTS
from components.train.loop import train as train_here
from components.train.recipe import Recipe
from components.train.tracker import NullTracker, Tracker

RESTARTS = 5  # of all processes, after one of them died
LOOK_EVERY_S = 0.5
GRACE_S = 30.0  # for processes that are asked to end
WORKER = "components.train.worker"
JOB, HISTORY, ERROR, SUMMARY, PASSES, STARTER = "job.json", "history.jsonl", "error.json", "summary.json", "passes.json", "starter.lock"


def train(
    variant: Variant,
    shards_directory: str | Path,
    output: str | Path,
    recipe: Recipe,
    device: str | torch.device = "cpu",
    checkpoints: str | Path = CHECKPOINTS,
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Train a variant on a shard and write `output`; arguments, result and errors are those of `train.loop.train`.

    Raises:
        FarposeError: there are fewer GPUs than processes, the variant is not in params/variants/, or a process died more than
            `RESTARTS` times.
    """
    if recipe.processes == 1:
        return train_here(variant, shards_directory, output, recipe, device, checkpoints, tracker)
    _check(variant, recipe, torch.device(device))
    with tempfile.TemporaryDirectory(prefix="farpose-train-") as scratch:
        folder = Path(scratch)
        job = {"variant": variant.name, "shards": str(Path(shards_directory).absolute()), "output": str(Path(output).absolute()),
               "recipe": dataclasses.asdict(recipe), "device": str(device), "checkpoints": str(Path(checkpoints).absolute())}  # fmt: skip
        write_json(folder / JOB, job)
        with held(folder / STARTER):  # released when this process ends in any way, which its workers notice
            code = _run(folder, recipe, tracker or NullTracker())
        if (folder / ERROR).is_file():
            error = read_json(folder / ERROR)
            raise FarposeError(error["problem"], where=error["where"], fix=error["fix"])
        if code or not (folder / SUMMARY).is_file():
            problem = f"the {recipe.processes} processes of this training ended early (exit code {code}) after {RESTARTS} new starts"
            raise FarposeError(problem, where=f"variant {variant.name}", fix="see their output above; the next run continues from there")
        summary: dict[str, Any] = read_json(folder / SUMMARY)
        return summary


def _check(variant: Variant, recipe: Recipe, device: torch.device) -> None:
    where = f"variant {variant.name}"
    if variant != zoo.variant(variant.name):
        raise FarposeError(
            "several processes know a variant by its name, and this one differs", where=where, fix="put it in params/variants/"
        )
    if device.type == "cuda" and torch.cuda.device_count() < recipe.processes:
        problem = f"the recipe asks for {recipe.processes} processes, each with a GPU of its own; {torch.cuda.device_count()} are here"
        raise FarposeError(problem, where=where, fix=f"set processes: {max(1, torch.cuda.device_count())} in its recipe")


def _run(folder: Path, recipe: Recipe, tracker: Tracker) -> int:
    """The exit code of `torchrun`; what its first process says goes to the tracker meanwhile."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={recipe.processes}"]
    command += [f"--max-restarts={RESTARTS}", "-m", WORKER, str(folder)]
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    environment = {"GLOO_SOCKET_IFNAME": loopback, **os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(recipe.num_threads)}
    told = 0
    process = subprocess.Popen(command, env=environment)
    try:
        while True:
            ended = process.poll() is not None
            told = _tell(folder / HISTORY, told, tracker)
            if ended:
                return process.returncode
            try:
                process.wait(LOOK_EVERY_S)
            except subprocess.TimeoutExpired:
                continue
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _tell(history: Path, told: int, tracker: Tracker) -> int:
    """Tell the tracker the whole lines behind `told` bytes; how many bytes are told now."""
    if not history.is_file():
        return told
    with open(history, "rb") as stream:
        stream.seek(told)
        for line in stream:
            if not line.endswith(b"\n"):
                break
            told += len(line)
            values = json.loads(line)
            tracker.metrics(values, int(values.pop("epoch")))
    return told
