"""TransPose with its plain head: one deconvolution, a 1x1 convolution.

Yang, Quan, Nie, Yang 2021, "TransPose: Keypoint Localization via Transformer", section 3.2.

Where 8 does not divide the input the deconvolution outputs more cells than input / 4; the surplus lies to the right of and
below the image, as in SimpleBaseline, and this implementation cuts it off.
"""

from __future__ import annotations

from torch import Tensor, nn

from components.models.backbones.transpose import TRANSPOSES, TransPose, feature_size, transpose_initialisation
from components.models.heads.deconvolution import DeconvolutionHead
from components.models.naming import renamed
from components.models.variant import STRIDE, Method, Variant


class TransPosePose(nn.Module):
    """(B, 3, H, W) normalised images → ((B, outputs, H/4, W/4),).

    Args:
        published: keep the surplus cells, (B, outputs, 2 ⌈H/8⌉, 2 ⌈W/8⌉).
    """

    def __init__(self, backbone: TransPose, outputs: int, published: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = DeconvolutionHead(backbone.channels, backbone.channels, layers=1)
        self.final_layer = nn.Conv2d(self.head.channels, outputs, 1)
        self.published = published

    def forward(self, images: Tensor) -> tuple[Tensor]:
        features = self.head(self.backbone(images))
        if not self.published:
            features = features[..., : images.shape[-2] // STRIDE, : images.shape[-1] // STRIDE]
        return (self.final_layer(features),)


def build(variant: Variant, published: bool = False) -> TransPosePose:
    """K heatmaps on the variant's TransPose, initialised as published."""
    backbone = TransPose(TRANSPOSES[variant.backbone], feature_size(variant.input_size))
    model = TransPosePose(backbone, variant.num_keypoints, published)
    transpose_initialisation(model)
    return model


def authors_key(key: str, variant: Variant) -> str:
    """The name of `key` in the released code of TransPose."""
    return renamed(key, {"backbone.": "", "head.": "deconv_layers."})


METHOD = Method("transpose", build, tuple(TRANSPOSES), "heatmap", authors_key, label="", sized=True)
