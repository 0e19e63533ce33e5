"""The optimiser: Adam as the convolutional top-down methods train, AdamW with layer-wise rates as the transformers do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from components.base.errors import FarposeError
from components.train.recipe import Recipe

SCALE = "scale"  # a parameter group's own factor on the learning rate
UNDECAYED_STARTS = ("pos_embed", "relative_position")
UNDECAYED_ENDS = ("_token", "_tokens")


def build_optimiser(model: nn.Module, recipe: Recipe, device: torch.device, graphed: bool) -> Optimizer:
    """The recipe's optimiser over the trainable parameters of `model`.

    Args:
        graphed: the step will be recorded as a CUDA graph, so the learning rates and the step count must be tensors.
    Raises:
        FarposeError: the recipe has a layer decay, but the network does not number its layers.
    """
    kind = AdamW if recipe.optimiser == "adamw" else Adam
    groups = parameter_groups(model, recipe)
    for group in groups:
        rate = recipe.learning_rate * group[SCALE]
        group["lr"] = torch.tensor(rate, device=device) if graphed else rate  # one tensor per group, because they differ
    return kind(groups, lr=groups[0]["lr"], weight_decay=recipe.weight_decay, fused=True, capturable=graphed)


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Trainable parameters by learning rate and weight decay, in the order in which the network first names one.

    Layer-wise rates (Clark et al. 2020, ELECTRA; SHaRPose and ViTPose train so): the further from the output, the smaller.
    A network says the layer of each parameter (`layer_of(name)`, 0 for the embeddings, `layers` + 1 for all behind the last
    block), and layer l gets the rate times layer_decay^(layers + 1 - l).

    Raises:
        FarposeError: as `build_optimiser`.
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = _layer_scale(model, name, recipe.layer_decay), recipe.weight_decay if decays(name, parameter, recipe.decay_all) else 0.0
            groups.setdefault(key, {"params": [], SCALE: key[0], "weight_decay": key[1]})["params"].append(parameter)
    return list(groups.values())


def decays(name: str, parameter: Tensor, everything: bool = False) -> bool:
    """Whether weight decay shrinks the parameter: not norms, biases, positions and learned tokens, whose size has a meaning.

    Args:
        everything: norms and biases too, as in the released configurations of HRFormer and SRPose.
    """
    special = any(part.startswith(UNDECAYED_STARTS) or part.endswith(UNDECAYED_ENDS) for part in name.split("."))
    return (everything or (parameter.ndim > 1 and not name.endswith("bias"))) and not special


def set_learning_rate(optimiser: Optimizer, value: float) -> None:
    """Change the learning rates in place, so that a recorded step uses them; each group keeps its factor."""
    for group in optimiser.param_groups:
        rate = value * group.get(SCALE, 1.0)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def _layer_scale(model: Any, name: str, decay: float | None) -> float:
    if decay is None:
        return 1.0
    if not hasattr(model, "layer_of"):
        problem = f"layer_decay needs a network that numbers its layers, which {type(model).__name__} does not"
        raise FarposeError(problem, fix="set layer_decay: null")
    return decay ** (model.layers + 1 - model.layer_of(name))
