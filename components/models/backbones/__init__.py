"""Backbones by name, one table per family. The `_tiny` ones and resnet18 are ours to use: two CPU cores train them."""

from __future__ import annotations

from components.models.backbones.blocks import BasicBlock
from components.models.backbones.efficientvit import EfficientViTShape
from components.models.backbones.hrformer import HRFormerShape
from components.models.backbones.hrnet import HRNetShape
from components.models.backbones.litepose import LitePoseShape
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
HRFORMERS: dict[str, HRFormerShape] = {
    shape.name: shape
    for shape in (
        HRFormerShape("hrformer_s"),
        HRFormerShape(
            "hrformer_tiny", width=16, modules=(1, 1, 1), blocks=1, drop_path=0.0, layer1_width=16, layer1_blocks=1, stem_width=32
        ),
    )
}
TRANSPOSES: dict[str, TransPoseShape] = {
    shape.name: shape
    for shape in (
        TransPoseShape("transpose_r_a4"),
        TransPoseShape("transpose_tiny", stem_width=32, blocks=(1, 1), width=64, feedforward=128, layers=2, heads=4, dropout=0.0),
    )
}
TOKENPOSES: dict[str, TokenPoseShape] = {
    shape.name: shape
    for shape in (
        TokenPoseShape("tokenpose_s"),  # S-v1 as SimCC's table names it
        TokenPoseShape("tokenpose_s_v1"),
        TokenPoseShape("tokenpose_s_v2", grid=32),
        TokenPoseShape("tokenpose_b", trunk=HRNETS["hrnet_w32"], scale_by_head=True),
        TokenPoseShape("tokenpose_tiny", stem_width=32, layer1_width=16, layer1_blocks=1, dim=96, depth=4, heads=4, scale_by_head=True),
    )
}
VITS: dict[str, ViTShape] = {
    shape.name: shape
    for shape in (
        ViTShape("vit_small", width=384),
        ViTShape("vit_base", width=768),
        ViTShape("vit_tiny", width=64, heads=2, depth=3, drop_path=0.0),
    )
}
EFFICIENTVITS: dict[str, EfficientViTShape] = {
    shape.name: shape
    for shape in (
        EfficientViTShape("efficientvit_l0", depths=(1, 1, 1, 4, 4)),
        EfficientViTShape("efficientvit_l1", depths=(1, 1, 1, 6, 6)),
        EfficientViTShape("efficientvit_tiny", widths=(8, 16, 32, 64, 128), depths=(1, 1, 1, 1, 1), head_dim=16),
    )
}
LITEPOSES: dict[str, LitePoseShape] = {
    shape.name: shape
    for shape in (
        LitePoseShape("litepose_xs"),
        LitePoseShape("litepose_s", channels=(16, 32, 48, 120), filters=(32, 24, 32)),
        LitePoseShape("litepose_m", channels=(24, 48, 72, 120), filters=(64, 40, 32)),
        LitePoseShape("litepose_l", width=24, channels=(24, 64, 96, 160), filters=(64, 40, 32)),
        LitePoseShape("litepose_tiny", channels=(16, 24, 32, 48), filters=(16, 16, 16), blocks=(1, 2, 2, 2), stem_width=16, expansion=4),
    )
}
