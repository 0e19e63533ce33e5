"""CAL's head: two residual blocks before the 1x1 convolution."""

from __future__ import annotations

from torch import nn

from components.models.backbones.blocks import BasicBlock


class ResidualHead(nn.Sequential):
    """(B, channels, h, w) → (B, outputs, h, w)."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__(BasicBlock(channels, channels), BasicBlock(channels, channels), nn.Conv2d(channels, outputs, 1))
