"""Training on one batch until it is known by heart."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from components.degrade.augment import Augmenter, AugmentParams
from components.degrade.shards import TrainCrops
from components.models import starts, zoo
from components.models.variant import Variant
from components.train import recipe as recipes
from components.train.optimiser import build_optimiser, set_learning_rate
from components.train.step import eager_step
from tests.codecs.cases import share_near
from tests.tiny_shard import write_tiny_shard

CPU = torch.device("cpu")


def learned_share(variant: Variant, folder: Path, steps: int = 200, init: str = "none", own_recipe: bool = False) -> float:
    """PCK on four crops after up to `steps` steps on them; stops at 0.95.

    Args:
        own_recipe: at the rate and with the warm-up of the variant's recipe, without which folded batch norms die in the first steps;
            else at the published rate.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    built = zoo.build(variant)
    starts.initialise(built.model, init, variant.skeleton)
    model, codec = built.model.train(), built.codec
    base = recipes.load()
    recipe = dataclasses.replace(recipes.resolve(variant, base) if own_recipe else base, num_threads=1)
    optimiser = build_optimiser(model, recipe, CPU, graphed=False)
    step = eager_step(model, codec, optimiser, recipe, CPU)
    crops = TrainCrops.open(write_tiny_shard(folder))
    batch = Augmenter(codec.geometry, AugmentParams.none(), crops.skeleton)(crops.to(CPU), torch.arange(4), 0)
    targets = codec.targets(batch.keypoints_crop, batch.visible)
    accuracy = 0.0
    for done in range(1, steps + 1):
        set_learning_rate(optimiser, recipe.learning_rate * min(1, done / max(1, recipe.warmup_steps)))
        step(batch.images, targets)
        if done % 10 == 0:
            with torch.no_grad():
                accuracy = share_near(codec, model(batch.images), targets)
            if accuracy >= 0.95:
                break
    return accuracy
