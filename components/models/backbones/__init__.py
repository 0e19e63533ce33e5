"""Backbones by name, one table per family. The `_tiny` ones and resnet18 are ours to use: two CPU cores train them."""

from __future__ import annotations

from typing import Any

from components.models.backbones.blocks import BasicBlock
from components.models.backbones.efficientvit import EfficientViTShape
from components.models.backbones.hrformer import HRFormerShape
from components.models.backbones.hrnet import HRNetShape
from components.models.backbones.resnet import ResNetShape
from components.models.backbones.tokenpose import TokenPoseShape
from components.models.backbones.transpose import TransPoseShape
from components.models.backbones.vit import ViTShape

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
HRFORMERS: dict[str, HRFormerShape] = {name: HRFormerShape(name) for name in ("hrformer_s", "hrformer_tiny")}
TRANSPOSES: dict[str, TransPoseShape] = {name: TransPoseShape(name) for name in ("transpose_r_a4", "transpose_tiny")}
TOKENPOSES: dict[str, TokenPoseShape] = {
    name: TokenPoseShape(name) for name in ("tokenpose_s", "tokenpose_s_v1", "tokenpose_s_v2", "tokenpose_b", "tokenpose_tiny")
}
VITS: dict[str, ViTShape] = {name: ViTShape(name) for name in ("vit_small", "vit_base", "vit_tiny")}
EFFICIENTVITS: dict[str, EfficientViTShape] = {
    name: EfficientViTShape(name) for name in ("efficientvit_l0", "efficientvit_l1", "efficientvit_tiny")
}
BACKBONES: dict[str, Any] = {**HRNETS, **RESNETS, **HRFORMERS, **TRANSPOSES, **TOKENPOSES, **VITS, **EFFICIENTVITS}
