"""One optimiser step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from components.codecs.codec import Codec, Targets
from components.train.recipe import Recipe
from components.train.teacher import Teacher

Step = Callable[[Tensor, Targets], dict[str, Tensor]]


def eager_step(
    model: nn.Module, codec: Codec, optimiser: Optimizer, recipe: Recipe, device: torch.device, teacher: Teacher | None = None
) -> Step:
    """The step (normalised images (B, 3, H, W), targets) → detached losses; "loss" is their total."""
    precision = autocast(recipe, device)
    parameters = list(model.parameters())

    def step(images: Tensor, targets: Targets) -> dict[str, Tensor]:
        optimiser.zero_grad(set_to_none=True)
        with precision():
            outputs = model(images)
            wanted = () if teacher is None else teacher.maps(images, targets)
        outputs = tuple(output.float() for output in outputs)
        losses = codec.loss(outputs, targets)
        if teacher is not None:
            losses |= teacher.loss(outputs, wanted, losses["loss"])
        losses["loss"].backward()
        if recipe.gradient_clip is not None:
            nn.utils.clip_grad_norm_(parameters, recipe.gradient_clip)
        optimiser.step()
        return {name: value.detach() for name, value in losses.items()}

    return step


def autocast(recipe: Recipe, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """The recipe's precision as a context."""
    if precision_of(recipe, device) == "fp32":
        return nullcontext
    # without the cache of cast weights, a recorded step holds no tensor that was made outside of it
    return lambda: torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def precision_of(recipe: Recipe, device: torch.device) -> str:
    """Either "fp32" or "bf16"; the recipe's "auto" is bf16 on a GPU and fp32 on a CPU."""
    if recipe.precision != "auto":
        return recipe.precision
    return "bf16" if device.type == "cuda" else "fp32"
