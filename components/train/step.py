"""One optimiser step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from components.codecs.codec import Codec, Targets
from components.evaluate.ranks import ALONE, Ranks
from components.train.recipe import Recipe
from components.train.teacher import VIEW, Teacher


class Step(Protocol):
    """One step over this process's part of a batch."""

    def __call__(self, images: Tensor, targets: Targets, count: int | None = None) -> dict[str, Tensor]:
        """Detached losses of the whole batch; "loss" is their total.

        Args:
            images: (b, 3, H, W) normalised, this process's part.
            targets: of these images.
            count: images of the whole batch; None: b, of a process that is alone.
        """


def eager_step(
    model: nn.Module,
    codec: Codec,
    optimiser: Optimizer,
    recipe: Recipe,
    device: torch.device,
    teacher: Teacher | None = None,
    ranks: Ranks = ALONE,
    passes: int = 1,
) -> Step:
    """A training step of a network.

    Args:
        passes: the batch is cut into so many micro-batches, whose gradients are added: the same gradient at a fraction of the memory,
            except that batch norm, and losses that are normalised over a batch, see one micro-batch at a time.
    """
    precision = autocast(recipe, device)
    parameters = list(model.parameters())

    def losses_of(images: Tensor, targets: Targets, sizes: list[int]) -> dict[str, Tensor]:
        with precision():
            outputs = model(images)
            wanted = () if teacher is None else teacher.maps(images, targets)
        outputs = tuple(ranks.whole(output.float(), sizes) for output in outputs)
        whole = {name: ranks.whole(target, sizes) for name, target in targets.items() if name != VIEW}
        losses = codec.loss(outputs, whole)
        if teacher is not None:
            losses |= teacher.loss(outputs, tuple(ranks.whole(maps, sizes) for maps in wanted), losses["loss"])
        return losses

    def step(images: Tensor, targets: Targets, count: int | None = None) -> dict[str, Tensor]:
        optimiser.zero_grad(set_to_none=True)
        total: dict[str, Tensor] = {}
        for part, sizes, share in micro_batches(ranks, count or len(images), passes):
            losses = losses_of(images[part], {name: target[part] for name, target in targets.items()}, sizes)
            (losses["loss"] if share == 1 else share * losses["loss"]).backward()
            for name, value in losses.items():
                total[name] = value.detach() if share == 1 else total.get(name, 0.0) + share * value.detach()
        ranks.add_gradients(parameters)
        if recipe.gradient_clip is not None:
            nn.utils.clip_grad_norm_(parameters, recipe.gradient_clip)
        optimiser.step()
        return total

    return step


def micro_batches(ranks: Ranks, count: int, passes: int) -> list[tuple[slice, list[int], float]]:
    """How a batch of `count` images is worked through: per micro-batch this process's images, every process's number of them, and the
    micro-batch's share of the batch. There are fewer passes where a process has fewer images.
    """
    wholes = ranks.sizes(count)
    passes = min(passes, *wholes) if ranks.count > 1 else min(passes, count)
    cut = [[size // passes + (number < size % passes) for number in range(passes)] for size in wholes]
    found, start = [], 0
    for number in range(passes):
        sizes = [sizes[number] for sizes in cut]
        found.append((slice(start, start + sizes[ranks.rank]), sizes, sum(sizes) / count))
        start += sizes[ranks.rank]
    return found


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
