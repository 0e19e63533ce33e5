"""CAL: heatmaps and offsets from two trunks, so that each task has features of its own.

Wang, Zhang, Zhu, Ge 2022, "Low-resolution human pose estimation" (confidence-aware learning). Stages 1 to 3 of HRNet are
shared; each task has its own transition 3, stage 4 and head. The confidence-aware mask is part of the loss, see the codec.

Ours: on MobileNetFPN each task has its own separable layer on the finest level of the pyramid, and a 1x1 convolution. The heatmaps' is
the one before MoveNet's heatmaps, the offsets' starts from the one before MoveNet's offsets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from components.models.backbones.blocks import published_initialisation
from components.models.backbones.hrnet import HRNETS, HighResolutionEnd, HighResolutionTrunk
from components.models.backbones.mobilenet_fpn import (
    BRANCH,
    MOBILENETS,
    MobileNetFPN,
    build_mobilenet,
    mobilenet_initialisation,
)
from components.models.heads.plain import draw_probabilities
from components.models.heads.residual import ResidualHead
from components.models.naming import renamed
from components.models.variant import EnlargedNetwork, Method, Variant


@dataclass(frozen=True)
class CALNetwork(EnlargedNetwork):
    """Settings of the network.

    Attributes:
        offset_width: channels of the finest branch of the offset trunk, on MobileNetFPN of the offsets' layer; None for the backbone's own.
    """

    offset_width: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.offset_width is not None and self.offset_width < 1:
            raise ValueError(f"offset_width must be positive, got {self.offset_width}")


class CAL(nn.Module):
    """(B, 3, H, W) normalised images → (heatmaps (B, K, H/4, W/4), offsets (B, 2K, H/4, W/4)).

    Offsets are interleaved: x of keypoint 0, y of keypoint 0, x of keypoint 1, …
    """

    IMAGENET_PARTS: ClassVar = {"trunk.": "trunk.", "heatmap_end.": "end."}  # the offset trunk starts from random weights, as published

    def __init__(self, trunk: HighResolutionTrunk, heatmap_end: HighResolutionEnd, offset_end: HighResolutionEnd, keypoints: int) -> None:
        super().__init__()
        self.trunk, self.heatmap_end, self.offset_end = trunk, heatmap_end, offset_end
        self.heatmap_head = ResidualHead(heatmap_end.channels, keypoints)
        self.offset_head = ResidualHead(offset_end.channels, 2 * keypoints)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(images)
        return self.heatmap_head(self.heatmap_end(features)), self.offset_head(self.offset_end(features))


class CALOnPyramid(nn.Module):
    """(B, 3, H, W) normalised images → heatmaps, through a sigmoid as MoveNet's, and offsets as `CAL`."""

    START_PARTS: ClassVar = {
        "backbone.branch.": "heatmap.branch.",
        "backbone.": "backbone.",
        "final_layer.": "heatmap.final.",
        "offset_branch.": "offset.branch.",  # its last layer starts at random: MoveNet's offsets reach one cell, in the order y, x
    }

    def __init__(self, backbone: MobileNetFPN, keypoints: int, offset_width: int | None = None) -> None:
        super().__init__()
        width = offset_width or BRANCH
        self.backbone, self.offset_branch = backbone, backbone.layer(backbone.pyramid_channels, width)
        self.final_layer, self.offset_head = nn.Conv2d(backbone.channels, keypoints, 1), nn.Conv2d(width, 2 * keypoints, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone.pyramid(images)
        return self.final_layer(self.backbone.branch(features)).sigmoid(), self.offset_head(self.offset_branch(features))


def build(variant: Variant, published: bool = False) -> CAL | CALOnPyramid:
    """Both trunks on the variant's backbone, initialised as published (which is also how it behaves: `published` changes nothing)."""
    network = variant.network
    if variant.backbone in MOBILENETS:
        return _on_pyramid(variant)
    shape = HRNETS[variant.backbone]
    model = CAL(
        HighResolutionTrunk(shape),
        HighResolutionEnd(shape, network.branches),
        HighResolutionEnd(shape, network.branches, width=network.offset_width),
        variant.num_keypoints,
    )
    published_initialisation(model)
    return model


def _on_pyramid(variant: Variant) -> CALOnPyramid:
    model = CALOnPyramid(build_mobilenet(variant.backbone), variant.num_keypoints, variant.network.offset_width)
    mobilenet_initialisation(model.offset_branch)
    draw_probabilities(model.final_layer)
    published_initialisation(model.offset_head)
    return model


_AUTHORS = {
    "trunk.": "",
    "heatmap_end.transition.": "transition3.",
    "heatmap_end.stage.": "stage4.",
    "offset_end.transition.": "transition3_om.",
    "offset_end.stage.": "stage4_om.",
    "heatmap_head.0.": "head_hm.final_block1.",
    "heatmap_head.1.": "head_hm.final_block_hm.",
    "heatmap_head.2.": "head_hm.final_layer_hm.",
    "offset_head.0.": "head_om.final_block1.",
    "offset_head.1.": "head_om.final_block_om.",
    "offset_head.2.": "head_om.final_layer_om.",
}


def authors_key(key: str, variant: Variant) -> str:
    """The name of `key` in the released code; on MobileNetFPN `key`."""
    if variant.backbone in MOBILENETS:
        return key
    return renamed(key, _AUTHORS)


METHOD = Method(
    "cal",
    build,
    (*HRNETS, *MOBILENETS),
    "cal",
    authors_key,
    convention="unbiased",
    network=CALNetwork,
    uncounted=("upscale_weights",),
)
