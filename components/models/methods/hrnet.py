"""HRNet with its plain head: one 1x1 convolution on the finest branch.

Sun, Xiao, Liu, Wang 2019, "Deep High-Resolution Representation Learning for Human Pose Estimation".
DARK (`dark`) uses the same network.
"""

from __future__ import annotations

from torch import Tensor, nn

from components.models.backbones.blocks import published_initialisation
from components.models.backbones.hrnet import HRNETS, HighResolutionEnd, HighResolutionTrunk, HRNet, published_key
from components.models.variant import EnlargedNetwork, Method, Variant


class HRNetPose(nn.Module):
    """(B, 3, H, W) normalised images → ((B, outputs, H/4, W/4),)."""

    def __init__(self, backbone: HRNet, outputs: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.final_layer = nn.Conv2d(backbone.channels, outputs, 1)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.final_layer(self.backbone(images)),)


def build(variant: Variant, published: bool = False) -> HRNetPose:
    """K heatmaps on the variant's HRNet, initialised as published (which is also how it behaves: `published` changes nothing)."""
    shape = HRNETS[variant.backbone]
    backbone = HRNet(HighResolutionTrunk(shape), HighResolutionEnd(shape, variant.network.branches))
    model = HRNetPose(backbone, variant.num_keypoints)
    published_initialisation(model)
    return model


def authors_key(key: str, variant: Variant) -> str:
    """The name of `key` in the released code."""
    return published_key(key.removeprefix("backbone."))


METHOD = Method("hrnet", build, tuple(HRNETS), "heatmap", authors_key, network=EnlargedNetwork, label="", uncounted=("upscale_weights",))
