"""SIU: stable upsampling. Channels are rearranged into cells (pixel shuffle) before any convolution touches them.

Jiang, Zhang, Yan, Shu, Dong, Chen, Du 2025, "Eliminating Semantic Ambiguity in Human Pose Estimation via Stable Feature
Upsampling", IEEE TCSVT. Its place depends on the backbone:
    ResNet, EfficientViT  the head: stride 32 → 4 by one pixel shuffle and light convolutions, instead of three deconvolutions
    HRNet                 the fusions from coarse to fine: pixel shuffle, 1x1 convolution, batch norm, instead of 1x1 and nearest
    MobileNetFPN (ours)   the pyramid from coarse to fine: the same path instead of bilinear enlargement

The released code changes HRNet's fusions from fine to coarse too (a depthwise and a 1x1 convolution for each 3x3 one), which its
text does not say and which saves most of the parameters: `network.downsample` switches that alone.
The released heads of HRNet and EfficientViT do not run; these are the ones that give the printed parameters and multiply-adds.

Where 32 does not divide the input a shuffle outputs more cells than its target has: at 64x48 HRNet's branches are 12, 6, 3 and 2
wide, and 2 x 8 is 16. Cell j stands for the same input px in either, so the surplus lies to the right of (below) the image
and is cut off, in the fusions and before the last convolution of the heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from components.models.backbones.blocks import conv1x1, published_initialisation
from components.models.backbones.efficientvit import EFFICIENTVITS, EfficientViT, authors_name
from components.models.backbones.hrnet import HRNETS, Fusion, HighResolutionEnd, HighResolutionTrunk, HRNet, published_key
from components.models.backbones.mobilenet_fpn import MOBILENETS, PYRAMID, MobileNetFPN, MobileNetFPNShape, mobilenet_initialisation
from components.models.backbones.resnet import RESNETS, ResNet
from components.models.heads.pixel_shuffle import PixelShuffleHead
from components.models.heads.plain import PlainPose, draw_probabilities
from components.models.variant import EnlargedNetwork, Method, Variant


@dataclass(frozen=True)
class SIUNetwork(EnlargedNetwork):
    """Settings of the network.

    Attributes:
        downsample: on HRNet, its fusions to coarser branches: "depthwise" as in the released code, or HRNet's "convolution".
    """

    downsample: Literal["depthwise", "convolution"] = "depthwise"


class PixelShufflePath(nn.Sequential):
    """(B, inputs, h, w) → (B, outputs, factor h, factor w): pixel shuffle, 1x1 convolution, batch norm."""

    IN_IMAGENET_WEIGHTS = False

    def __init__(self, inputs: int, outputs: int, factor: int) -> None:
        super().__init__(conv1x1(inputs // factor**2, outputs), nn.BatchNorm2d(outputs))
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.pixel_shuffle(x, self.factor))


class DepthwisePath(nn.Sequential):
    """(B, inputs, h, w) → (B, outputs, ⌈h / 2ⁿ⌉, ⌈w / 2ⁿ⌉) in n steps; the last one changes the channels."""

    IN_IMAGENET_WEIGHTS = False

    def __init__(self, inputs: int, outputs: int, steps: int) -> None:
        super().__init__(*(_halve(inputs, inputs, relu=True) for _ in range(steps - 1)), _halve(inputs, outputs, relu=False))


def _halve(inputs: int, outputs: int, relu: bool) -> nn.Sequential:
    depthwise = nn.Conv2d(inputs, inputs, 3, 2, 1, groups=inputs, bias=False)
    step = nn.Sequential(depthwise, conv1x1(inputs, outputs), nn.BatchNorm2d(outputs))
    if relu:
        step.append(nn.ReLU(inplace=True))
    return step


@dataclass(frozen=True)
class StableFusion(Fusion):
    """HRNet's fusions with pixel shuffles upwards and, where `depthwise`, cheaper convolutions downwards."""

    depthwise: bool

    def path(self, channels: list[int], source: int, target: int, widen: int) -> nn.Module:
        if source > target:
            return PixelShufflePath(channels[source], channels[target], 2 ** (source - target))
        if source < target and self.depthwise:
            return DepthwisePath(channels[source], channels[target], target - source)
        return super().path(channels, source, target, widen)

    def fit(self, x: Tensor, like: Tensor) -> Tensor:
        return x[..., : like.shape[-2], : like.shape[-1]]


class StableMobileNetFPN(MobileNetFPN):
    """A MobileNetFPN whose pyramid is enlarged by pixel shuffles."""

    def __init__(self, shape: MobileNetFPNShape) -> None:
        super().__init__(shape)
        self.shuffles = nn.ModuleList(PixelShufflePath(width, width, 2) for width in PYRAMID)

    def enlarge(self, coarse: Tensor, level: int, like: Tensor) -> Tensor:
        return self.shuffles[level](coarse)[..., : like.shape[-2], : like.shape[-1]]


def build(variant: Variant, published: bool = False) -> nn.Module:
    """K heatmaps with stable upsampling where the variant's backbone has room for it, initialised as published."""
    if variant.backbone in HRNETS:
        return _hrnet(variant)
    if variant.backbone in MOBILENETS:
        return _mobilenet(variant)
    if variant.backbone in EFFICIENTVITS:
        efficientvit = EfficientViT(EFFICIENTVITS[variant.backbone])
        model = PlainPose(efficientvit, variant.num_keypoints, PixelShuffleHead(efficientvit.channels, kernel=7, between=64), published)
    else:
        resnet = ResNet(RESNETS[variant.backbone])
        published_initialisation(resnet)
        model = PlainPose(resnet, variant.num_keypoints, PixelShuffleHead(resnet.channels), published)
    _initialise_head(model)
    return model


def _hrnet(variant: Variant) -> PlainPose:
    shape, branches = HRNETS[variant.backbone], variant.network.branches
    fusion = StableFusion(depthwise=variant.network.downsample == "depthwise")
    backbone = HRNet(HighResolutionTrunk(shape, fusion), HighResolutionEnd(shape, branches, fusion=fusion))
    model = PlainPose(backbone, variant.num_keypoints)
    published_initialisation(model)
    return model


def _mobilenet(variant: Variant) -> PlainPose:
    backbone = StableMobileNetFPN(MOBILENETS[variant.backbone])
    mobilenet_initialisation(backbone)
    model = PlainPose(backbone, variant.num_keypoints, sigmoid_every=1)
    published_initialisation(backbone.shuffles)
    draw_probabilities(model.final_layer)
    return model


def _initialise_head(model: PlainPose) -> None:
    """He's initialisation of the head and N(0, 0.001²) of the last layer: without batch norms, small weights would hardly train."""
    for layer in model.head.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    published_initialisation(model.final_layer)


def authors_key(key: str, variant: Variant) -> str:
    """The name of `key` in SIU's repository, which is mmpose's; on MobileNetFPN `key`."""
    if variant.backbone in MOBILENETS:
        return key
    part, rest = key.split(".", 1)
    if part == "final_layer":
        return f"head.{key}"
    if part == "head":
        layer, kind = rest.split(".")
        return f"head.{layer}.conv.{kind}"
    if variant.backbone in EFFICIENTVITS:
        return f"backbone.{authors_name(rest)}"
    return f"backbone.{published_key(rest)}"


METHOD = Method(
    "siu",
    build,
    (*HRNETS, *RESNETS, *EFFICIENTVITS, *MOBILENETS),
    codec="heatmap",
    authors_key=authors_key,
    network=SIUNetwork,
    counting="fvcore",
    uncounted=("upscale_weights",),
)
