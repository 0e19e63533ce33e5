"""HRNet with its plain head: one 1x1 convolution on the finest branch.

Sun, Xiao, Liu, Wang 2019, "Deep High-Resolution Representation Learning for Human Pose Estimation".
DARK (`dark`) uses the same network.
"""

from __future__ import annotations

from components.models.backbones.blocks import published_initialisation
from components.models.backbones.hrnet import HRNETS, build_hrnet, published_key
from components.models.heads.plain import PlainPose
from components.models.variant import EnlargedNetwork, Method, Variant


def build(variant: Variant, published: bool = False) -> PlainPose:
    """K heatmaps on the variant's HRNet, initialised as published (which is also how it behaves: `published` changes nothing)."""
    model = PlainPose(build_hrnet(variant.backbone, variant.network.branches), variant.num_keypoints)
    published_initialisation(model)
    return model


def authors_key(key: str, variant: Variant) -> str:
    """The name of `key` in the released code."""
    return published_key(key.removeprefix("backbone."))


METHOD = Method("hrnet", build, tuple(HRNETS), "heatmap", authors_key, network=EnlargedNetwork, label="", uncounted=("upscale_weights",))
