"""The outputs of training: weights, history and summary; the learning curves as a picture."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from torch import nn

from components.base.files import atomic_directory, sha256_of, write_json
from components.evaluate.headline import PROTOCOLS
from components.models.weights import save_weights
from components.train.checkpoint import Progress

MEASURED = ("train_seconds", "images_per_second", "data_share", "memory_mib")  # differ from run to run, so no file holds them
SPLITS = {"val": "validation", "dev": "development"}


def write_output(
    output: str | Path, model: nn.Module, metadata: dict[str, str], progress: Progress, about: dict[str, Any]
) -> dict[str, Any]:
    """Write the model directory, whole or not at all, and return the summary.

    `model.safetensors`, `history.json` and `summary.json` are equal in every run on the same CPU: whoever makes them again has the
    same digests. What is `MEASURED` is in the summary that is returned, and in none of the files.

    Args:
        metadata: goes into the weights file; must hold "variant".
        about: the first entries of the summary.
    Raises:
        FarposeError: the disk is full; an earlier directory stays.
    """
    with atomic_directory(output) as directory:
        save_weights(directory / "model.safetensors", model, metadata)
        summary = about | _summary(model, progress) | {"model_sha256": sha256_of(directory / "model.safetensors")}
        write_json(directory / "history.json", progress.history)
        write_json(directory / "summary.json", summary)
    return summary | _measured(progress)


def _summary(model: nn.Module, progress: Progress) -> dict[str, Any]:
    """The last epoch's losses and AP."""
    last = {name: value for name, value in progress.history[-1].items() if name != "learning_rate"}
    return {"parameters": sum(parameter.numel() for parameter in model.parameters()), **last}


def _measured(progress: Progress) -> dict[str, float]:
    """What a clock and a counter say: medians over the epochs, the largest memory."""
    timing = progress.timing
    return {
        "train_seconds": round(progress.seconds, 1),
        **{name: median(row[name] for row in timing) for name in ("images_per_second", "data_share")},
        "memory_mib": max(row["memory_mib"] for row in timing),
    }


def draw_curves(path: Path, history: list[dict[str, float]], title: str) -> None:
    """Loss (logarithmic) and learning rate's drops on the left, validation AP on the right, against epochs."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    left.semilogy(epochs, [row["loss"] for row in history], color="C0")
    for before, after in pairwise(history):
        if after["learning_rate"] < before["learning_rate"]:
            left.axvline(before["epoch"] + 0.5, color="0.7", linestyle=":", linewidth=1)
    left.set(xlabel="epoch", ylabel="training loss", title=title)
    metric = next(key for key in history[-1] if "_AP_" in key)
    split, boxes = metric.split("_AP_")
    validated = [row for row in history if metric in row]
    right.plot([row["epoch"] for row in validated], [row[metric] for row in validated], "o-", color="C1")
    right.set(xlabel="epoch", ylabel=f"{SPLITS[split]} AP", title=f"boxes given: {PROTOCOLS[boxes]}", ylim=(0, None), xlim=left.get_xlim())
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.savefig(path, dpi=110)
