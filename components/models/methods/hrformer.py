"""HRFormer with its plain head: one 1x1 convolution on the finest branch.

Yuan, Fu, Huang, Lin, Zhang, Chen, Wang 2021, "HRFormer: High-Resolution Transformer for Dense Prediction", section 4.1.
"""

from __future__ import annotations

from components.models.backbones.hrformer import HRFORMERS, HRFormer, hrformer_initialisation
from components.models.heads.plain import PlainPose
from components.models.pyramids import PyramidNetwork
from components.models.variant import Method, Variant


def build(variant: Variant, published: bool = False) -> PlainPose:
    """K heatmaps on the variant's HRFormer, initialised as published; the released code has no error to keep."""
    backbone = HRFormer(HRFORMERS[variant.backbone], variant.network.relative_positions, multi_scale=False)
    model = PlainPose(backbone, variant.num_keypoints)
    hrformer_initialisation(model)
    return model


def authors_key(key: str, variant: Variant) -> str:
    """The name of `key` in the released checkpoints (mmpose): the backbone's names are the same."""
    return key if key.startswith("backbone.") else f"keypoint_head.{key}"


METHOD = Method("hrformer", build, tuple(HRFORMERS), "heatmap", authors_key, network=PyramidNetwork, label="", counting="mmcv")
