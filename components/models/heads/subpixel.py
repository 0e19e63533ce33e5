"""Maps finer than the features: ours, from a sub-pixel convolution (Shi et al. 2016, "Real-Time Single Image and Video Super-Resolution
Using an Efficient Sub-Pixel Convolutional Neural Network", section 3.1).

A small network that enlarges its input little has maps whose cells are as large as the errors that OKS forgives. The plain layer's maps
are enlarged bilinearly, and a second 1x1 convolution adds what lies between the cells. It starts from zeros, so the maps of pretrained
weights are kept.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from components.models.heads.plain import PlainPose
from components.models.resizing import bilinear


class SubpixelPose(PlainPose):
    """(B, 3, H, W) normalised images → ((B, K, finer H/4, finer W/4),).

    Args:
        finer: cells of a map per cell of the features, along each axis; at least 2.
    """

    def __init__(self, backbone: nn.Module, keypoints: int, finer: int) -> None:
        super().__init__(backbone, keypoints)
        self.finer = finer
        self.between = nn.Conv2d(backbone.channels, keypoints * finer**2, 1)  # type: ignore[arg-type]
        nn.init.zeros_(self.between.weight)
        nn.init.zeros_(self.between.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> tuple[Tensor]:
        features = self.backbone(images)
        between = functional.pixel_shuffle(self.between(features), self.finer)
        coarse = bilinear(self.final_layer(features), between.shape[-2:], align_corners=True)
        return (coarse + between,)  # corner cells lie on corner cells, as in the codec's convention
