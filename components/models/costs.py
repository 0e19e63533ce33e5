"""What a network costs: parameters and multiply-adds, by our convention and by the papers' tools."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from components.models import counting, zoo
from components.models.paper import Counting
from components.models.tracing import trace
from components.models.variant import Variant

HEADS = ("head.", "final_layer.", "heatmap_head.", "offset_head.")


@dataclass(frozen=True)
class Costs:
    """Parameters are numbers that a checkpoint stores, fixed tables included, batch norms' running statistics not.

    Attributes:
        params_backbone, params_head: what inference needs, split where the method's head begins.
        params_train_only: supervised stages and the like that inference leaves out.
        params_fixed: how many of all these are never trained: sine positions, unused tables, a frozen generator.
        macs: multiply-adds of one image's forward pass in eval mode as executed (torch.utils.flop_counter, halved):
            convolutions, deconvolutions at their input, linear layers and the products of attention. SHaRPose refines every
            image and computes its coarse heatmaps too, as published.
        tools: multiply-adds as each of the papers' tools counts them, see `counting`.
        params_summary: parameters as the tool "summary" counts them.
    """

    params_backbone: int
    params_head: int
    params_train_only: int
    params_fixed: int
    macs: int
    tools: dict[str, int]
    params_summary: int

    @property
    def params(self) -> int:
        """All of them, train-only ones included."""
        return self.params_backbone + self.params_head + self.params_train_only

    def gflops(self, tool: str) -> float:
        """Multiply-adds as `tool` prints them."""
        return self.tools[tool.removesuffix("_decimal")] / counting.GIGA[tool]


def tool_of(variant: Variant) -> Counting:
    """The tool that counted the variant's row, or else that of its method's paper."""
    if variant.paper.gflops is not None:
        return variant.paper.counting
    return variant.record.counting


def count(model: nn.Module, input_size: tuple[int, int], synchronised: bool = False) -> Costs:
    """Count by running the network on shapes alone (no numbers are computed, whatever the model's device).

    Args:
        input_size: (height, width), px.
        synchronised: the authors' backbone has SyncBatchNorm, which one tool does not count.
    """
    calls, macs = trace(model, input_size)
    train_only = tuple(getattr(model, "TRAIN_ONLY", ()))
    sizes = {name: value.numel() for name, value in model.named_parameters()}
    unused = sum(size for name, size in sizes.items() if name.startswith(train_only)) if train_only else 0
    heads = getattr(model, "HEAD_PARTS", HEADS)
    head = sum(size for name, size in sizes.items() if name.startswith(heads) and not name.startswith(train_only or "\0"))
    return Costs(
        params_backbone=sum(sizes.values()) - head - unused,
        params_head=head,
        params_train_only=unused,
        params_fixed=sum(value.numel() for value in model.parameters() if not value.requires_grad),
        macs=macs,
        tools={
            "summary": counting.summary(calls),
            "mmcv": counting.mmcv(calls, synchronised),
            "fvcore": counting.fvcore(calls),
        },
        params_summary=counting.summary_parameters(calls),
    )


def of_variant(variant: Variant) -> Costs:
    """Costs of a variant's network at its input size; a network that may stop early is counted to its end."""
    with torch.device("meta"):
        model = zoo.network(variant)
    return count(model, variant.input_size, synchronised=variant.backbone.startswith("hrformer_"))
