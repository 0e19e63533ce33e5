"""Shell of sr_head_bottomup; its owner replaces this file."""

from __future__ import annotations

from torch import nn

from components.models.variant import Variant


def build(variant: Variant, published: bool = False) -> nn.Module:
    raise NotImplementedError(variant.name)


def authors_key(key: str, variant: Variant) -> str:
    raise NotImplementedError(key)
