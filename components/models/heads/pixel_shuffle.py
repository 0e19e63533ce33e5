"""SIU's upsampling head: rearrange channels into cells first, convolve afterwards.

Jiang et al. 2025, "Eliminating Semantic Ambiguity in Human Pose Estimation via Stable Feature Upsampling".
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

FACTOR = 8  # from stride 32 to stride 4
CHANNELS = 256  # that the head outputs


class PixelShuffleHead(nn.ModuleDict):
    """(B, inputs, h, w) → (B, channels, 8 h, 8 w): pixel shuffle, then pairs of a depthwise and a 1x1 convolution.

    Every convolution has a bias and is followed by ReLU; there is no batch norm.

    Args:
        inputs: channels of the feature, a multiple of 64 (of which 64 become one).
        kernel: side of the depthwise kernels, cells, odd.
        between: channels between two pairs; None for one pair.
    """

    def __init__(self, inputs: int, kernel: int = 3, between: int | None = None) -> None:
        shuffled = inputs // FACTOR**2
        parts = {}
        if between is not None:
            parts = {"depth_conv1": _depthwise(shuffled, kernel), "point_conv1": nn.Conv2d(shuffled, between, 1)}
        width = between or shuffled
        super().__init__({**parts, "depth_conv": _depthwise(width, kernel), "point_conv": nn.Conv2d(width, CHANNELS, 1)})
        self.channels = CHANNELS

    def forward(self, features: Tensor) -> Tensor:
        x = functional.pixel_shuffle(features, FACTOR)
        for convolution in self.values():
            x = functional.relu(convolution(x))
        return x


def _depthwise(channels: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
