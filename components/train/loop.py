"""The training loop, for CPU and GPU: reads from top to bottom.

Crops lie on the device as uint8; a step is: draw a batch's augmentation, warp, draw targets, forward, backward, optimiser.
All randomness of a step depends on (seed, step) alone, so that a killed and resumed run ends with the same weights.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from components.base.config import REPOSITORY
from components.base.errors import FarposeError
from components.base.files import sha256_of
from components.codecs import Codec
from components.degrade.augment import Augmenter, Batch
from components.degrade.shards import EvalCrops, TrainCrops
from components.models import pretrained, upscale, zoo
from components.models.variant import Variant
from components.train.batches import Batches, step_seed
from components.train.checkpoint import Checkpoints
from components.train.graphed import GraphedStep
from components.train.guard import Guard, joint_inside
from components.train.journal import Journal
from components.train.meters import SAMPLED_EVERY
from components.train.optimiser import build_optimiser, set_learning_rate
from components.train.output import write_output
from components.train.recipe import Recipe
from components.train.step import Step, Targets, eager_step, precision_of
from components.train.tracker import NullTracker, Tracker
from components.train.validation import validation_ap

CHECKPOINTS = REPOSITORY / "artifacts" / "checkpoints"


def train(
    variant: Variant,
    shards_directory: str | Path,
    output: str | Path,
    recipe: Recipe,
    device: str | torch.device = "cpu",
    checkpoints: str | Path = CHECKPOINTS,
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Train a variant on a shard and write `output` (model.safetensors, history.json, timing.json, learning_curves.png).

    The weights are those after the last epoch. A run that was killed continues from its last checkpoint, and ends with the
    same weights, bit for bit on a CPU.

    Args:
        checkpoints: folder of all runs' checkpoints, outside of `output`; this run's are removed at the end.
        tracker: receives each epoch's loss, learning_rate, images_per_second, data_share, memory_mib and, where validated,
            val_AP_gt_boxes.
    Returns:
        Summary, which timing.json holds too: variant, device, precision, crops, steps, parameters, loss, val_AP_gt_boxes,
            train_seconds (of all runs, if resumed), images_per_second, data_share, memory_mib, and model_sha256 of the file.
    Raises:
        FarposeError: the shard does not fit the variant, a loss is not finite, a batch teaches nothing, or the disk is full;
            `output` stays as it was.
    """
    device = torch.device(device)
    _configure(recipe, device)
    crops = TrainCrops.open(shards_directory)
    validation = EvalCrops.open(shards_directory, variant.convention)
    model, codec = _build(variant, recipe, crops, device)
    graphed = device.type == "cuda" and recipe.cuda_graphs == "auto"
    optimiser = build_optimiser(model, recipe, device, graphed)
    key = _key(variant, recipe, shards_directory, device)
    store = Checkpoints(checkpoints, variant.name, key, recipe.checkpoint_seconds, recipe.checkpoint_steps)
    progress = store.resume(model, optimiser)

    on_device = crops.to(device)
    augment = Augmenter(codec.geometry, recipe.augmentation, crops.skeleton)
    batches = Batches(len(crops), recipe.batch_size, recipe.seed, recipe.drop_last, device)
    last = recipe.epochs * batches.steps_per_epoch
    journal = Journal(variant.name, progress, tracker or NullTracker(), device, recipe.epochs, batches.steps_per_epoch)
    guard = Guard(device, lambda step: crops.annotation_id[batches.indices(step).cpu().numpy()].tolist())
    look_every = SAMPLED_EVERY if device.type == "cuda" else 1  # looking at a number makes the program wait for the GPU

    def draw(step: int) -> tuple[Batch, Targets]:
        batch = augment(on_device, batches.indices(step), step_seed(recipe.seed, step))
        return batch, codec.targets(batch.keypoints_crop, batch.visible)

    run_step: Step = eager_step(model, codec, optimiser, recipe, device)
    if graphed and progress.step < last:
        batch, targets = draw(progress.step)
        run_step = GraphedStep(run_step, model, optimiser, batch.images, targets)

    while progress.step < last:
        step = progress.step
        learning_rate = recipe.learning_rate_at(step, batches.steps_per_epoch)
        set_learning_rate(optimiser, learning_rate)
        codec.progress(step // batches.steps_per_epoch / recipe.epochs)
        torch.manual_seed(step_seed(recipe.seed, step))  # for networks that draw, such as those with dropout
        journal.clock.mark()
        batch, targets = draw(step)
        journal.clock.mark()
        losses = run_step(batch.images, targets)
        journal.clock.mark()
        guard.observe(step, losses["loss"], joint_inside(batch.keypoints_crop, batch.visible, variant.input_size))

        epoch_done = journal.step(losses, len(batch.images))
        if epoch_done or progress.step % look_every == 0:
            guard.check()
            journal.show(losses["loss"])
        if epoch_done:
            validates = recipe.validates_after(progress.step // batches.steps_per_epoch)
            journal.end_epoch(learning_rate, _validation(model, codec, validation, recipe, device) if validates else None)
        if progress.step == last or store.due(progress.step):
            guard.check()
            store.save(model, optimiser, journal.settle())

    journal.close()
    metadata = {"variant": variant.name, "recipe": json.dumps(key["recipe"]), "shard": key["shard"], **key["versions"]}
    about = {"variant": variant.name, "device": device.type, "precision": precision_of(recipe, device), "crops": len(crops), "steps": last}
    summary = write_output(output, model, metadata, progress, about)
    store.remove()
    return summary


def _configure(recipe: Recipe, device: torch.device) -> None:
    """Repeatable arithmetic on a CPU; the fastest kernels on a GPU."""
    torch.set_num_threads(recipe.num_threads)
    torch.use_deterministic_algorithms(device.type == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # it would only cost time
    torch.backends.cudnn.benchmark = device.type == "cuda"


def _build(variant: Variant, recipe: Recipe, crops: TrainCrops, device: torch.device) -> tuple[nn.Module, Codec]:
    if crops.input_size != variant.input_size:
        made, wanted = ("{}x{}".format(*size) for size in (crops.input_size, variant.input_size))
        raise FarposeError(f"the shard's crops are {made} px, the variant needs {wanted}", where=f"variant {variant.name}",
                           fix="name the matching shard in params/pipeline.yaml")  # fmt: skip
    if crops.skeleton.name != variant.skeleton.name:
        raise FarposeError(f"the shard's persons have the joints {crops.skeleton.name}, the variant predicts {variant.skeleton.name}",
                           where=f"variant {variant.name}", fix="cut crops of the variant's data set")  # fmt: skip
    torch.manual_seed(recipe.seed)
    built = zoo.build(variant, crops.skeleton)
    upscale.load_generator(built.model, variant)
    if recipe.init != "none":
        pretrained.load_backbone(built.model, recipe.init)
    model = built.model.to(device).to(memory_format=torch.channels_last)
    return model.train(), built.codec


def _key(variant: Variant, recipe: Recipe, shards_directory: str | Path, device: torch.device) -> dict[str, Any]:
    """All that decides the result. The device's kind is part of it: a run is not continued on another one."""
    init = Path(recipe.init)
    return {
        "variant": dataclasses.asdict(variant),
        "recipe": dataclasses.asdict(recipe),
        "init": sha256_of(init) if init.is_file() else recipe.init,
        "upscale": upscale.weights_digest(variant),
        "shard": sha256_of(Path(shards_directory) / "shard.json"),  # names every file's digest
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
        "device": device.type,
    }


def _validation(model: nn.Module, codec: Codec, crops: EvalCrops, recipe: Recipe, device: torch.device) -> Callable[[], float]:
    bf16 = precision_of(recipe, device) == "bf16"
    return lambda: validation_ap(model, codec, crops, recipe.validate_flip, bf16, device)
