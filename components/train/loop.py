"""The training loop, for CPU and GPU, from top to bottom.

Crops or images are on the device as uint8; a step is: draw a batch's augmentation, warp, draw targets, forward, backward, optimiser.
All randomness of a step depends on (seed, step) alone, so that a killed and resumed run ends with the same weights.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from components import approaches
from components.base.config import REPOSITORY
from components.base.files import sha256_of
from components.codecs.codec import Codec
from components.evaluate.feed import Drawn, Feed
from components.evaluate.ranks import ALONE, Ranks
from components.models import starts, upscale, zoo
from components.models.variant import Variant
from components.train import memory
from components.train.averaging import Average, kept_weights
from components.train.batches import Batches, step_seed
from components.train.checkpoint import Checkpoints
from components.train.graphed import GraphedStep
from components.train.guard import Guard
from components.train.journal import Journal
from components.train.meters import SAMPLED_EVERY
from components.train.optimiser import build_optimiser, set_learning_rate
from components.train.output import write_output
from components.train.recipe import Recipe
from components.train.step import Step, eager_step, precision_of
from components.train.synced_norm import sync_batch_norms
from components.train.teacher import VIEW, digest, open_teacher
from components.train.tracker import NullTracker, Tracker

CHECKPOINTS = REPOSITORY / "artifacts" / "checkpoints"


def train(
    variant: Variant,
    shards_directory: str | Path,
    output: str | Path,
    recipe: Recipe,
    device: str | torch.device = "cpu",
    checkpoints: str | Path = CHECKPOINTS,
    tracker: Tracker | None = None,
    ranks: Ranks = ALONE,
    passes: memory.Passes | None = None,
) -> dict[str, Any]:
    """Train a variant on a shard in this process and write `output` (model.safetensors, history.json, summary.json).

    The weights are those after the last epoch, or their running average where the recipe asks for it. A run that was killed
    continues from its last checkpoint, and ends with the same weights, bit for bit on a CPU and where the recipe is deterministic.
    Where a batch does not fit into the memory, the run continues from there with smaller parts of it.

    Args:
        checkpoints: folder of all runs' checkpoints, outside of `output`; this run's are removed at the end.
        tracker: receives each epoch's loss, learning_rate, images_per_second, data_share, memory_mib and, where validated,
            the AP on the split that the recipe names, such as dev_AP_gt_boxes or val_AP_no_boxes.
        ranks: this process among the recipe's `processes`; `train.launch` starts them.
        passes: to begin with; raised where a batch does not fit.
    Returns:
        Summary: what summary.json holds (variant, device, precision, crops or images, steps, parameters, loss, the AP, and model_sha256
            of the file), and what was measured: train_seconds (of all runs, if resumed), images_per_second, data_share, memory_mib.
            Empty in all processes but the first.
    Raises:
        FarposeError: the shard does not fit the variant, a loss is not finite, many batches in a row or all of them supervise
            nothing, or the disk is full at the end; `output` stays as it was.
        OutOfMemory: in one process of several, which all have to begin again.
    """
    assert ranks.count == recipe.processes, "train.launch starts as many processes as the recipe asks for"
    device = torch.device(device)
    _configure(recipe, device)
    opened = functools.partial(approaches.feed(variant.approach).open, variant, shards_directory, recipe.validate_on)
    feed = opened()
    key = _key(variant, recipe, shards_directory, device)
    store = Checkpoints(checkpoints, variant.name, key, recipe.checkpoint_seconds, recipe.checkpoint_steps)
    passes = passes or memory.Passes()
    with store.held() if ranks.first else contextlib.nullcontext():
        while True:
            try:
                return _train(variant, feed, output, recipe, device, store, key, tracker or NullTracker(), ranks, passes)
            except memory.OutOfMemory as error:
                if ranks.count > 1:
                    raise
                problem = str(error)
            passes.double(recipe.batch_size, variant.name, problem)
            feed = opened()  # the one before holds pixels on the device
            memory.release()


def _train(
    variant: Variant,
    feed: Feed,
    output: str | Path,
    recipe: Recipe,
    device: torch.device,
    store: Checkpoints,
    key: dict[str, Any],
    tracker: Tracker,
    ranks: Ranks,
    passes: memory.Passes,
) -> dict[str, Any]:
    model, codec = _build(variant, recipe, feed, device)
    graphed = device.type == "cuda" and recipe.cuda_graphs == "auto" and ranks.count == 1
    optimiser = build_optimiser(model, recipe, device, graphed)
    average = Average(model, recipe.average) if recipe.average else None
    progress = store.resume(model, optimiser, average)
    progress.passes = passes.count = max(passes.count, progress.passes)

    place = feed.place(codec, recipe, device)
    where = torch.device("cpu") if place.streams else device
    batches = Batches(len(feed), recipe.batch_size, recipe.seed, recipe.drop_last, where, smallest=ranks.count)
    last = recipe.epochs * batches.steps_per_epoch
    journal = Journal(variant.name, progress, tracker, device, recipe.epochs, batches.steps_per_epoch, feed.metric, ranks.first)
    journal.say(place.said)
    guard = Guard(device, lambda step: feed.name(batches.indices(step).cpu().numpy()))
    look_every = SAMPLED_EVERY if device.type == "cuda" else 1  # reading a number makes the program wait for the GPU

    teacher = open_teacher(recipe.teacher, recipe.teacher_share, variant, codec, device) if recipe.teacher else None

    def draw(step: int) -> tuple[Drawn, int]:
        """This process's part of a batch, and how many images the whole has."""
        indices, seed = batches.indices(step), step_seed(recipe.seed, step)
        part = ranks.part(len(indices))
        batch = feed.draw(indices, seed, part)
        if teacher is not None and teacher.view is not None:
            batch.targets[VIEW] = feed.view(indices, seed, teacher.view, part)
        if place.streams and step + 1 < last:
            following = batches.indices(step + 1)
            place.expect(following[ranks.part(len(following))])
        return batch, len(indices)

    run_step: Step = eager_step(model, codec, optimiser, recipe, device, teacher, ranks, passes.count)
    if graphed and progress.step < last:
        with memory.noticed():
            example, _ = draw(progress.step)
            run_step = GraphedStep(run_step, model, optimiser, example.images, example.targets)

    while progress.step < last:
        step = progress.step
        learning_rate = recipe.learning_rate_at(step, batches.steps_per_epoch)
        set_learning_rate(optimiser, learning_rate)
        codec.progress(step // batches.steps_per_epoch / recipe.epochs)
        torch.manual_seed(step_seed(recipe.seed, step) + ranks.rank)  # for networks that draw, such as those with dropout
        with memory.noticed():
            journal.clock.mark()
            batch, count = draw(step)
            journal.clock.mark()
            losses = run_step(batch.images, batch.targets, count)
            journal.clock.mark()
        guard.observe(step, losses["loss"], ranks.any(batch.supervised))
        if average is not None:
            average.update(step + 1)

        epoch_done = journal.step(losses, count)
        if epoch_done or progress.step % look_every == 0:
            guard.check()
            journal.show(losses["loss"])
        if epoch_done:
            validates = recipe.validates_after(progress.step // batches.steps_per_epoch)
            journal.end_epoch(learning_rate, _validation(model, average, feed, recipe, device, ranks) if validates else None)
        if ranks.first and (progress.step == last or store.due(progress.step)):
            guard.conclude() if progress.step == last else guard.check()
            store.save(model, optimiser, journal.settle(), average)

    journal.close(guard.conclude())
    if not ranks.first:
        return {}
    metadata = {
        "variant": variant.name,
        "recipe": json.dumps(key["recipe"]),
        "start": key["init"],
        **({"averaged_with": " ".join(key["averaged_with"])} if recipe.averaged_with else {}),
        **({"teacher": key["teacher"]} if recipe.teacher else {}),
        "shard": key["shard"],
        **key["versions"],
    }
    about: dict[str, Any] = {"variant": variant.name, "device": device.type, "precision": precision_of(recipe, device)}
    about |= {variant.approach: len(feed), "steps": last}
    about |= {"passes": progress.passes} if progress.passes > 1 else {}
    with kept_weights(average):
        summary = write_output(output, model, metadata, progress, about)
    store.remove()
    return summary


def _configure(recipe: Recipe, device: torch.device) -> None:
    """Repeatable arithmetic on a CPU, and on a GPU where the recipe asks for it; else the fastest kernels there."""
    on_gpu = device.type == "cuda"
    repeatable = recipe.deterministic or not on_gpu
    torch.set_num_threads(recipe.num_threads)
    torch.use_deterministic_algorithms(repeatable)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # it would only cost time
    torch.backends.cudnn.benchmark = on_gpu and not repeatable  # measures kernels, and may choose others in the next run
    torch.backends.cudnn.deterministic = repeatable
    if on_gpu and repeatable:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # matrix products repeat only with a workspace of their own


def _build(variant: Variant, recipe: Recipe, feed: Feed, device: torch.device) -> tuple[nn.Module, Codec]:
    torch.manual_seed(recipe.seed)
    built = zoo.build(variant, feed.skeleton)
    starts.initialise(built.model, recipe.init, feed.skeleton, recipe.averaged_with)
    upscale.load_generator(built.model, variant)
    if recipe.sync_batch_norm:
        sync_batch_norms(built.model)
    model = built.model.to(device).to(memory_format=torch.channels_last)
    return model.train(), built.codec


def _key(variant: Variant, recipe: Recipe, shards_directory: str | Path, device: torch.device) -> dict[str, Any]:
    """Everything that decides the result, the kind of device included: a run is not continued on another kind."""
    return {
        "variant": dataclasses.asdict(variant),
        "recipe": dataclasses.asdict(recipe),
        "init": starts.digest(recipe.init) or recipe.init,
        "averaged_with": [starts.digest(path) for path in recipe.averaged_with],
        "teacher": digest(recipe.teacher),
        "upscale": upscale.weights_digest(variant),
        "shard": sha256_of(Path(shards_directory) / "shard.json"),  # names every file's digest
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
        "device": device.type,
    }


def _validation(
    model: nn.Module, average: Average | None, feed: Feed, recipe: Recipe, device: torch.device, ranks: Ranks
) -> Callable[[], float]:
    bf16 = precision_of(recipe, device) == "bf16"

    def validate() -> float:
        with kept_weights(average):
            ranks.share_buffers(model)
            return feed.validate(model, recipe.validate_flip, bf16, device, ranks)

    return validate
