"""What must hold of training steps on a GPU, for every method family: `python -m benchmarks.gpu --check`; tests/test_gpu.py asks the same.

A recorded step computes what the eager one does, in single precision and in bf16, with kernels that repeat: losses and weights after two
epochs differ by less than `TOLERANCE`, or by no more than four times what two eager runs do (kernels without a form that repeats).
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_cases import STEPS, Case, Run, Shards, cases
from components.base.files import read_json
from components.train.loop import train
from components.train.tracker import NullTracker

TOLERANCE, NOISE = 1e-5, 4.0
BF16_LOSS = 0.02  # relative difference of the first step's loss to that in single precision
# CAL's mixture weights offsets by a covariance that it fits to the maps, which rounding moves by a tenth while they are noise; its
# heatmaps keep the common bound.
BF16_FITTED = {"cal_gmm": {"loss": 0.05, "heatmap_loss": BF16_LOSS}}
GPU = torch.device("cuda")


@contextmanager
def repeatable(tf32: bool = False) -> Iterator[None]:
    """Kernels that sum in the same order in every run, where there are such, and without TF32 unless asked for."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32
    cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = False, True, tf32 and before[2], tf32 and before[3]
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = before


@dataclass(frozen=True)
class Apart:
    """How far a recorded run is from an eager one, and an eager one from its repetition: the largest relative differences."""

    graphed: float
    again: float

    @property
    def same(self) -> bool:
        return self.graphed <= max(TOLERANCE, NOISE * self.again)


def graphed_equals_eager(case: Case, shards: Shards, precision: str = "fp32", device: torch.device = GPU) -> Apart:
    """Over two epochs whose last batch is smaller, with rates and late losses that change after the recording."""
    with repeatable():
        runs = {kind: Run(case, shards, device, "graphed" if kind == "graphed" else "eager", precision) for kind in KINDS}
        losses = {kind: run.losses() for kind, run in runs.items()}
        states = {kind: run.state() for kind, run in runs.items()}
    first = KINDS[0]
    return Apart(*(max(_apart(losses[first], losses[kind]), _distance(states[first], states[kind])) for kind in KINDS[1:]))


KINDS = ("eager", "graphed", "again")


def _apart(one: list[dict[str, float]], other: list[dict[str, float]], loss: str = "loss") -> float:
    """The largest relative difference of a loss; of the whole one, if no other is named."""
    return max(abs(a[loss] - b[loss]) / max(abs(a[loss]), 1e-12) for a, b in zip(one, other, strict=True))


def _distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Of all weights, statistics, averages and moments together, relative to their length."""
    flat = [torch.cat([state[name].double().flatten() for name in sorted(one)]) for state in (one, other)]
    return float(torch.linalg.vector_norm(flat[0] - flat[1]) / torch.linalg.vector_norm(flat[0]))


def never_waits(case: Case, shards: Shards, device: torch.device = GPU) -> None:
    """
    Raises:
        RuntimeError: drawing a batch or a recorded step waits for the device.
    """
    run = Run(case, shards, device, "graphed", "bf16")
    run.losses(STEPS - 2)
    torch.cuda.set_sync_debug_mode("error")
    try:
        run.step()  # the second of an epoch: the order of crops came with the first
    finally:
        torch.cuda.set_sync_debug_mode("default")


def bf16_to_fp32(name: str, case: Case, shards: Shards, device: torch.device = GPU) -> dict[str, float]:
    """The relative differences of the first step's losses that `bf16_bounds` names."""
    single, half = (Run(case, shards, device, precision=precision).losses(1) for precision in ("fp32", "bf16"))
    return {loss: _apart(single, half, loss) for loss in bf16_bounds(name)}


def bf16_bounds(name: str) -> dict[str, float]:
    """How far a case's losses in bf16 may be from those in single precision, as shares, by a loss's name."""
    return BF16_FITTED.get(name, {"loss": BF16_LOSS})


class _Interrupt(NullTracker):
    """Ends a training after its first epoch."""

    def metrics(self, values: dict[str, float], step: int) -> None:
        raise KeyboardInterrupt


def resumes(case: Case, shards: Shards, folder: Path, device: torch.device = GPU) -> float:
    """How far the curves are apart of a training that is interrupted after the first of two epochs, and of one in one go.

    The whole loop runs: checkpoints, validation, recorded steps, kernels that repeat.
    """
    recipe = dataclasses.replace(case.recipe(), precision="auto", deterministic=True)
    where = shards.of(case)

    def run(name: str, tracker: Any = None) -> list[dict[str, float]]:
        train(case.variant, where, folder / name, recipe, device, folder / f"{name}_checkpoints", tracker)
        history: list[dict[str, float]] = read_json(folder / name / "history.json")
        return history

    with suppress(KeyboardInterrupt):
        run("resumed", _Interrupt())
    if not any((folder / "resumed_checkpoints").rglob("*.*")):
        raise RuntimeError("the interrupted training left no checkpoint")
    return _apart(run("whole"), run("resumed"))


RESUMED = ("heatmap", "layer_decay", "average_and_clip", "dropout", "higherhrnet")  # what their checkpoints hold differs


def check(say: Callable[[str], None] = print, minutes: float = 8.0, names: list[str] | None = None) -> list[dict[str, Any]]:
    """Every check of every case within a time budget; what did not fit is in the results as such."""
    deadline, found = time.monotonic() + 60 * minutes, cases()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        shards = Shards(Path(scratch))
        for name in names or found:
            case = found[name]
            result: dict[str, Any] = {"case": name}
            if time.monotonic() > deadline:
                result["passed"] = None
            else:
                result |= _checked(name, case, shards, Path(scratch))
            results.append(result)
            say(f"{name:22} {result}")
    return results


def _checked(name: str, case: Case, shards: Shards, scratch: Path) -> dict[str, Any]:
    started = time.monotonic()
    try:
        single, half = (graphed_equals_eager(case, shards, precision) for precision in ("fp32", "bf16"))
        never_waits(case, shards)
        near = bf16_to_fp32(name, case, shards)
        curve = resumes(case, shards, scratch / f"resume_{name}") if name in RESUMED else 0.0
    except Exception as error:  # one family's fault does not hide the others
        return {"passed": False, "error": f"{type(error).__name__}: {str(error)[:300]}", "at": traceback.format_exc(limit=-3)[-600:]}
    close = all(near[loss] < bound for loss, bound in bf16_bounds(name).items())
    passed = single.same and half.same and close and curve <= TOLERANCE
    return {
        "passed": passed,
        "fp32": dataclasses.asdict(single),
        "bf16": dataclasses.asdict(half),
        "bf16_to_fp32": near,
        "resumed": curve,
        "seconds": round(time.monotonic() - started, 1),
    }
