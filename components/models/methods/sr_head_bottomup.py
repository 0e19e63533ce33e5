"""The generic super-resolution head for all persons of an image: heatmaps and tags as large as the input.

Wang, Liu, Tang, Wu 2023, "Lightweight Super-Resolution Head for Human Pose Estimation" (SRPose), section 3.2; details from the
released code (haonanwang0522/SRPose, `bottom_up_simple_sr_head.py`). The heatmaps are those of `sr_head`; one
tag per joint and feature cell comes from the same features by a 1x1 convolution, and is repeated over the cell's pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.models.backbones.blocks import published_initialisation
from components.models.backbones.hrnet import HRNETS
from components.models.backbones.resnet import RESNETS
from components.models.heads.deconvolution import DeconvolutionHead
from components.models.heads.super_resolution import SuperResolutionHead
from components.models.naming import renamed
from components.models.pyramids import backbone_key, build_backbone
from components.models.variant import Method, Variant


class SRHeadBottomUp(nn.Module):
    """(B, 3, H, W) normalised images → ((B, 2K, H, W),), heatmaps then tags; H and W are multiples of 32.

    Args:
        deconvolutions: between the backbone and the head, if its features are coarser than H/4 x W/4.
    """

    def __init__(self, backbone: nn.Module, keypoints: int, deconvolutions: DeconvolutionHead | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        channels: int = (deconvolutions or backbone).channels  # type: ignore[assignment]
        self.head = nn.ModuleDict(
            {
                "deconvolutions": deconvolutions or nn.Identity(),
                "heatmaps": SuperResolutionHead(channels, keypoints),
                "tags": nn.Conv2d(channels, keypoints, 1),
            }
        )
        published_initialisation(self.head)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        features = self.head["deconvolutions"](self.backbone(images))
        heatmaps = self.head["heatmaps"](features)
        tags = functional.interpolate(self.head["tags"](features), size=heatmaps.shape[-2:], mode="nearest")
        return (torch.cat([heatmaps, tags], 1),)


def build(variant: Variant, published: bool = False) -> SRHeadBottomUp:
    """The head on the variant's backbone, initialised as published (which is also how it behaves: `published` changes nothing)."""
    backbone = build_backbone(variant, multi_scale=False)
    deconvolutions = DeconvolutionHead(backbone.channels) if variant.backbone in RESNETS else None  # type: ignore[arg-type]
    return SRHeadBottomUp(backbone, variant.num_keypoints, deconvolutions)


_AUTHORS = {
    "head.deconvolutions.": "keypoint_head.deconv_layers.",
    "head.heatmaps.encoder.": "keypoint_head.kp_encoder.0.",
    "head.heatmaps.converge.": "keypoint_head.heatmap_head.",
    "head.tags.": "keypoint_head.tag_head.",
}


def authors_key(key: str, variant: Variant) -> str:
    """The name of `key` in the released code."""
    return backbone_key(key, variant) if key.startswith("backbone.") else renamed(key, _AUTHORS)


METHOD = Method(
    "sr_head_bottomup",
    build,
    (*HRNETS, *RESNETS),
    codec="associative_embedding",
    authors_key=authors_key,
    stride=1,
    approach="images",
    counting="mmcv",
)
