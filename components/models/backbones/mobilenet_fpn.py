"""MobileNetV2 with a feature pyramid: the network of MoveNet SinglePose, to stride 4.

Sandler, Howard, Zhu, Zhmoginov, Chen 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", table 2: expansion 6, seven
groups of blocks, a last 1x1 convolution to 1280 channels. Lin et al. 2017, "Feature Pyramid Networks for Object Detection": laterals at
strides 4, 8, 16 and 32, enlarged and added from coarse to fine. Google's model card "MoveNet.SinglePose" names both; the widths of the
pyramid are those of the published graphs, which hold no batch norms: they are folded into the convolutions before them.

Stride-2 convolutions pad as TensorFlow's SAME does, which differs from torch's padding at even sizes.

Ours: without a start, weights are drawn by He's rule (`mobilenet_initialisation`), because no batch norm repairs their scale. A fused
shape has one dense 3x3 convolution in place of a 1x1 convolution and a filter per channel (Tan, Le 2021, "EfficientNetV2: Smaller Models
and Faster Training", section 3.2): a filter per channel waits for memory, so that a processor trains dense ones faster.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.degrade.sample import IMAGENET_MEAN, IMAGENET_STD
from components.models.resizing import bilinear

GROUPS = (  # expansion, channels, blocks, stride of the first: the paper's table 2
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
FUSED_GROUPS = ((3, 32, 1, 2), (3, 48, 2, 2), (3, 96, 2, 2), (3, 160, 2, 2))  # ours
STEM, LAST = 32, 1280
PYRAMID = (24, 32, 64)  # channels that the pyramid adds up at strides 4, 8 and 16
LEVELS = (24, 24, 32, 64)  # channels of its levels at strides 4, 8, 16 and 32
BRANCH = 96  # channels of a branch's features
LINEAR = ("project", "top", "laterals.0", "laterals.1", "laterals.2")  # ends of the names of convolutions that no rectifier follows


@dataclass(frozen=True)
class MobileNetFPNShape:
    """How wide a MobileNetV2 with a pyramid is.

    Attributes:
        multiplier: of the channels of stem and blocks (the paper's width multiplier); the last convolution and the pyramid keep theirs.
        groups: of the blocks: expansion, channels, number, stride of the first.
        tapped: numbers of the groups whose outputs the pyramid takes, at strides 4, 8 and 16.
        last: channels of the last convolution.
        fused: one dense 3x3 convolution in place of a 1x1 convolution and a filter per channel.
    """

    name: str
    multiplier: float = 1.0
    groups: tuple[tuple[int, int, int, int], ...] = GROUPS
    tapped: tuple[int, int, int] = (1, 2, 3)
    last: int = LAST
    fused: bool = False

    def width(self, channels: int) -> int:
        """`channels` times the multiplier, rounded to a multiple of 8, never down by more than a tenth."""
        wanted = channels * self.multiplier
        rounded = max(8, int(wanted + 4) // 8 * 8)
        return rounded if rounded >= 0.9 * wanted else rounded + 8


class SameConv(nn.Conv2d):
    """A convolution that pads as TensorFlow's SAME: the output has ⌈side / stride⌉ cells, surplus padding lies right and below."""

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] == 1:
            return super().forward(x)
        (bottom, top), (right, left) = (_same(side, self.kernel_size[0], self.stride[0]) for side in x.shape[-2:])
        x = functional.pad(x, (left, right, top, bottom))
        return functional.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def _same(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """Padding after and before."""
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total - total // 2, total // 2


def _conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, bias: bool = True) -> SameConv:
    return SameConv(inputs, outputs, kernel, stride, kernel // 2 if stride == 1 else 0, groups=groups, bias=bias)


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project without activation (paper, section 3.4).

    (B, inputs, H, W) → (B, outputs, ⌈H/stride⌉, ⌈W/stride⌉).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = _conv(inputs, hidden) if expansion > 1 else None
        self.depthwise = _conv(hidden, hidden, 3, stride, groups=hidden)
        self.project = _conv(hidden, outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else functional.relu6(self.expand(x))
        y = self.project(functional.relu6(self.depthwise(y)))
        return x + y if self.residual else y


class FusedResidual(nn.Module):
    """`InvertedResidual` with one dense 3x3 convolution that expands and filters."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = _conv(inputs, hidden, 3, stride)
        self.project = _conv(hidden, outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(functional.relu6(self.expand(x)))
        return x + y if self.residual else y


class Separable(nn.Module):
    """A 3x3 filter per channel, a 1x1 convolution, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.depthwise = _conv(inputs, inputs, 3, groups=inputs, bias=False)
        self.pointwise = _conv(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.pointwise(self.depthwise(x)))


class Dense(nn.Module):
    """A 3x3 convolution, ReLU: what a fused shape has in place of `Separable`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolution = _conv(inputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.convolution(x))


class MobileNetFPN(nn.Module):
    """(B, 3, H, W) normalised images, sides multiples of 16 → (B, 96, H/4, W/4), the features before MoveNet's heatmaps.

    Args:
        branch: with the branch before MoveNet's heatmaps; without it the features are `pyramid`'s.

    Attributes:
        channels: of the features.
        pyramid_channels: of `pyramid`.
        level_channels: of `levels`.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, shape: MobileNetFPNShape, branch: bool = True) -> None:
        super().__init__()
        self.shape = shape
        self.stem = _conv(3, shape.width(STEM), 3, 2)
        self.blocks = nn.ModuleList(_blocks(shape))
        ends = list(accumulate(blocks for _, _, blocks, _ in shape.groups))
        self.taps = [ends[group] - 1 for group in shape.tapped]
        widths = [shape.width(channels) for _, channels, _, _ in shape.groups]
        self.last = _conv(widths[-1], shape.last)
        self.top = _conv(shape.last, PYRAMID[-1])
        taps = (widths[group] for group in shape.tapped)
        self.laterals = nn.ModuleList(_conv(tap, width) for tap, width in zip(taps, PYRAMID, strict=True))
        self.smooth = nn.ModuleList(self.layer(PYRAMID[level], PYRAMID[max(level - 1, 0)]) for level in range(len(PYRAMID)))
        self.branch = self.layer(PYRAMID[0], BRANCH) if branch else nn.Identity()
        self.channels, self.pyramid_channels, self.level_channels = BRANCH if branch else PYRAMID[0], PYRAMID[0], LEVELS
        scale, shift = _movenet_range()
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def pyramid(self, images: Tensor) -> Tensor:
        """(B, 24, H/4, W/4): the finest level."""
        return self.levels(images)[0]

    def levels(self, images: Tensor) -> list[Tensor]:
        """The pyramid, finest first: (B, level_channels[i], ⌈H / 2ⁱ⁺²⌉, ⌈W / 2ⁱ⁺²⌉)."""
        x = functional.relu6(self.stem(images * self.scale + self.shift))
        taps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.taps:
                taps.append(x)
        levels = [self.top(functional.relu6(self.last(x)))]
        for level, tap in reversed(list(enumerate(taps))):
            added = self.enlarge(levels[0], level, tap) + self.laterals[level](tap)
            levels.insert(0, self.smooth[level](added))
        return levels

    def layer(self, inputs: int, outputs: int) -> nn.Module:
        """A layer of the pyramid or before an output."""
        return (Dense if self.shape.fused else Separable)(inputs, outputs)

    def enlarge(self, coarse: Tensor, level: int, like: Tensor) -> Tensor:
        """The level above `level`, at the size of `like`."""
        return bilinear(coarse, like.shape[-2:])

    def forward(self, images: Tensor) -> Tensor:
        return self.branch(self.pyramid(images))


def _blocks(shape: MobileNetFPNShape) -> Iterator[InvertedResidual | FusedResidual]:
    inputs, block = shape.width(STEM), FusedResidual if shape.fused else InvertedResidual
    for expansion, channels, count, stride in shape.groups:
        outputs = shape.width(channels)
        for position in range(count):
            yield block(inputs, outputs, stride if position == 0 else 1, expansion)
            inputs = outputs


def _movenet_range() -> tuple[Tensor, Tensor]:
    """Factor and summand (1, 3, 1, 1) that take images normalised as ImageNet's to MoveNet's [-1, 1]."""
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return 2 * deviation, 2 * mean - 1


MOBILENETS = {
    shape.name: shape
    for shape in (
        MobileNetFPNShape("mobilenet_fpn"),
        MobileNetFPNShape("mobilenet_fpn_175", 1.75),
        MobileNetFPNShape("fused_fpn", groups=FUSED_GROUPS, tapped=(0, 1, 2), last=256, fused=True),
    )
}


def build_mobilenet(name: str, branch: bool = True) -> MobileNetFPN:
    """The backbone of that name, see `MobileNetFPN`, with random weights."""
    backbone = MobileNetFPN(MOBILENETS[name], branch)
    mobilenet_initialisation(backbone)
    return backbone


def mobilenet_initialisation(model: nn.Module) -> None:
    """Draw the convolutions from N(0, 2 / fan_in) before a rectifier and N(0, 1 / fan_in) elsewhere, biases 0.

    He, Zhang, Ren, Sun 2015, "Delving Deep into Rectifiers", equation 10. Smaller weights fade on the way through 52 layers.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            linear = module.bias is None or name.endswith(LINEAR)  # a separable layer's filters have no bias
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear" if linear else "relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
