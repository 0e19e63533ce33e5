"""Training steps on a GPU, as a CUDA graph against eager, and the time that COCO would take. Run: python -m benchmarks.gpu

Needs torch, numpy, opencv, pandas, pyarrow, scipy, safetensors, PyYAML, tqdm and timm; no data, unless `--shards` names a crop
shard to train on. Without a GPU it runs a tiny smoke test, reports that, and measures nothing. The record goes to
results/benchmarks/gpu.json, and into the folder $OUT if that is set.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import report
from components.codecs import as_crop_codec
from components.codecs.codec import Targets
from components.degrade.augment import Augmenter, Batch
from components.degrade.shards import TrainCrops
from components.models import zoo
from components.models.variant import Variant
from components.pose.skeleton import COCO_17
from components.train import recipe as recipes
from components.train.batches import Batches, step_seed
from components.train.graphed import GraphedStep
from components.train.loop import train
from components.train.optimiser import build_optimiser
from components.train.recipe import Recipe
from components.train.step import Step, autocast, eager_step
from components.train.tracker import JsonLinesTracker

PERSONS, EPOCHS = 149_813, 210  # annotated persons of COCO train2017, and the published schedule
VARIANTS = ("hrnet_w32_coco_64x48_fused", "hrnet_w32_coco_64x48")  # with four branches, and with three as published at 64x48
MINUTES = {128: 30.0, 256: 20.0}  # to reach, for 210 epochs, by batch size
GRAPHED_TARGET, OUTSIDE_TARGET, REPEATING_TARGET = 3.0, 0.10, 0.5
INPUT_SIZE = (64, 48)
CROP_SIDES = (216, 162)  # height and width of a stored crop, px: a person of medium size with its margin
SAME_STEPS, TOLERANCE = 10, 1e-5


def synthetic_crops(count: int, device: torch.device) -> TrainCrops:
    """Random crops as a shard of protocol `direct` holds them, with joints inside."""
    height, width = CROP_SIDES
    generator = torch.Generator().manual_seed(0)
    center = torch.tensor([width / 2, height / 2], dtype=torch.float64).repeat(count, 1)
    size = torch.tensor([96.0, 128.0], dtype=torch.float64).repeat(count, 1)
    joints = center[:, None] + (torch.rand(count, 17, 2, generator=generator, dtype=torch.float64) - 0.5) * size[:, None] * 0.8
    return TrainCrops(
        pixels=torch.randint(0, 2**24, (count * height * width,), generator=generator, dtype=torch.int32).to(device),
        offset=(torch.arange(count) * height * width).to(device),
        height=torch.full((count,), height, dtype=torch.int32, device=device),
        width=torch.full((count,), width, dtype=torch.int32, device=device),
        image_to_stored=torch.eye(2, 3, dtype=torch.float64).repeat(count, 1, 1).to(device),
        center=center.to(device),
        size=size.to(device),
        keypoints_image=joints.to(device),
        visible=torch.ones(count, 17, dtype=torch.bool, device=device),
        image_id=torch.arange(count, device=device),
        annotation_id=torch.arange(count, device=device),
        skeleton=COCO_17,
        protocol="direct",
        settings=None,
        input_size=INPUT_SIZE,
        margin_scale=1.35,
    )


class Trainee:
    """A variant in training, step by step, on crops in the device's memory.

    Args:
        kind: "eager", "graphed", or "model": a recording of forward and backward alone, on one fixed batch.
    """

    def __init__(self, variant: Variant, recipe: Recipe, crops: TrainCrops, kind: str) -> None:
        torch.manual_seed(recipe.seed)
        built = zoo.build(variant)
        self.codec, self.recipe, self.crops, self.kind, self.done = as_crop_codec(built.codec), recipe, crops, kind, 0
        model = built.model.to(crops.device).to(memory_format=torch.channels_last).train()
        self.augment = Augmenter(self.codec.geometry, recipe.augmentation, COCO_17)
        self.batches = Batches(len(crops), recipe.batch_size, recipe.seed, True, crops.device)
        optimiser = build_optimiser(model, recipe, crops.device, graphed=kind == "graphed")
        self.run: Step = eager_step(model, self.codec, optimiser, recipe, crops.device)
        self.batch, self.targets = self.draw(0)
        if kind == "model":
            self.run = _forward_backward(model, self.codec, recipe, crops.device)
        if kind != "eager":
            self.run = GraphedStep(self.run, model, optimiser, self.batch.images, self.targets)

    def draw(self, step: int) -> tuple[Batch, Targets]:
        batch = self.augment(self.crops, self.batches.indices(step), step_seed(self.recipe.seed, step))
        return batch, self.codec.targets(batch.keypoints_crop, batch.visible)

    def step(self) -> Tensor:
        """One training step's loss (), still on the device."""
        batch, targets = (self.batch, self.targets) if self.kind == "model" else self.draw(self.done)
        self.done += 1
        return self.run(batch.images, targets)["loss"]


