"""DARK: distribution-aware coordinates. The networks are HRNet's and SimpleBaseline's (ours: on MobileNetFPN too).

Zhang, Zhu, Dai, Ye, Zhu 2020, "Distribution-Aware Coordinate Representation for Human Pose Estimation". What is new lies in
the codec: targets centred at the exact position instead of the nearest cell, and decoding by a Taylor expansion.
"""

from __future__ import annotations

from components.models.backbones.hrnet import HRNETS
from components.models.backbones.mobilenet_fpn import MOBILENETS
from components.models.backbones.resnet import RESNETS
from components.models.heads.plain import PlainPose
from components.models.methods import hrnet, simplebaseline
from components.models.variant import EnlargedNetwork, Method, Variant


def build(variant: Variant, published: bool = False) -> PlainPose:
    """K heatmaps on the variant's backbone, initialised as published."""
    network = hrnet if variant.backbone in HRNETS else simplebaseline
    return network.build(variant, published)


def authors_key(key: str, variant: Variant) -> str:
    """The name of `key` in the released code, which is HRNet's."""
    network = hrnet if variant.backbone in HRNETS else simplebaseline
    return network.authors_key(key, variant)


METHOD = Method(
    "dark",
    build,
    (*HRNETS, *RESNETS, *MOBILENETS),
    "dark",
    authors_key,
    convention="dark",
    network=EnlargedNetwork,
    uncounted=("upscale_weights",),
)
