"""TokenPose: one learned token per joint, and image patches as further tokens, through one transformer.

Li, Zhang, Wang, Yang, Yang, Xia, Zhou 2021, "TokenPose: Learning Keypoint Tokens for Human Pose Estimation", section 3.

Convolutions make features at a quarter of the input: a stem and HRNet's first bottlenecks (S), or stages 1 to 3 of an HRNet
(B). Patches of them become tokens. The output is the joints' tokens.

Patches. The released models use 4x3 (height x width) features at 256x192 for S-v1 and B, 2x2 for S-v2; the costs that SimCC prints
imply 1x1 at 64x64, 2x2 at 128x128, 4x3 at 256x192. One rule gives all of these and every other size: the smallest patch that
divides the feature and leaves at most `grid` patches along an axis, 16 for S-v1 and B, 32 for S-v2. So S-v1 and B have 1x1
at 64x48 and 2x2 at 128x96, 192 tokens each; S-v2 has 1x1 at both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.models.backbones.blocks import Bottleneck, HighResolutionStem, published_initialisation
from components.models.backbones.hrnet import HRNETS, HighResolutionTrunk, HRNetShape

STRIDE = 4  # input px per feature


@dataclass(frozen=True)
class TokenPoseShape:
    """How a TokenPose is built.

    Attributes:
        trunk: the HRNet whose stages 1 to 3 make the features; None for the stem.
        stem_width, layer1_width, layer1_blocks: of the stem, as in `HRNetShape`.
        grid: most patches along an axis.
        dim: channels of a token.
        depth, heads: transformer layers, and attention heads in each.
        mlp_ratio: hidden channels of a layer's perceptron per channel.
        scale_by_head: divide attention's products by the root of a head's channels; S divides by that of all channels instead.
    """

    name: str
    trunk: HRNetShape | None = None
    stem_width: int = 64
    layer1_width: int = 64
    layer1_blocks: int = 4
    grid: int = 16
    dim: int = 192
    depth: int = 12
    heads: int = 8
    mlp_ratio: int = 3
    scale_by_head: bool = False

    @property
    def channels(self) -> int:
        """Of the features."""
        return self.trunk.width if self.trunk else self.layer1_width * Bottleneck.expansion

    def patch(self, input_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of a patch in features, for an input of (height, width) px."""
        return _patch_side(input_size[0] // STRIDE, self.grid), _patch_side(input_size[1] // STRIDE, self.grid)


def _patch_side(features: int, grid: int) -> int:
    return next(side for side in range(1, features + 1) if features % side == 0 and features // side <= grid)


class Stem(HighResolutionStem):
    """(B, 3, H, W) → one feature (B, channels, H/4, W/4), in a list like the output of an HRNet's trunk."""

    def __init__(self, shape: TokenPoseShape) -> None:
        super().__init__(shape.stem_width, shape.layer1_width, shape.layer1_blocks)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.shallow(images)]


class EncoderLayer(nn.Module):
    """Attention and a perceptron, each after a layer norm and added to its input: (B, N, dim) → (B, N, dim)."""

    def __init__(self, shape: TokenPoseShape) -> None:
        super().__init__()
        dim, hidden = shape.dim, shape.dim * shape.mlp_ratio
        self.heads = shape.heads
        self.scale = (dim // shape.heads if shape.scale_by_head else dim) ** -0.5
        self.norm1, self.qkv, self.out = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim)
        self.norm2, self.expand, self.contract = nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.out(self._attend(self.qkv(self.norm1(x))))
        return x + self.contract(functional.gelu(self.expand(self.norm2(x))))

    def _attend(self, qkv: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in qkv.chunk(3, -1))  # (B, heads, N, dim / heads)
        return functional.scaled_dot_product_attention(q, k, v, scale=self.scale).transpose(1, 2).flatten(2)


class KeypointEncoder(nn.Module):
    """Features (B, channels, h, w) → the joints' tokens (B, K, dim).

    Args:
        input_size: (height, width) of the images, px; h and w are a quarter of them.
    """

    def __init__(self, shape: TokenPoseShape, input_size: tuple[int, int], keypoints: int) -> None:
        super().__init__()
        self.patch = shape.patch(input_size)
        rows, columns = (side // STRIDE // patch for side, patch in zip(input_size, self.patch, strict=True))
        self.keypoint_token = nn.Parameter(torch.zeros(1, keypoints, shape.dim))
        self.pos_embedding = nn.Parameter(sine_positions(rows, columns, shape.dim), requires_grad=False)
        self.patch_to_embedding = nn.Linear(shape.channels * self.patch[0] * self.patch[1], shape.dim)
        self.layers = nn.ModuleList(EncoderLayer(shape) for _ in range(shape.depth))

    def forward(self, features: Tensor) -> Tensor:
        patches = self.patch_to_embedding(cut(features, self.patch)) + self.pos_embedding
        keypoints = self.keypoint_token.expand(features.shape[0], -1, -1)
        count = keypoints.shape[1]
        x = torch.cat([keypoints, patches], 1)
        for i, layer in enumerate(self.layers):
            if i > 0:  # positions are added again before every layer, to the patches only
                x = torch.cat([x[:, :count], x[:, count:] + self.pos_embedding], 1)
            x = layer(x)
        return x[:, :count]


def cut(features: Tensor, patch: tuple[int, int]) -> Tensor:
    """(B, C, h, w) → (B, patches, patch height * patch width * C): patches in raster order, channels fastest in each."""
    height, width = patch
    grid = features.unflatten(2, (-1, height)).unflatten(4, (-1, width))  # (B, C, rows, height, columns, width)
    return grid.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def sine_positions(rows: int, columns: int, dim: int) -> Tensor:
    """(1, rows * columns, dim) fixed positions in raster order: half the channels for the row, then half for the column."""
    along_y, along_x = _waves(rows, dim // 2), _waves(columns, dim // 2)
    both = torch.cat([along_y[:, None].expand(-1, columns, -1), along_x[None].expand(rows, -1, -1)], -1)
    return both.flatten(0, 1)[None]


def _waves(count: int, channels: int, temperature: float = 10000.0) -> Tensor:
    """(count, channels) sines and cosines in turn, of positions 1 to count scaled to 2 pi, with periods that grow along the channels."""
    periods = temperature ** (2 * torch.div(torch.arange(channels), 2, rounding_mode="floor") / channels)
    angles = (torch.arange(1, count + 1) / (count + 1e-6) * 2 * math.pi)[:, None] / periods
    return torch.stack([angles[:, ::2].sin(), angles[:, 1::2].cos()], 2).flatten(1)


def tokenpose(shape: TokenPoseShape, input_size: tuple[int, int], keypoints: int) -> tuple[nn.Module, KeypointEncoder]:
    """The convolutions (their first output is the feature) and the encoder, initialised as published."""
    backbone = HighResolutionTrunk(shape.trunk, targets=1) if shape.trunk else Stem(shape)
    encoder = KeypointEncoder(shape, input_size, keypoints)
    published_initialisation(backbone)
    token_initialisation(encoder)
    nn.init.trunc_normal_(encoder.keypoint_token, std=0.02)
    return backbone, encoder


def token_initialisation(module: nn.Module) -> None:
    """Linear layers from N(0, 0.02²), cut at ±2, and biases 0, as published for the transformer and its heads."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


TOKENPOSES: dict[str, TokenPoseShape] = {
    shape.name: shape
    for shape in (
        TokenPoseShape("tokenpose_s"),  # S-v1 as SimCC's table names it
        TokenPoseShape("tokenpose_s_v1"),
        TokenPoseShape("tokenpose_s_v2", grid=32),
        TokenPoseShape("tokenpose_b", trunk=HRNETS["hrnet_w32"], scale_by_head=True),
        TokenPoseShape("tokenpose_tiny", stem_width=32, layer1_width=16, layer1_blocks=1, dim=96, depth=4, heads=4, scale_by_head=True),
    )
}
