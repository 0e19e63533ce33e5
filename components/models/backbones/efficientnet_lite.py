"""EfficientNet-Lite0 with a light feature pyramid, to stride 4.

Tan, Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", table 1, in the Lite form that Google published
in 2020: without squeeze-and-excitation, with ReLU6, stem and last layer never scaled. Only the blocks to stride 32 are kept: the last
1x1 convolution to 1280 channels serves classes. Padding is TensorFlow's SAME, as in the weights that it starts from.

The pyramid is ours, in the form of MoveNet's (`mobilenet_fpn`): laterals at strides 4, 8, 16 and 32, enlarged and added from coarse
to fine, each smoothed by a 3x3 filter per channel and a 1x1 convolution. No published weights hold it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from components.degrade.sample import IMAGENET_MEAN, IMAGENET_STD
from components.models.backbones.mobilenet_fpn import SameConv
from components.models.resizing import bilinear

GROUPS = (  # width, blocks, stride of the first, kernel, expansion
    (16, 1, 1, 3, 1), (24, 2, 2, 3, 6), (40, 2, 2, 5, 6), (80, 3, 2, 3, 6), (112, 3, 1, 5, 6), (192, 4, 2, 5, 6), (320, 1, 1, 3, 6),
)  # fmt: skip
STEM = 32
TAPS = (2, 4, 10, 15)  # blocks whose outputs the pyramid takes: strides 4, 8, 16 and 32
TAP_CHANNELS = (24, 40, 112, 320)
WIDTH = 64  # channels of the pyramid
CHANNELS = 96  # of the features, as many as MoveNet's
EPSILON = 1e-3  # of the published batch norms


@dataclass(frozen=True)
class EfficientNetLiteShape:
    """Which of the networks; one is built."""

    name: str


class Layer(nn.Sequential):
    """Convolution, batch norm and, unless told otherwise, ReLU6: keys `0.` and `1.`."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, linear: bool = False) -> None:
        padding = kernel // 2 if stride == 1 else 0  # SameConv pads the others itself
        convolution = SameConv(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(outputs, EPSILON), nn.Identity() if linear else nn.ReLU6(inplace=True))


class Block(nn.Module):
    """An inverted residual: (B, inputs, H, W) → (B, outputs, ⌈H/stride⌉, ⌈W/stride⌉)."""

    def __init__(self, inputs: int, outputs: int, stride: int, kernel: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = Layer(inputs, hidden) if expansion > 1 else None
        self.depthwise = Layer(hidden, hidden, kernel, stride, groups=hidden)
        self.project = Layer(hidden, outputs, linear=True)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(x if self.expand is None else self.expand(x)))
        return x + y if self.residual else y


class LightPyramid(nn.Module):
    """Features at strides 4 to 32, finest first → (B, 96, H/4, W/4)."""

    IN_IMAGENET_WEIGHTS = False

    def __init__(self) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(Layer(channels, WIDTH, linear=True) for channels in TAP_CHANNELS)
        outputs = (CHANNELS, WIDTH, WIDTH)
        self.smooth = nn.ModuleList(nn.Sequential(Layer(WIDTH, WIDTH, 3, groups=WIDTH, linear=True), Layer(WIDTH, o)) for o in outputs)

    def forward(self, taps: list[Tensor]) -> Tensor:
        x: Tensor = self.laterals[-1](taps[-1])
        for tap, lateral, smooth in zip(taps[-2::-1], list(self.laterals)[-2::-1], reversed(self.smooth), strict=True):
            x = smooth(bilinear(x, tap.shape[-2:]) + lateral(tap))
        return x


class EfficientNetLiteFPN(nn.Module):
    """(B, 3, H, W) normalised images, sides multiples of 16 → (B, 96, H/4, W/4).

    Attributes:
        channels: of the features.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, shape: EfficientNetLiteShape) -> None:
        super().__init__()
        self.shape, self.channels = shape, CHANNELS
        self.stem = Layer(3, STEM, 3, 2)
        self.blocks, inputs = nn.ModuleList(), STEM
        for outputs, count, stride, kernel, expansion in GROUPS:
            for position in range(count):
                self.blocks.append(Block(inputs, outputs, stride if position == 0 else 1, kernel, expansion))
                inputs = outputs
        self.pyramid = LightPyramid()
        mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        self.register_buffer("scale", 2 * deviation, persistent=False)  # the published weights read RGB in [-1, 1]
        self.register_buffer("shift", 2 * mean - 1, persistent=False)

    def taps(self, images: Tensor) -> list[Tensor]:
        """Features at strides 4, 8, 16 and 32."""
        x, taps = self.stem(images * self.scale + self.shift), []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in TAPS:
                taps.append(x)
        return taps

    def forward(self, images: Tensor) -> Tensor:
        return self.pyramid(self.taps(images))


EFFICIENTNETS = {shape.name: shape for shape in (EfficientNetLiteShape("efficientnet_lite0"),)}


def build_efficientnet(name: str) -> EfficientNetLiteFPN:
    """The backbone of that name with random weights, convolutions as He et al. draw them: each is followed by a batch norm."""
    backbone = EfficientNetLiteFPN(EFFICIENTNETS[name])
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out" if module.groups == 1 else "fan_in", nonlinearity="relu")
    return backbone
