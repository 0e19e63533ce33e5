"""CAL: heatmaps and offsets from two trunks, so that each task has features of its own.

Wang, Zhang, Zhu, Ge 2022, "Low-resolution human pose estimation" (confidence-aware learning). Stages 1 to 3 of HRNet are
shared; each task has its own transition 3, stage 4 and head. The confidence-aware mask is part of the loss, see the codec.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from components.models.backbones.blocks import published_initialisation
from components.models.backbones.hrnet import HRNETS, HighResolutionEnd, HighResolutionTrunk
from components.models.heads.residual import ResidualHead
from components.models.naming import renamed
from components.models.variant import Method, Network, Variant


@dataclass(frozen=True)
class CALNetwork(Network):
    """Settings of the network.

    Attributes:
        offset_width: channels of the finest branch of the offset trunk; None for the backbone's own.
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


def build(variant: Variant, published: bool = False) -> CAL:
    """Both trunks on the variant's HRNet, initialised as published (which is also how it behaves: `published` changes nothing)."""
    shape, network = HRNETS[variant.backbone], variant.network
    model = CAL(
        HighResolutionTrunk(shape),
        HighResolutionEnd(shape, network.branches),
        HighResolutionEnd(shape, network.branches, width=network.offset_width),
        variant.num_keypoints,
    )
    published_initialisation(model)
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
    """The name of `key` in the released code."""
    return renamed(key, _AUTHORS)


METHOD = Method("cal", build, tuple(HRNETS), "cal", authors_key, convention="unbiased", network=CALNetwork)
