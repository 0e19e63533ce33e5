"""TransPose-R: the first half of a ResNet, and a transformer encoder over the cells of its map at 1/8.

Yang, Quan, Nie, Yang 2021, "TransPose: Keypoint Localization via Transformer", section 3.2. The encoder is DETR's (Carion et
al. 2020, appendix A.4) with layer norms after each sum; positions are added to queries and keys in every layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.models.backbones.blocks import Bottleneck, conv1x1, published_initialisation, residual_layer
from components.models.backbones.imagenet import ImageNetBackbone

STRIDE = 8  # input px per token


@dataclass(frozen=True)
class TransPoseShape:
    """How wide and how deep a TransPose is.

    Attributes:
        stem_width: channels of the stem and of layer 1's 3x3 convolutions; layer 2 has twice as many.
        blocks: bottlenecks in layers 1 and 2.
        width: channels of a token, a multiple of 4.
        feedforward: hidden channels of the encoder's MLPs.
        layers, heads: of the encoder.
        dropout: share of attention weights and of the encoder's activations that training sets to 0.
    """

    name: str
    stem_width: int = 64
    blocks: tuple[int, int] = (3, 4)
    width: int = 256
    feedforward: int = 1024
    layers: int = 4
    heads: int = 8
    dropout: float = 0.1


def feature_size(input_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the token map of an input of (height, width) px."""
    height, width = input_size
    return math.ceil(height / STRIDE), math.ceil(width / STRIDE)


def sine_positions(size: tuple[int, int], width: int) -> Tensor:
    """Fixed positions of a map's cells, row by row: (H W, width), the first half of a row for y, the second for x.

    Cell i of n stands at the angle 2π (i + 1) / n; channel c of width / 2 is the sine (even c) or cosine (odd c) of that angle
    over 10000^(2 ⌊c / 2⌋ / (width / 2)). As DETR has it: the angles depend on the map's size.
    """
    half = width // 2
    frequencies = 10000 ** (-2 * torch.arange(half).div(2, rounding_mode="floor") / half)

    def waves(count: int) -> Tensor:
        angles = torch.arange(1, count + 1, dtype=torch.float32) / (count + 1e-6) * 2 * math.pi
        phases = angles[:, None] * frequencies
        return torch.stack((phases[:, 0::2].sin(), phases[:, 1::2].cos()), dim=2).flatten(1)  # (count, half)

    rows, columns = (waves(count) for count in size)
    grid = torch.cat((rows[:, None].expand(-1, size[1], -1), columns[None].expand(size[0], -1, -1)), dim=2)
    return grid.flatten(0, 1)


class EncoderLayer(nn.Module):
    """Self-attention and MLP on tokens (B, T, width), each added to its input and then normalised.

    Positions (1, T, width) are added to queries and keys, not to values.
    """

    def __init__(self, shape: TransPoseShape) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(shape.width, shape.heads, shape.dropout, batch_first=True)
        self.linear1 = nn.Linear(shape.width, shape.feedforward)
        self.linear2 = nn.Linear(shape.feedforward, shape.width)
        self.norm1, self.norm2 = nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        placed = tokens + positions
        mixed = self.self_attn(placed, placed, tokens, need_weights=False)[0]
        tokens = self.norm1(tokens + self.dropout(mixed))
        hidden = self.dropout(functional.relu(self.linear1(tokens)))
        return self.norm2(tokens + self.dropout(self.linear2(hidden)))


class Encoder(nn.Module):
    """`layers` encoder layers on tokens (B, T, width)."""

    def __init__(self, shape: TransPoseShape) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(shape) for _ in range(shape.layers))

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        for layer in self.layers:
            tokens = layer(tokens, positions)
        return tokens


class TransPose(ImageNetBackbone):
    """(B, 3, H, W) normalised images → the encoder's map (B, channels, ⌈H/8⌉, ⌈W/8⌉).

    Args:
        feature_size: (height, width) of that map, cells, see `feature_size`. The table of positions is made for it, so a
            network runs at one input size; the table is a parameter that is not trained, as in the published checkpoints.
    """

    IMAGENET_NAME = "resnet50"  # whose weights it starts from
    NOT_IN_IMAGENET_WEIGHTS = ("reduce.", "pos_embedding", "global_encoder.")

    def __init__(self, shape: TransPoseShape, feature_size: tuple[int, int]) -> None:
        super().__init__()
        self.shape = shape
        stem, outputs = shape.stem_width, shape.stem_width * Bottleneck.expansion
        self.channels, self.pyramid_channels = shape.width, (outputs, 2 * outputs, shape.width)
        self.conv1, self.bn1 = nn.Conv2d(3, stem, 7, 2, 3, bias=False), nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = residual_layer(Bottleneck, stem, stem, shape.blocks[0])
        self.layer2 = residual_layer(Bottleneck, outputs, 2 * stem, shape.blocks[1], stride=2)
        self.reduce = conv1x1(2 * outputs, shape.width)
        self.pos_embedding = nn.Parameter(sine_positions(feature_size, shape.width)[:, None], requires_grad=False)  # (T, 1, width)
        self.global_encoder = Encoder(shape)

    def forward(self, images: Tensor) -> Tensor:
        return self.pyramid(images)[-1]

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Layer 1 at 1/4, layer 2 and the encoder at 1/8, with `pyramid_channels` channels."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        first = self.layer1(x)
        second = self.layer2(first)
        return [first, second, self._encode(self.reduce(second))]

    def _encode(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)  # (B, T, width)
        tokens = self.global_encoder(tokens, self.pos_embedding.transpose(0, 1))
        return tokens.transpose(1, 2).unflatten(2, x.shape[-2:])


def transpose_initialisation(model: nn.Module) -> None:
    """Convolutions and batch norms as the published pose networks; the encoder's matrices by Xavier and Glorot, as published.

    `reduce`, which no batch norm follows, and the biases of the encoder's MLPs keep torch's own (uniform, ±1 / √fan-in), as in
    the published code where it starts from ImageNet weights.
    """
    published_initialisation(model)
    for module in model.modules():
        if isinstance(module, TransPose):
            module.reduce.reset_parameters()
        elif isinstance(module, EncoderLayer):
            for matrix in module.parameters():
                if matrix.ndim > 1:
                    nn.init.xavier_uniform_(matrix)


TRANSPOSES: dict[str, TransPoseShape] = {
    shape.name: shape
    for shape in (
        TransPoseShape("transpose_r_a4"),
        TransPoseShape("transpose_tiny", stem_width=32, blocks=(1, 1), width=64, feedforward=128, layers=2, heads=4, dropout=0.0),
    )
}
