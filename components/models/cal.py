"""CAL: heatmaps and offsets from two trunks, so that each task has features of its own.

Wang, Zhang, Zhu, Ge 2022, "Low-resolution human pose estimation" (confidence-aware learning). Stages 1 to 3 of HRNet are
shared; each task has its own transition 3, stage 4 and head. The confidence-aware mask is part of the loss, see the codec.
"""

from __future__ import annotations

from torch import Tensor, nn

from components.models.backbones import HRNETS
from components.models.backbones.blocks import published_initialisation
from components.models.backbones.hrnet import HighResolutionEnd, HighResolutionTrunk
from components.models.heads.residual import ResidualHead
from components.models.variant import Variant


class CAL(nn.Module):
    """(B, 3, H, W) normalised images → (heatmaps (B, K, H/4, W/4), offsets (B, 2K, H/4, W/4)).

    Offsets are interleaved: x of keypoint 0, y of keypoint 0, x of keypoint 1, …
    """

    def __init__(self, trunk: HighResolutionTrunk, heatmap_end: HighResolutionEnd, offset_end: HighResolutionEnd, keypoints: int) -> None:
        super().__init__()
        self.trunk, self.heatmap_end, self.offset_end = trunk, heatmap_end, offset_end
        self.heatmap_head = ResidualHead(heatmap_end.channels, keypoints)
        self.offset_head = ResidualHead(offset_end.channels, 2 * keypoints)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(images)
        return self.heatmap_head(self.heatmap_end(features)), self.offset_head(self.offset_end(features))


def build(variant: Variant) -> CAL:
    """Both trunks on the variant's HRNet, initialised as published (`network.offset_width` widens the offset trunk)."""
    shape, network = HRNETS[variant.backbone], variant.network
    model = CAL(
        HighResolutionTrunk(shape),
        HighResolutionEnd(shape, network.branches),
        HighResolutionEnd(shape, network.branches, width=network.offset_width),
        variant.num_keypoints,
    )
    published_initialisation(model)
    return model
