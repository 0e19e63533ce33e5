"""SRPose: heatmaps from coarse to fine, each supervised at its own resolution, the last one as large as the input.

Wang, Liu, Tang, Wu 2023, "Lightweight Super-Resolution Head for Human Pose Estimation", section 3.3; details from the
released code (haonanwang0522/SRPose, `top_down_srpose_head.py`).

A stage takes one feature of the backbone's pyramid, coarsest first, and the stage before it. The coarsest stage predicts
heatmaps of its own resolution and feeds them back; every later one merges and refines. Each stage has a
super-resolution head: all but the last output maps of stride 4 and serve training only.

Published for pyramids of four stages, strides 32 to 4, widths 256, 128, 64, 32. Here every pyramid works (`plan`): an HRNet
with three branches leaves the coarsest stage out, and a narrower backbone has narrower stages. How SRPose uses
TransPose was not published. The form here is our own: stages on the encoder's output (stride 8), layer 2 (stride 8) and
layer 1 (stride 4), widths 256, 128, 32, and a last head with 8 channels per keypoint and kernel 3, which has the paper's 0.55 M
parameters (with the published last head, 4 channels and kernel 9, it would be 0.61 M).

Ours too: MobileNetFPN's pyramid, strides 32 to 4, widths 64, 32, 24, 24, without the branch before MoveNet's heatmaps.

Where 32 does not divide the input, a stage's map has surplus cells to the right and below; they are cut off.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.models.backbones.hrformer import HRFORMERS
from components.models.backbones.hrnet import HRNETS
from components.models.backbones.mobilenet_fpn import MOBILENETS
from components.models.backbones.resnet import RESNETS
from components.models.backbones.transpose import TRANSPOSES
from components.models.heads.plain import on_input
from components.models.heads.super_resolution import SuperResolutionHead
from components.models.pyramids import PyramidNetwork, backbone_key, build_backbone, pyramid, pyramid_channels
from components.models.variant import STRIDE, Method, Variant


class Stage(NamedTuple):
    """One stage of the head.

    Attributes:
        inputs: channels of the backbone's feature.
        width: channels of the stage.
        factor: enlargement by its super-resolution head.
        embedding: channels per keypoint in it.
        kernel: of its grouped convolution.
    """

    inputs: int
    width: int
    factor: int
    embedding: int
    kernel: int


Template = tuple[int, int, int, int]  # of a stage: widest (channels), factor, embedding, kernel

TRANSPOSE: tuple[Template, ...] = ((256, 2, 4, 7), (128, 2, 4, 7), (32, 4, 8, 3))  # our own


def plan(pyramid_channels: tuple[int, ...], templates: tuple[Template, ...] | None = None) -> tuple[Stage, ...]:
    """The stages for a pyramid, coarsest first; none is wider than its feature.

    Args:
        pyramid_channels: of the backbone's features, finest first.
        templates: of the stages, coarsest first; by default those for strides 4, 8, 16, … px.
    """
    templates = templates or tuple(_template(level) for level in reversed(range(len(pyramid_channels))))
    stages = zip(reversed(pyramid_channels), templates, strict=True)
    return tuple(Stage(inputs, min(inputs, widest), *head) for inputs, (widest, *head) in stages)


def _template(level: int) -> Template:
    """The published stage at stride 4 · 2^level.

    8 channels per px of stride. Its head outputs stride 4 with twice as many channels per keypoint as the factor is; the
    finest one's stride 1 with 4. Kernels are 9 there and 2 less for each level above.
    """
    factor = 2**level
    head = (factor, 2 * factor) if level else (STRIDE, 4)
    return (8 * STRIDE * factor, *head, 9 - 2 * level)


class ConvNeXtBlock(nn.Module):
    """(B, width, h, w) → the same: depthwise 7x7, batch norm and two pointwise layers, with a shortcut.

    The block of Liu et al. 2022 ("A ConvNet for the 2020s", figure 4) with batch norm and without layer scale.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.BatchNorm2d(width)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.pwconv2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x)).permute(0, 2, 3, 1)  # (B, h, w, width)
        y = self.pwconv2(functional.gelu(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


class CoarsestStage(nn.Module):
    """(B, inputs, h, w) → heatmaps (B, K, h, w), never negative, and features (B, width, h, w) that know them."""

    def __init__(self, stage: Stage, keypoints: int) -> None:
        super().__init__()
        self.heatmaps = nn.Conv2d(stage.inputs, keypoints, 1)
        self.embedding = nn.Conv2d(keypoints, stage.width, 1)
        self.lateral = _pointwise(stage.inputs, stage.width)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        heatmaps = functional.relu(self.heatmaps(feature))
        return heatmaps, functional.relu(self.lateral(feature)) + functional.relu(self.embedding(heatmaps))


class FinerStage(nn.Module):
    """Features of the stage before (B, before, h', w') and of the backbone (B, inputs, h, w) → (B, width, h, w)."""

    def __init__(self, before: int, stage: Stage) -> None:
        super().__init__()
        depthwise, pointwise = nn.Conv2d(before, before, 3, padding=1, groups=before), nn.Conv2d(before, stage.width, 1)
        self.reduce = nn.Sequential(depthwise, pointwise, nn.BatchNorm2d(stage.width))
        self.lateral = _pointwise(stage.inputs, stage.width)
        self.fuse = nn.Conv2d(2 * stage.width, stage.width, 1)
        self.blocks = nn.Sequential(ConvNeXtBlock(stage.width), ConvNeXtBlock(stage.width))

    def forward(self, coarse: Tensor, feature: Tensor) -> Tensor:
        coarse = functional.relu(self.reduce(coarse))
        coarse = functional.interpolate(coarse, size=feature.shape[-2:], mode="nearest")
        return self.blocks(self.fuse(torch.cat([coarse, functional.relu(self.lateral(feature))], 1)))


def _pointwise(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs))


class SRPoseHead(nn.Module):
    """Features of the pyramid, coarsest first → heatmaps.

    In eval mode [final]; in training mode [heatmaps of the coarsest stage, one map of stride 4 for each stage but the last,
    final], finest last.
    """

    def __init__(self, stages: tuple[Stage, ...], keypoints: int) -> None:
        super().__init__()
        self.coarsest = CoarsestStage(stages[0], keypoints)
        self.finer = nn.ModuleList(FinerStage(before.width, stage) for before, stage in pairwise(stages))
        *earlier, self.final = (_head(stage, keypoints) for stage in stages)
        self.supervision = nn.ModuleList(earlier)

    def forward(self, pyramid: list[Tensor]) -> list[Tensor]:
        first, x = self.coarsest(pyramid[0])
        features = [x]
        for stage, feature in zip(self.finer, pyramid[1:], strict=True):
            features.append(stage(features[-1], feature))
        final = self.final(features[-1])
        if not self.training:
            return [final]
        return [first, *(head(x) for head, x in zip(self.supervision, features, strict=False)), final]


def _head(stage: Stage, keypoints: int) -> SuperResolutionHead:
    """A super-resolution head, its grouped convolution from N(0, 0.001²); all else keeps torch's initialisation, as published."""
    head = SuperResolutionHead(stage.width, keypoints, stage.embedding, stage.factor, stage.kernel)
    nn.init.normal_(head.converge.weight, std=0.001)
    nn.init.zeros_(head.converge.bias)  # type: ignore[arg-type]
    return head


class SRPose(nn.Module):
    """(B, 3, H, W) normalised images → ((B, K, H, W),) in eval mode.

    In training mode the coarsest stage's heatmaps (B, K, ⌈H/32⌉, ⌈W/32⌉), one (B, K, H/4, W/4) map for each stage but the
    last, and the (B, K, H, W) map that eval mode outputs.
    """

    TRAIN_ONLY = ("head.supervision.",)

    def __init__(self, backbone: nn.Module, stages: tuple[Stage, ...], keypoints: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = SRPoseHead(stages, keypoints)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        *maps, final = self.head(pyramid(self.backbone, images)[::-1])
        return (*maps[:1], *(on_input(heatmaps, images) for heatmaps in maps[1:]), final)


def build(variant: Variant, published: bool = False) -> SRPose:
    """SRPose on the variant's backbone, initialised as published (which is also how it behaves: `published` changes nothing)."""
    features = build_backbone(variant, multi_scale=True)
    stages = plan(pyramid_channels(features), TRANSPOSE if variant.backbone in TRANSPOSES else None)
    return SRPose(features, stages, variant.num_keypoints)


_STAGE_PARTS = {"reduce": ("pre_interpolate", 0), "lateral": ("pre_fuse", 1), "fuse": ("fuse", 0), "blocks": ("post_fuse", 0)}
_HEAD_PARTS = {"encoder": "kp_encoder.{}.0", "converge": "converge.{}.conv"}
_COARSEST = {"heatmaps": "lr_head.0", "embedding": "lr_fuse.0", "lateral": "pre_fuse.0"}


def authors_key(key: str, variant: Variant) -> str:
    """The name of `key` in the released code, which keeps one list per kind of layer instead of one module per stage."""
    if key.startswith("backbone."):
        return backbone_key(key, variant)
    return "keypoint_head." + _head_key(key.removeprefix("head."), _stage_count(variant))


def _head_key(key: str, stages: int) -> str:
    if match := re.fullmatch(r"coarsest\.(\w+)\.(.+)", key):
        return f"{_COARSEST[match[1]]}.{match[2]}"
    if match := re.fullmatch(r"finer\.(\d+)\.(\w+)\.(.+)", key):
        part, first = _STAGE_PARTS[match[2]]
        return f"{part}.{int(match[1]) + first}.{match[3]}"
    index, part, leaf = key.replace("final.", f"supervision.{stages - 1}.").removeprefix("supervision.").split(".")
    return f"{_HEAD_PARTS[part].format(index)}.{leaf}"


def _stage_count(variant: Variant) -> int:
    if variant.backbone in TRANSPOSES:
        return len(TRANSPOSE)
    return variant.network.branches if variant.backbone in HRNETS else 4


METHOD = Method(
    "srpose",
    build,
    (*HRNETS, *RESNETS, *HRFORMERS, *TRANSPOSES, *MOBILENETS),
    codec="super_resolution",
    authors_key=authors_key,
    stride=1,
    network=PyramidNetwork,
    counting="mmcv",
    uncounted=("upscale_weights",),
    sized=True,
)
