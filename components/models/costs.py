"""What a network costs: parameters and multiply-adds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from components.models import zoo
from components.models.variant import Variant

HEADS = ("head.", "final_layer.", "heatmap_head.", "offset_head.")


@dataclass(frozen=True)
class Costs:
    """Attributes:
    params_backbone, params_head: trainable numbers, split where the method's head begins.
    macs: multiply-adds of one image's forward pass, convolutions and deconvolutions (at their input, as executed).
    """

    params_backbone: int
    params_head: int
    macs: int

    @property
    def params(self) -> int:
        return self.params_backbone + self.params_head


def count(model: nn.Module, input_size: tuple[int, int]) -> Costs:
    """Count by running the network on shapes alone (no numbers are computed, on whatever device it lies).

    Args:
        input_size: (height, width), px.
    """
    head = sum(value.numel() for name, value in model.named_parameters() if name.startswith(HEADS))
    shapes = {name: torch.empty_like(value, device="meta") for name, value in model.state_dict().items()}
    images = torch.empty(1, 3, *input_size, device="meta")
    training = model.training
    model.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        functional_call(model, shapes, (images,))
    model.train(training)
    params = sum(value.numel() for value in model.parameters())
    return Costs(params - head, head, counter.get_total_flops() // 2)


def of_variant(variant: Variant) -> Costs:
    """Costs of a variant's network at its input size."""
    with torch.device("meta"):
        model = zoo.network(variant)
    return count(model, variant.input_size)
