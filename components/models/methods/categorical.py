"""Maps of logits whose softmax says where a joint may be, decoded at the highest expected OKS: ours.

The networks are the plain ones. What is new lies in the codec: cross-entropy in training, and a decision that maximises the measure by
which poses are judged. The codec's docstring gives the equations.
"""

from __future__ import annotations

from components.models.backbones.efficientnet_lite import EFFICIENTNETS, build_efficientnet
from components.models.backbones.hrnet import HRNETS
from components.models.backbones.mobilenet_fpn import MOBILENETS, build_mobilenet
from components.models.backbones.resnet import RESNETS
from components.models.heads.plain import PlainPose
from components.models.methods import dark
from components.models.variant import EnlargedNetwork, Method, Variant


def build(variant: Variant, published: bool = False) -> PlainPose:
    """K maps on the variant's backbone; those with batch norms are initialised as their papers do."""
    if variant.backbone in MOBILENETS:
        return PlainPose(build_mobilenet(variant.backbone), variant.num_keypoints)
    if variant.backbone in EFFICIENTNETS:
        return PlainPose(build_efficientnet(variant.backbone), variant.num_keypoints)
    return dark.build(variant, published)


def authors_key(key: str, variant: Variant) -> str:
    """Nobody published such weights: our own key."""
    return key


METHOD = Method(
    "categorical",
    build,
    (*MOBILENETS, *EFFICIENTNETS, *HRNETS, *RESNETS),
    codec="categorical",
    authors_key=authors_key,
    convention="unbiased",
    network=EnlargedNetwork,
    uncounted=("upscale_weights",),
)
