"""The backbones of the SR head and of SRPose, as their authors initialise them and name their parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from components.models.backbones.blocks import published_initialisation
from components.models.backbones.hrformer import HRFORMERS, HRFormer, hrformer_initialisation
from components.models.backbones.hrnet import HRNETS, build_hrnet, published_key
from components.models.backbones.mobilenet_fpn import MOBILENETS, MobileNetFPN, build_mobilenet
from components.models.backbones.resnet import RESNETS, ResNet
from components.models.backbones.transpose import TRANSPOSES, TransPose, feature_size, transpose_initialisation
from components.models.heads.deconvolution import DeconvolutionHead
from components.models.naming import renamed
from components.models.variant import EnlargedNetwork, Variant


@dataclass(frozen=True)
class PyramidNetwork(EnlargedNetwork):
    """Settings of networks whose backbone may be an HRFormer, or whose input may be enlarged.

    Attributes:
        relative_positions: add the learned bias to HRFormer's attention; False as in its released pose code.
    """

    relative_positions: bool = False


def build_backbone(variant: Variant, multi_scale: bool) -> nn.Module:
    """The variant's backbone with fresh weights, initialised as published.

    Args:
        multi_scale: as `pyramid` needs it: with the last fusions to an HRNet's coarser branches, without a MobileNetFPN's own branch.
    """
    model: nn.Module
    name, network = variant.backbone, variant.network
    if name in HRFORMERS:
        model = HRFormer(HRFORMERS[name], network.relative_positions, multi_scale)
        hrformer_initialisation(model)
    elif name in TRANSPOSES:
        model = TransPose(TRANSPOSES[name], feature_size(variant.input_size))
        transpose_initialisation(model)
    elif name in MOBILENETS:
        model = build_mobilenet(name, branch=not multi_scale)
    elif name in RESNETS:
        model = ResNet(RESNETS[name])
        published_initialisation(model)
    else:
        model = build_hrnet(name, network.branches, multi_scale=multi_scale)
        published_initialisation(model)
    return model


def pyramid(backbone: nn.Module, images: Tensor) -> list[Tensor]:
    """The backbone's features at strides 4, 8, … px, finest first."""
    levels = backbone.levels if isinstance(backbone, MobileNetFPN) else backbone.pyramid
    return levels(images)  # type: ignore[operator]


def pyramid_channels(backbone: nn.Module) -> tuple[int, ...]:
    """Channels of each of `pyramid`'s features."""
    return backbone.level_channels if isinstance(backbone, MobileNetFPN) else backbone.pyramid_channels  # type: ignore[return-value]


def plain_deconvolutions(variant: Variant, channels: int) -> DeconvolutionHead | None:
    """What the backbone's plain head puts between its features and H/4 x W/4 cells; None where they have that size."""
    if variant.backbone in RESNETS:
        return DeconvolutionHead(channels)
    return DeconvolutionHead(channels, channels, layers=1) if variant.backbone in TRANSPOSES else None


def authors_keys(head: Mapping[str, str]) -> Callable[[str, Variant], str]:
    """A method's `authors_key`, where its released code is SRPose's or mmpose's.

    Args:
        head: our prefix → the authors' prefix of the head's parameters.
    """
    return lambda key, variant: backbone_key(key, variant) if key.startswith("backbone.") else renamed(key, head)


def backbone_key(key: str, variant: Variant) -> str:
    """The name of `key`, a parameter under `backbone.`, in the released code of SRPose, which keeps the backbone's own names."""
    return "backbone." + published_key(key.removeprefix("backbone.")) if variant.backbone in HRNETS else key
