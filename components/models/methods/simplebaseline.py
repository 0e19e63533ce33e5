"""SimpleBaseline: a ResNet (or, as SIU's baseline, an EfficientViT), three deconvolutions, a 1x1 convolution.

Xiao, Wu, Wei 2018, "Simple Baselines for Human Pose Estimation and Tracking", section 2.

Where 32 does not divide the input the published network outputs more cells than input / 4: 16x16 at 64x48, because the
width goes 48 → 24 → 12 → 6 → 3 → 2 → 4 → 8 → 16. Its own targets are 16x12, so it could not be trained there. Cell j
stands for input px 4 j in either case (every stride-2 layer starts at the first px), so the surplus columns lie to the
right of the image and this implementation cuts them off.

Ours: on MobileNetFPN, whose pyramid reaches input / 4 without deconvolutions, the 1x1 convolution alone.
"""

from __future__ import annotations

from components.models.backbones.blocks import published_initialisation
from components.models.backbones.efficientvit import EFFICIENTVITS, EfficientViT, authors_name
from components.models.backbones.mobilenet_fpn import MOBILENETS, build_mobilenet
from components.models.backbones.resnet import RESNETS, ResNet
from components.models.heads.deconvolution import DeconvolutionHead
from components.models.heads.plain import PlainPose, draw_probabilities
from components.models.naming import renamed
from components.models.variant import EnlargedNetwork, Method, Variant


def build(variant: Variant, published: bool = False, outputs_per_keypoint: int = 1) -> PlainPose:
    """K (or 3K) heatmaps on the variant's backbone, initialised as published."""
    name, outputs = variant.backbone, outputs_per_keypoint * variant.num_keypoints
    if name in MOBILENETS:
        model = PlainPose(build_mobilenet(name), outputs, sigmoid_every=outputs_per_keypoint)
        draw_probabilities(model.final_layer, outputs_per_keypoint)
        return model
    backbone = EfficientViT(EFFICIENTVITS[name]) if name in EFFICIENTVITS else ResNet(RESNETS[name])
    model = PlainPose(backbone, outputs, DeconvolutionHead(backbone.channels), published)
    for part in (model.head, model.final_layer) if name in EFFICIENTVITS else (model,):  # EfficientViT keeps its own, see there
        published_initialisation(part)
    return model


def authors_key(key: str, variant: Variant) -> str:
    """The name of `key` in the released code; on EfficientViT in SIU's repository, whose baseline it is; on MobileNetFPN `key`."""
    if variant.backbone in MOBILENETS:
        return key
    if variant.backbone not in EFFICIENTVITS:
        return renamed(key, {"backbone.": "", "head.": "deconv_layers."})
    part, rest = key.split(".", 1)
    return f"backbone.{authors_name(rest)}" if part == "backbone" else renamed(key, {"head.": "head.deconv_layers.", "final": "head.final"})


METHOD = Method(
    "simple",
    build,
    (*RESNETS, *EFFICIENTVITS, *MOBILENETS),
    "heatmap",
    authors_key,
    network=EnlargedNetwork,
    uncounted=("upscale_weights",),
)
