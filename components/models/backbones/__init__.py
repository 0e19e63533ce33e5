"""Backbones by name. `hrnet_tiny` is ours: small enough to train on two CPU cores."""

from __future__ import annotations

from components.models.backbones.blocks import BasicBlock
from components.models.backbones.hrnet import HRNetShape
from components.models.backbones.resnet import ResNetShape

HRNETS: dict[str, HRNetShape] = {
    shape.name: shape
    for shape in (
        HRNetShape("hrnet_w32", width=32),
        HRNetShape("hrnet_w48", width=48),
        HRNetShape("hrnet_tiny", width=16, modules=(1, 1, 1), blocks=2, layer1_width=16, layer1_blocks=1, stem_width=32),
    )
}
RESNETS: dict[str, ResNetShape] = {
    shape.name: shape
    for shape in (
        ResNetShape("resnet18", (2, 2, 2, 2), BasicBlock),
        ResNetShape("resnet50", (3, 4, 6, 3)),
        ResNetShape("resnet101", (3, 4, 23, 3)),
        ResNetShape("resnet152", (3, 8, 36, 3)),
    )
}
