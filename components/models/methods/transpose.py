"""TransPose with its plain head: one deconvolution, a 1x1 convolution.

Yang, Quan, Nie, Yang 2021, "TransPose: Keypoint Localization via Transformer", section 3.2.

Where 8 does not divide the input the deconvolution outputs more cells than input / 4; the surplus lies to the right of and
below the image, as in SimpleBaseline, and this implementation cuts it off.
"""

from __future__ import annotations

from components.models.backbones.transpose import TRANSPOSES, TransPose, feature_size, transpose_initialisation
from components.models.heads.deconvolution import DeconvolutionHead
from components.models.heads.plain import PlainPose
from components.models.naming import renamed
from components.models.variant import Method, Variant


def build(variant: Variant, published: bool = False) -> PlainPose:
    """K heatmaps on the variant's TransPose, initialised as published."""
    backbone = TransPose(TRANSPOSES[variant.backbone], feature_size(variant.input_size))
    head = DeconvolutionHead(backbone.channels, backbone.channels, layers=1)
    model = PlainPose(backbone, variant.num_keypoints, head, published)
    transpose_initialisation(model)
    return model


def authors_key(key: str, variant: Variant) -> str:
    """The name of `key` in the released code of TransPose."""
    return renamed(key, {"backbone.": "", "head.": "deconv_layers."})


METHOD = Method("transpose", build, tuple(TRANSPOSES), "heatmap", authors_key, label="", sized=True)