def _forward_backward(model: torch.nn.Module, codec: Any, recipe: Recipe, device: torch.device) -> Step:
    precision = autocast(recipe, device)

    def step(images: Tensor, targets: Targets) -> dict[str, Tensor]:
        model.zero_grad(set_to_none=True)
        with precision():
            outputs = model(images)
        losses = codec.loss(tuple(output.float() for output in outputs), targets)
        losses["loss"].backward()
        return {name: value.detach() for name, value in losses.items()}

    return step


def same_losses(variant: Variant, recipe: Recipe, crops: TrainCrops) -> dict[str, Any]:
    """Whether graphed steps compute what eager ones do, in fp32, from the same start on the same batches.

    Adam's first steps have the length of the learning rate whatever the gradient's, so that rounding alone drives losses apart. Two
    eager runs say how far.
    """
    recipe = dataclasses.replace(recipe, precision="fp32")
    with repeatable():
        eager, again, graphed = (_losses(Trainee(variant, recipe, crops, kind)) for kind in ("eager", "eager", "graphed"))
    noise, apart = (_apart(eager, other) for other in (again, graphed))
    print(f"{variant.name}: losses of {SAME_STEPS} steps differ from eager by {max(apart):.1e} (graphed), {max(noise):.1e} (eager again)")
    same = max(apart) <= max(TOLERANCE, 2 * max(noise))
    return {"name": f"graphed equals eager, {variant.name}", "ratio": float(same), "target": 1.0, "n": SAME_STEPS,
            "spread": [min(apart), max(apart)], "eager_again": max(noise), "losses": graphed}  # fmt: skip


def _losses(trainee: Trainee) -> list[float]:
    return [trainee.step().item() for _ in range(SAME_STEPS)]


def _apart(one: list[float], other: list[float]) -> list[float]:
    return [abs(a - b) / a for a, b in zip(one, other, strict=True)]


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


