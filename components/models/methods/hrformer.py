"""HRFormer with its plain head: one 1x1 convolution on the finest branch.

Yuan, Fu, Huang, Lin, Zhang, Chen, Wang 2021, "HRFormer: High-Resolution Transformer for Dense Prediction", section 4.1.
"""

from __future__ import annotations

from torch import Tensor, nn

from components.models.backbones.hrformer import HRFORMERS, HRFormer, hrformer_initialisation
from components.models.pyramids import PyramidNetwork
from components.models.variant import Method, Variant


class HRFormerPose(nn.Module):
    """(B, 3, H, W) normalised images → ((B, outputs, H/4, W/4),)."""

    def __init__(self, backbone: HRFormer, outputs: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.final_layer = nn.Conv2d(backbone.channels, outputs, 1)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.final_layer(self.backbone(images)),)


def build(variant: Variant, published: bool = False) -> HRFormerPose:
    """K heatmaps on the variant's HRFormer, initialised as published; the released code has no error to keep."""
    backbone = HRFormer(HRFORMERS[variant.backbone], variant.network.relative_positions, multi_scale=False)
    model = HRFormerPose(backbone, variant.num_keypoints)
    hrformer_initialisation(model)
    return model


def authors_key(key: str, variant: Variant) -> str:
    """The name of `key` in the released checkpoints (mmpose): the backbone's names are the same."""
    return key if key.startswith("backbone.") else f"keypoint_head.{key}"


METHOD = Method("hrformer", build, tuple(HRFORMERS), "heatmap", authors_key, network=PyramidNetwork, label="", counting="mmcv")
