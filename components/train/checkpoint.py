"""Checkpoints: what a killed run needs to continue as if nothing had happened.

They are kept outside the stage's outputs (DVC deletes those before a stage runs), in a folder named after a digest of all that
decides the result. The newest two are kept while training runs; all are removed once the trained model has been written,
so that finished variants take no room. Those of a run that was given up (killed, then changed) stay until someone deletes
their folder, which is safe at any time. Tensors are safetensors, scalars JSON: nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from components.base.errors import DiskFull, FarposeError
from components.base.files import atomic_file, digest_of
from components.base.locks import held
from components.train.averaging import Average

AVERAGE = "average."  # start of the averaged weights' names
KEPT = 2  # the newest, and the one before it in case the disk damaged the newest


@dataclass
class Progress:
    """How far training has come.

    Attributes:
        step: optimiser steps done.
        totals: sums of the losses over the running epoch's steps.
        history: one mapping per finished epoch; equal in every run of the same recipe on the same CPU.
        timing: one mapping per finished epoch; measured, so different in every run.
        seconds: time spent training, over all runs that were killed and resumed.
        passes: over each batch, because the whole does not fit into the memory.
    """

    step: int = 0
    totals: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    timing: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    passes: int = 1


class Checkpoints:
    """The checkpoints of one training run.

    Args:
        root: folder of all runs' checkpoints.
        variant: name, for errors.
        key: JSON-serialisable description of all that decides the result; its digest names the run's folder.
        seconds: least time between two checkpoints.
        steps: also one every so many steps; None for none.
    """

    def __init__(self, root: str | Path, variant: str, key: dict[str, Any], seconds: float, steps: int | None = None) -> None:
        self.variant, self.digest = variant, digest_of({"variant": variant, **key})
        self.directory = Path(root) / self.digest[:16]
        self.seconds, self.steps, self._saved_at = seconds, steps, time.monotonic()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other trainings out of this folder; wait, and say so, while one is in it, such as one whose starter was killed."""
        path = self.directory.with_name(f".{self.directory.name}.lock")
        path.parent.mkdir(parents=True, exist_ok=True)

        def say() -> None:
            problem = f"another process trains {self.variant} with the same checkpoints; waiting until it ends"
            print(f"{problem} (`fuser {path}` names it)", file=sys.stderr, flush=True)

        while True:
            with held(path, say):
                if not path.exists():  # removed by the process that had it: a third one may hold a new file of this name
                    continue
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return

    def due(self, step: int) -> bool:
        """Whether a checkpoint should be written after `step` steps."""
        return time.monotonic() - self._saved_at >= self.seconds or (self.steps is not None and step % self.steps == 0)

    def save(self, model: nn.Module, optimiser: Optimizer, progress: Progress, average: Average | None = None) -> None:
        """Write a checkpoint, whole or not at all, and drop all but the newest two.

        On a full disk the earlier ones stay, training goes on, and the next checkpoint is tried when it is due.
        """
        tensors = {name: tensor.cpu().contiguous() for name, tensor in _state(model, optimiser, average).items()}
        metadata = {
            "variant": self.variant,
            "digest": self.digest,
            "progress": json.dumps(dataclasses.asdict(progress)),
            "sha256": _sha256(tensors),
        }
        content = save(tensors, metadata)  # in memory: safetensors' own writer hides a full disk behind its own error
        self._saved_at = time.monotonic()
        try:
            with atomic_file(self.directory / f"step-{progress.step:09d}.safetensors") as temporary:
                temporary.write_bytes(content)
        except DiskFull as error:
            print(f"{self.variant}: no checkpoint after step {progress.step}, training goes on: {error}", file=sys.stderr, flush=True)
            return
        for path in [*self._files()[:-KEPT], *self.directory.glob(".*.tmp")]:  # .tmp: left by a run killed while writing
            path.unlink()

    def resume(self, model: nn.Module, optimiser: Optimizer, average: Average | None = None) -> Progress:
        """Load the newest intact checkpoint into `model`, `optimiser` and `average`; a fresh `Progress` if there is none.

        Raises:
            FarposeError: every checkpoint is damaged, or one belongs to another variant or recipe.
        """
        files = self._files()
        for path in reversed(files):
            found = self._read(path)
            if found is None:
                print(f"{path}: damaged checkpoint, trying the one before it", file=sys.stderr)
                continue
            progress, tensors = found
            _restore(model, optimiser, tensors)
            if average is not None:
                average.restore({name.removeprefix(AVERAGE): t for name, t in tensors.items() if name.startswith(AVERAGE)})
            return progress
        if files:
            raise FarposeError("every checkpoint is damaged", where=self.directory, fix="delete this folder to train from the beginning")
        return Progress()

    def remove(self) -> None:
        """Delete this run's checkpoints."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _files(self) -> list[Path]:
        return sorted(self.directory.glob("step-*.safetensors"))

    def _read(self, path: Path) -> tuple[Progress, dict[str, Tensor]] | None:
        """Scalars and tensors of a checkpoint, or None if it is damaged."""
        try:
            with safe_open(path, "pt") as stream:
                metadata = stream.metadata() or {}
                tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        except (SafetensorError, OSError):
            return None
        if metadata.get("digest") != self.digest:
            owner = metadata.get("variant", "unknown")
            problem = f"this checkpoint belongs to another run (variant {owner!r}), not to this one of {self.variant!r}"
            raise FarposeError(problem, where=path, fix="move it out of this folder")
        if metadata["sha256"] != _sha256(tensors):
            return None
        return Progress(**json.loads(metadata["progress"])), tensors


def _state(model: nn.Module, optimiser: Optimizer, average: Average | None = None) -> dict[str, Tensor]:
    """All tensors that training changes, by name."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    if average is not None:
        tensors |= {AVERAGE + name: tensor for name, tensor in average.tensors.items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": tensor for name, tensor in state.items()}
    return tensors


def _restore(model: nn.Module, optimiser: Optimizer, tensors: dict[str, Tensor]) -> None:
    model.load_state_dict({name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")})
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimiser."):
            _, index, key = name.split(".")
            state.setdefault(int(index), {})[key] = _laid_out_like(parameters[int(index)], tensor)
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _laid_out_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Moments must share their parameter's memory layout: the fused optimiser walks both as flat arrays."""
    if tensor.shape != parameter.shape:
        return tensor
    return torch.empty_like(parameter, requires_grad=False).copy_(tensor)


def _sha256(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
