"""The generic super-resolution head for all persons of an image: heatmaps and tags as large as the input.

Wang, Liu, Tang, Wu 2023, "Lightweight Super-Resolution Head for Human Pose Estimation" (SRPose), section 3.2; details from the
released code (haonanwang0522/SRPose, `bottom_up_simple_sr_head.py`). The heatmaps are those of `sr_head`; one
tag per joint and feature cell comes from the same features by a 1x1 convolution, and is repeated over the cell's pixels.
Ours: on MobileNetFPN, on the 96 channels before MoveNet's heatmaps.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from components.models.backbones.hrnet import HRNETS
from components.models.backbones.mobilenet_fpn import MOBILENETS
from components.models.backbones.resnet import RESNETS
from components.models.methods.sr_head import AUTHORS, SRHeadPose
from components.models.pyramids import authors_keys, build_backbone, plain_deconvolutions
from components.models.variant import Method, Variant


class SRHeadBottomUp(SRHeadPose):
    """(B, 3, H, W) normalised images → ((B, 2K, H, W),), heatmaps then tags; H and W are multiples of 32."""

    def forward(self, images: Tensor) -> tuple[Tensor]:
        features = self.features(images)
        heatmaps = self.head["heatmaps"](features)
        tags = functional.interpolate(self.head["tags"](features), size=heatmaps.shape[-2:], mode="nearest")
        return (torch.cat([heatmaps, tags], 1),)


def build(variant: Variant, published: bool = False) -> SRHeadBottomUp:
    """The head on the variant's backbone, initialised as published (which is also how it behaves: `published` changes nothing)."""
    backbone = build_backbone(variant, multi_scale=False)
    deconvolutions = plain_deconvolutions(variant, backbone.channels)  # type: ignore[arg-type]
    return SRHeadBottomUp(backbone, variant.num_keypoints, deconvolutions, published=True, tags=True)  # there are no surplus cells


METHOD = Method(
    "sr_head_bottomup",
    build,
    (*HRNETS, *RESNETS, *MOBILENETS),
    codec="associative_embedding",
    authors_key=authors_keys({**AUTHORS, "head.tags.": "keypoint_head.tag_head."}),
    stride=1,
    approach="images",
    counting="mmcv",
)
