"""The deconvolution head of SimpleBaseline (Xiao, Wu, Wei 2018, section 2)."""

from __future__ import annotations

from torch import nn


class DeconvolutionHead(nn.Sequential):
    """Three 4x4 stride-2 deconvolutions with batch norm and ReLU: (B, inputs, h, w) → (B, channels, 8 h, 8 w)."""

    def __init__(self, inputs: int, channels: int = 256, layers: int = 3) -> None:
        widths = [inputs] + [channels] * layers
        super().__init__(*(part for i in range(layers) for part in _double(widths[i], widths[i + 1])))
        self.channels = channels


def _double(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
