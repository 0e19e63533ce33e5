"""HRNet with its plain head: one 1x1 convolution on the finest branch.

Sun, Xiao, Liu, Wang 2019, "Deep High-Resolution Representation Learning for Human Pose Estimation".
DARK (Zhang et al. 2020) trains the same network with other targets and decodes it differently, so it is built here too.
"""

from __future__ import annotations

from torch import Tensor, nn

from components.models.backbones import HRNETS
from components.models.backbones.blocks import published_initialisation
from components.models.backbones.hrnet import HighResolutionEnd, HighResolutionTrunk, HRNet
from components.models.variant import Variant


class HRNetPose(nn.Module):
    """(B, 3, H, W) normalised images → ((B, outputs, H/4, W/4),)."""

    def __init__(self, backbone: HRNet, outputs: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.final_layer = nn.Conv2d(backbone.channels, outputs, 1)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.final_layer(self.backbone(images)),)


def build(variant: Variant) -> HRNetPose:
    """K heatmaps on the variant's HRNet, initialised as published."""
    shape = HRNETS[variant.backbone]
    backbone = HRNet(HighResolutionTrunk(shape), HighResolutionEnd(shape, variant.network.branches))
    model = HRNetPose(backbone, variant.num_keypoints)
    published_initialisation(model)
    return model
