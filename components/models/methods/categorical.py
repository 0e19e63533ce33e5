"""Maps of logits whose softmax says where a joint may be, decoded at the highest expected OKS: ours.

The networks are the plain ones. What is new lies in the codec: cross-entropy in training, and a decision that maximises the measure by
which poses are judged. The codec's docstring gives the equations.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from components.base.errors import FarposeError
from components.models.backbones.efficientnet_lite import EFFICIENTNETS, build_efficientnet
from components.models.backbones.hrnet import HRNETS
from components.models.backbones.mobilenet_fpn import MOBILENETS, build_mobilenet
from components.models.backbones.resnet import RESNETS
from components.models.heads.plain import PlainPose
from components.models.heads.subpixel import SubpixelPose
from components.models.methods import dark
from components.models.variant import EnlargedNetwork, Method, Variant


@dataclass(frozen=True)
class CategoricalNetwork(EnlargedNetwork):
    """Settings of networks with finer maps.

    Attributes:
        finer: cells of a map per cell of the features, along each axis: 1, or more with a head of `heads.subpixel`.
    """

    finer: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.finer < 1:
            raise ValueError(f"finer must be at least 1, got {self.finer}")


def build(variant: Variant, published: bool = False) -> PlainPose:
    """K maps on the variant's backbone; those with batch norms are initialised as their papers do."""
    finer: int = variant.network.finer
    if variant.backbone in MOBILENETS:
        return _light(build_mobilenet(variant.backbone), variant.num_keypoints, finer)
    if variant.backbone in EFFICIENTNETS:
        return _light(build_efficientnet(variant.backbone), variant.num_keypoints, finer)
    if finer > 1:
        raise FarposeError(f"network.finer = {finer} needs a light backbone", where=f"variant {variant.name}", fix="remove it")
    return dark.build(variant, published)


def _light(backbone: nn.Module, keypoints: int, finer: int) -> PlainPose:
    return PlainPose(backbone, keypoints) if finer == 1 else SubpixelPose(backbone, keypoints, finer)


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
    network=CategoricalNetwork,
    uncounted=("upscale_weights",),
)
