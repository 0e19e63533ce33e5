"""HigherHRNet: all persons of an image from heatmaps at two resolutions and one tag per joint, which groups joints into persons.

Cheng, Xiao, Wang, Shi, Huang, Zhang 2020, "HigherHRNet: Scale-Aware Representation Learning for Bottom-Up Human Pose
Estimation". Its HRNet is the top-down one; only the finest branch is used. Ours: MobileNetFPN's finest level, 24 channels, in its place.
"""

from __future__ import annotations

from torch import Tensor, nn

from components.models.backbones.blocks import published_initialisation
from components.models.backbones.hrnet import HRNETS, HRNet, build_hrnet, published_key
from components.models.backbones.mobilenet_fpn import MOBILENETS, MobileNetFPN, build_mobilenet
from components.models.heads.higher_resolution import HigherResolutionHead, authors_head_key
from components.models.variant import Method, Variant


class HigherHRNet(nn.Module):
    """(B, 3, H, W) normalised images → (B, 2K, H/4, W/4), heatmaps then tags, and heatmaps (B, K, H/2, W/2)."""

    def __init__(self, backbone: HRNet | MobileNetFPN, keypoints: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = HigherResolutionHead(backbone.channels, keypoints)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(self.backbone(images))


def build(variant: Variant, published: bool = False) -> HigherHRNet:
    """HigherHRNet on the variant's backbone, initialised as published (which is also how it behaves: `published` changes nothing)."""
    if variant.backbone in MOBILENETS:
        model = HigherHRNet(build_mobilenet(variant.backbone, branch=False), variant.num_keypoints)
        published_initialisation(model.head)
        return model
    backbone = build_hrnet(variant.backbone, variant.network.branches)
    model = HigherHRNet(backbone, variant.num_keypoints)
    published_initialisation(model)
    return model


def authors_key(key: str, variant: Variant) -> str:
    """The name of `key` in the released code (HRNet/HigherHRNet-Human-Pose-Estimation).

    Nobody released it on MobileNetFPN: the head, which is the paper's, has the authors' names there too, the backbone keeps ours.
    """
    if key.startswith("head."):
        return authors_head_key(key.removeprefix("head."))
    return key if variant.backbone in MOBILENETS else published_key(key.removeprefix("backbone."))


METHOD = Method(
    "higherhrnet",
    build,
    (*HRNETS, *MOBILENETS),
    codec="associative_embedding",
    authors_key=authors_key,
    approach="images",
    drops="hrnet_",
    counting="summary_decimal",
)
