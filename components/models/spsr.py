"""SPSR: super-resolution by four that is guided by image gradients. Only its generator, placed before a pose network.

Ma, Rao, Cheng, Chen, Lu, Zhou 2020, "Structure-Preserving Super Resolution with Gradient Guidance", section 3 and figure 2.
A trunk of residual-in-residual dense blocks enlarges the image; a branch that sees the gradient of the image, and the trunk's
features after every fifth block, enlarges the gradient; a last block fuses both. Modules are named as in the released code,
so that its checkpoints load as they are. The pose papers' "+SPSR" rows have no released code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

FACTOR = 4
BLOCKS = 23
TAPPED = (4, 9, 14, 19)  # the trunk's blocks whose features the gradient branch sees
RESIDUAL = 0.2  # what a block adds is scaled by this
# in released checkpoints, but no weights of ours: the finite differences of the gradient map, and a second name of model.8
IGNORED = ("get_g_nopadding.weight_h", "get_g_nopadding.weight_v", "HR_conv0_new.0.weight", "HR_conv0_new.0.bias")


class DenseBlock(nn.Module):
    """Five 3x3 convolutions; each of the first four adds `growth` channels to the input of the later ones."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3, self.conv4 = (_activated(width + i * growth, growth) for i in range(4))
        self.conv5 = _plain(width + 4 * growth, width)

    def forward(self, x: Tensor) -> Tensor:
        features = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            features = torch.cat((features, conv(features)), 1)
        return x + RESIDUAL * self.conv5(features)


class ResidualBlock(nn.Module):
    """Three dense blocks and a skip around them (RRDB of ESRGAN)."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.RDB1, self.RDB2, self.RDB3 = (DenseBlock(width, growth) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return x + RESIDUAL * self.RDB3(self.RDB2(self.RDB1(x)))


class Trunk(nn.Module):
    """The blocks between the first convolution and the enlargement; outputs the sum with the skip, and the tapped features."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.sub = nn.Sequential(*(ResidualBlock(width, growth) for _ in range(BLOCKS)), _conv3x3(width, width))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        start, tapped = x, []
        for i, block in enumerate(self.sub):
            x = block(x)
            if i in TAPPED:
                tapped.append(x)
        return start + x, tapped


class Generator(nn.Module):
    """(B, 3, H, W) RGB in [0, 1] → (enlarged gradient map, enlarged image, gradient map of the input).

    The first two are (B, 3, 4H, 4W), the last (B, 3, H, W), in the order of the released code; the image is not yet clamped
    to [0, 1]. It is not trained here: its weights need no gradient.

    Args:
        width: channels of the features.
        growth: channels that one convolution of a dense block adds.
    """

    def __init__(self, width: int = 64, growth: int = 32) -> None:
        super().__init__()
        self.model = nn.Sequential(_conv3x3(3, width), Trunk(width, growth), *_enlargement(width), *_activated(width, width))
        self.HR_conv1_new = _plain(width, width)
        self.b_fea_conv = _plain(3, width)
        for stage in range(1, len(TAPPED) + 1):
            self.add_module(f"b_block_{stage}", ResidualBlock(2 * width, growth))
            self.add_module(f"b_concat_{stage}", _plain(2 * width, width))
        self.b_LR_conv = _plain(width, width)
        self.b_module = nn.Sequential(*_enlargement(width), *_activated(width, width), _conv3x3(width, width))
        self.conv_w = nn.Sequential(nn.Conv2d(width, 3, 1))
        self.f_block, self.f_concat = ResidualBlock(2 * width, growth), _plain(2 * width, width)
        self.f_HR_conv0, self.f_HR_conv1 = _activated(width, width), _plain(width, 3)
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> Generator:
        """Stays in eval mode, whatever the network around it does."""
        return super().train(False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gradient = gradient_map(images)
        features, tapped = self.model[1](self.model[0](images))
        for layer in list(self.model)[2:]:
            features = layer(features)
        features = self.HR_conv1_new(features)

        guide = start = self.b_fea_conv(gradient)
        for stage, seen in enumerate(tapped, 1):
            block, merge = self.get_submodule(f"b_block_{stage}"), self.get_submodule(f"b_concat_{stage}")
            guide = merge(block(torch.cat((guide, seen), 1)))
        guide = self.b_module(start + self.b_LR_conv(guide))

        fused = self.f_concat(self.f_block(torch.cat((guide, features), 1)))
        return self.conv_w(guide), self.f_HR_conv1(self.f_HR_conv0(fused)), gradient


def gradient_map(images: Tensor) -> Tensor:
    """(B, C, H, W) → length of each channel's gradient, by differences of the two neighbours (0 outside), same shape.

    The paper's section 3.2, with the released code's 1e-6 under the root.
    """
    padded = functional.pad(images, (1, 1, 1, 1))
    vertical = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    horizontal = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    return torch.sqrt(vertical.square() + horizontal.square() + 1e-6)


def _conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _plain(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(_conv3x3(inputs, outputs))


def _activated(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(_conv3x3(inputs, outputs), nn.LeakyReLU(0.2, inplace=True))


def _enlargement(width: int) -> list[nn.Module]:
    """Twice: repeat every cell into 2x2, then convolve."""
    return [layer for _ in range(2) for layer in (nn.Upsample(scale_factor=2, mode="nearest"), *_activated(width, width))]
