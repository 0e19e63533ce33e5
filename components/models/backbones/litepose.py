"""LitePose's backbone: one branch of inverted residual blocks with large depthwise kernels.

Wang, Li, Cai, Chen, Han 2022, "Lite Pose: Efficient Architecture Design for 2D Human Pose Estimation", section 3.4. The
block is MobileNetV2's (Sandler et al. 2018, figure 4d). Shapes are those of the released search results (mobile_configs/search-*).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

STRIDES = (2, 2, 2, 1)  # of the stages, after a stem of stride 2: features at 1/2, 1/4, 1/8, 1/16 and 1/16


@dataclass(frozen=True)
class LitePoseShape:
    """How wide and how deep a LitePose is.

    Attributes:
        width: channels of the stem's output, at half the input's size.
        channels: of the four stages.
        filters: channels of the head's three deconvolutions.
        blocks: of the four stages.
        stem_width: channels inside the stem.
        expansion: channels inside a block per channel that comes in.
        kernel: side of the depthwise kernels, cells, odd.
    """

    name: str
    width: int = 16
    channels: tuple[int, int, int, int] = (16, 32, 48, 80)
    filters: tuple[int, int, int] = (16, 24, 24)
    blocks: tuple[int, int, int, int] = (6, 8, 10, 10)
    stem_width: int = 32
    expansion: int = 6
    kernel: int = 7


class InvertedBlock(nn.Module):
    """1x1, depthwise and 1x1 convolution: (B, inputs, H, W) → (B, outputs, ⌈H/stride⌉, ⌈W/stride⌉); a shortcut where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, kernel: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.inv = _convolution(inputs, inner, 1)
        self.depth_conv = _convolution(inner, inner, kernel, stride, groups=inner)
        self.point_conv = _convolution(inner, outputs, 1, activation=False)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.point_conv(self.depth_conv(self.inv(x)))
        return x + y if self.shortcut else y


class LitePoseBackbone(nn.Module):
    """(B, 3, H, W) normalised images → features at 1/2, 1/4, 1/8, 1/16 and 1/16 of the input, (B, pyramid_channels[i], …)."""

    def __init__(self, shape: LitePoseShape) -> None:
        super().__init__()
        stem = shape.stem_width
        self.first = nn.Sequential(
            _convolution(3, stem, 3, stride=2),
            _convolution(stem, stem, 3, groups=stem),
            *_convolution(stem, shape.width, 1, activation=False),
        )
        self.pyramid_channels = (shape.width, *shape.channels)
        widths = zip(self.pyramid_channels, shape.channels, shape.blocks, STRIDES, strict=False)
        self.stages = nn.ModuleList(_stage(shape, *settings) for settings in widths)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = [self.first(images)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return features


def _stage(shape: LitePoseShape, inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    settings = shape.kernel, shape.expansion
    first = InvertedBlock(inputs, outputs, stride, *settings)
    return nn.Sequential(first, *(InvertedBlock(outputs, outputs, 1, *settings) for _ in range(blocks - 1)))


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, activation: bool = True) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    layers = nn.Sequential(convolution, nn.BatchNorm2d(outputs))
    return layers.append(nn.ReLU6(inplace=True)) if activation else layers


LITEPOSES: dict[str, LitePoseShape] = {
    shape.name: shape
    for shape in (
        LitePoseShape("litepose_xs"),
        LitePoseShape("litepose_s", channels=(16, 32, 48, 120), filters=(32, 24, 32)),
        LitePoseShape("litepose_m", channels=(24, 48, 72, 120), filters=(64, 40, 32)),
        LitePoseShape("litepose_l", width=24, channels=(24, 64, 96, 160), filters=(64, 40, 32)),
        LitePoseShape("litepose_tiny", channels=(16, 24, 32, 48), filters=(16, 16, 16), blocks=(1, 2, 2, 2), stem_width=16, expansion=4),
    )
}
