"""CenterNet's pose branches: all persons of an image as centres, regressed joints, and heatmaps with offsets.

Zhou, Wang, Krähenbühl 2019, "Objects as Points". On `mobilenet_fpn` it is the network of Google's MoveNet, whose branches (a depthwise
separable convolution, ReLU, a 1x1 convolution) it has on every backbone; the paper's are a 3x3 convolution of 256 channels.
`init: movenet_lightning` therefore fills all of it. MoveNet itself takes the one person whose centre is nearest to the image's middle.
"""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor, nn

from components.models.backbones.blocks import published_initialisation
from components.models.backbones.hrnet import HRNETS, HRNet, build_hrnet
from components.models.backbones.mobilenet_fpn import BRANCH, MOBILENETS, MobileNetFPN, Separable, build_mobilenet, mobilenet_initialisation
from components.models.variant import STRIDE, Method, Variant

MIDDLE = (STRIDE - 1) / 2 / STRIDE  # cells from a cell's first px, where MoveNet counts from, to the middle of its px, where the codec does
PRIOR = 0.1  # probability that a cell is a peak, before training (paper's released code)


class Branch(nn.Module):
    """(B, inputs, h, w) → (B, outputs, h, w)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.branch = Separable(inputs, BRANCH)
        self.final = nn.Conv2d(BRANCH, outputs, 1)

    def draw(self, bias: float = 0.0) -> None:
        """Fresh weights that put out about `bias` everywhere."""
        mobilenet_initialisation(self.branch)
        nn.init.normal_(self.final.weight, std=0.001)
        if self.final.bias is not None:
            nn.init.constant_(self.final.bias, bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.final(self.branch(features))


class CenterNet(nn.Module):
    """(B, 3, H, W) normalised images → four maps at (H/4, W/4): see `codecs.centernet.CenterNetCodec`."""

    HEAD_PARTS = ("center.", "heatmap.", "regress.", "offset.")
    START_PARTS: ClassVar[dict[str, str]] = {part: part for part in ("backbone.", *HEAD_PARTS)}

    def __init__(self, backbone: HRNet | MobileNetFPN, keypoints: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.center, self.heatmap = Branch(backbone.channels, 1), Branch(backbone.channels, keypoints)
        self.regress, self.offset = (Branch(backbone.channels, 2 * keypoints) for _ in range(2))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        features = self.backbone(images)
        return self.center(features), self.heatmap(features), self.regress(features) - MIDDLE, self.offset(features) - MIDDLE


def build(variant: Variant, published: bool = False) -> CenterNet:
    """CenterNet on the variant's backbone; `published` changes nothing."""
    if variant.backbone in MOBILENETS:
        model = CenterNet(build_mobilenet(variant.backbone, branch=False), variant.num_keypoints)
    else:
        model = CenterNet(build_hrnet(variant.backbone, variant.network.branches), variant.num_keypoints)
        published_initialisation(model.backbone)
    for part in (model.regress, model.offset):
        part.draw()
    for part in (model.center, model.heatmap):
        part.draw(math.log(PRIOR / (1 - PRIOR)))
    return model


def authors_key(key: str, variant: Variant) -> str:
    """Ours: no released code has these branches on these backbones."""
    return key


METHOD = Method(
    "centernet",
    build,
    (*MOBILENETS, *HRNETS),
    codec="centernet",
    authors_key=authors_key,
    approach="images",
    drops="hrnet_",
)