def timed(variant: Variant, recipe: Recipe, crops: TrainCrops, steps: int, repeats: int) -> list[dict[str, Any]]:
    """Rows for one variant and batch size: graphed against eager, minutes for COCO, share of the step outside the model."""
    torch.cuda.reset_peak_memory_stats()
    graphed = Trainee(variant, recipe, crops, "graphed")
    memory = torch.cuda.max_memory_allocated() / 2**20
    trainees = {"graphed": graphed, "eager": Trainee(variant, recipe, crops, "eager"), "model": Trainee(variant, recipe, crops, "model")}
    seconds = report.interleave({name: _many(trainee, steps) for name, trainee in trainees.items()}, repeats)
    per_step = {name: [value / steps for value in values] for name, values in seconds.items()}
    minutes = [value * EPOCHS * (PERSONS // recipe.batch_size) / 60 for value in per_step["graphed"]]
    outside = [1 - model / whole for model, whole in zip(per_step["model"], per_step["graphed"], strict=True)]
    what = f"{variant.name}, batch {recipe.batch_size}"
    facts = {
        "graphed_ms": 1e3 * statistics.median(per_step["graphed"]),
        "eager_ms": 1e3 * statistics.median(per_step["eager"]),
        "model_ms": 1e3 * statistics.median(per_step["model"]),
        "memory_mib": memory,
        "waits_per_step": _waits(graphed),
    }
    return [
        report.row(f"eager / graphed step, {what}", seconds["eager"], seconds["graphed"], GRAPHED_TARGET, **facts),
        _limit(f"210 epochs of COCO, minutes, {what}", MINUTES.get(recipe.batch_size, MINUTES[128]), minutes),
        _limit(f"share of the step outside the model, {what}", OUTSIDE_TARGET, outside),
    ]


def repeating(variant: Variant, recipe: Recipe, crops: TrainCrops, steps: int, repeats: int) -> dict[str, Any]:
    """What kernels that repeat cost (`deterministic: true`): a graphed step with the fastest kernels against one with those."""
    trainees = {"fast": Trainee(variant, recipe, crops, "graphed")}
    with repeatable(tf32=True):
        trainees["repeatable"] = Trainee(variant, recipe, crops, "graphed")
    seconds = report.interleave({name: _many(trainee, steps) for name, trainee in trainees.items()}, repeats)
    facts = {f"{name}_ms": 1e3 * statistics.median(values) / steps for name, values in seconds.items()}
    name = f"fastest / repeatable kernels, {variant.name}, batch {recipe.batch_size}"
    return report.row(name, seconds["fast"], seconds["repeatable"], REPEATING_TARGET, **facts)


def _many(trainee: Trainee, steps: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(steps):
            trainee.step()
        torch.cuda.synchronize()

    return run


def _limit(name: str, limit: float, values: list[float]) -> dict[str, Any]:
    """A row for values that must stay below a limit; the ratio is limit over median."""
    ratios = [limit / max(value, 1e-9) for value in values]
    return {"name": name, "ratio": statistics.median(ratios), "target": 1.0, "n": len(values), "spread": [min(ratios), max(ratios)],
            "median": statistics.median(values), "limit": limit}  # fmt: skip


def _waits(trainee: Trainee) -> int:
    """How often one step makes the program wait for the GPU."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainee.step()
    torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def train_on(shards: Path, variant: Variant, recipe: Recipe, device: torch.device, folder: Path) -> dict[str, Any]:
    """Train a variant on a real shard, from start to validated weights."""
    started = time.perf_counter()
    tracker = JsonLinesTracker(folder / "history.jsonl")
    summary = train(variant, shards, folder / variant.name, recipe, device, folder / "checkpoints", tracker)
    return summary | {"wall_seconds": time.perf_counter() - started}


def smoke(recipe: Recipe) -> None:
    """A few eager steps of the tiny network on the CPU: shows that the script runs, measures nothing."""
    crops = synthetic_crops(8, torch.device("cpu"))
    tiny = dataclasses.replace(recipe, batch_size=4, num_threads=1, precision="fp32")
    trainee = Trainee(zoo.variant("hrnet_tiny_synthetic_64x48"), tiny, crops, "eager")
    losses = [trainee.step().item() for _ in range(3)]
    print(f"smoke test on the CPU: losses {', '.join(f'{loss:.5f}' for loss in losses)}")


def show(rows: list[dict[str, Any]]) -> None:
    """Print a short table."""
    details = ("median", "graphed_ms", "eager_ms", "model_ms", "fast_ms", "repeatable_ms", "memory_mib", "waits_per_step")
    print(f"\n{'':74}{'ratio':>8}{'target':>8}")
    for row in rows:
        detail = "".join(f"  {key} {row[key]:.4g}" for key in details if key in row)
        print(f"{row['name']:74}{row['ratio']:8.2f}{row['target']:8.2f}{detail}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="only a tiny run on the CPU")
    parser.add_argument("--variants", nargs="+", default=VARIANTS, help="what to time")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=list(MINUTES))
    parser.add_argument("--record", default="gpu", help="name of the result file")
    parser.add_argument("--steps", type=int, default=50, help="steps per timed turn")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--shards", type=Path, help="crop shard to train --train-variant on, after the timings")
    parser.add_argument("--train-variant", default="cal_hrnet_w32_coco_64x48")
    parser.add_argument("--epochs", type=int, help="of that training; the variant's own unless given")
    arguments = parser.parse_args()
    recipe = recipes.load()
    if arguments.smoke or not torch.cuda.is_available():
        print("smoke test only" if arguments.smoke else "no CUDA device here: nothing is measured")
        smoke(recipe)
        return

    device = torch.device("cuda")
    torch.backends.cudnn.benchmark = True
    crops = synthetic_crops(8192, device)
    variants = [zoo.variant(name) for name in arguments.variants]
    rows = [same_losses(variant, dataclasses.replace(recipe, batch_size=64), crops) for variant in variants]
    for batch_size in arguments.batch_sizes:
        for variant in variants:
            sized = dataclasses.replace(recipe, batch_size=batch_size)
            rows += timed(variant, sized, crops, arguments.steps, arguments.repeats)
            rows.append(repeating(variant, sized, crops, arguments.steps, arguments.repeats))
            show(rows[-4:])
    more: dict[str, Any] = {}
    out = Path(os.environ.get("OUT", report.RESULTS / "gpu"))
    if arguments.shards:
        variant = zoo.variant(arguments.train_variant)
        chosen = recipes.resolve(variant, recipe)
        more["training"] = train_on(
            arguments.shards, variant, dataclasses.replace(chosen, epochs=arguments.epochs or chosen.epochs), device, out
        )
        print(more["training"])
    show(rows)
    path = report.write(arguments.record, rows, **more)
    if "OUT" in os.environ:
        shutil.copy(path, out)


if __name__ == "__main__":
    main()
