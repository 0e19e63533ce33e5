"""The plain vision transformer (Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", section 3.1), in SHaRPose's form.

Layer norms before attention and MLP with eps 1e-5 (MAE trains with 1e-6), biases on queries, keys and values, an MLP four times
as wide, stochastic depth that rises linearly to `drop_path`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

MLP_RATIO = 4


@dataclass(frozen=True)
class ViTShape:
    """Attributes:
    width: channels of a token.
    heads: attention heads; SHaRPose has 12 in both sizes, unlike the ViT-S of the image classifiers (6).
    drop_path: share of training samples that skip the last block; earlier blocks are skipped less often.
    """

    name: str
    width: int
    heads: int = 12
    depth: int = 12
    drop_path: float = 0.1


class PatchEmbedding(nn.Module):
    """Images (B, 3, H, W) → tokens (B, H/patch · W/patch, width), row by row."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention over tokens (B, T, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        queries, keys, values = self._split(tokens)
        return self._join(functional.scaled_dot_product_attention(queries, keys, values))

    def with_weights(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens, and how much each of them attends to each other: (B, heads, T, T), rows sum to 1."""
        queries, keys, values = self._split(tokens)
        scale = queries.shape[-1] ** -0.5
        weights = ((queries @ keys.transpose(-2, -1)) * scale).softmax(-1)
        return self._join(weights @ values), weights

    def _split(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        queries, keys, values = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return queries, keys, values

    def _join(self, attended: Tensor) -> Tensor:
        return self.proj(attended.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers with a GELU between them, on the last axis."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, MLP_RATIO * width)
        self.fc2 = nn.Linear(MLP_RATIO * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(tokens)))


class Block(nn.Module):
    """Attention and MLP on tokens (B, T, width), each with an identity path.

    Args:
        drop_path: share of training samples for which each of the two is left out (Huang et al. 2016, stochastic depth).
    """

    def __init__(self, width: int, heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self._after(tokens, self.attn(self.norm1(tokens)))

    def with_weights(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, and the attention's weights (B, heads, T, T)."""
        change, weights = self.attn.with_weights(self.norm1(tokens))
        return self._after(tokens, change), weights

    def _after(self, tokens: Tensor, change: Tensor) -> Tensor:
        tokens = tokens + self._dropped(change)
        return tokens + self._dropped(self.mlp(self.norm2(tokens)))

    def _dropped(self, change: Tensor) -> Tensor:
        if not (self.training and self.drop_path):
            return change
        kept = 1 - self.drop_path
        return change * torch.empty_like(change[:, :1, :1]).bernoulli_(kept) / kept


def blocks(shape: ViTShape) -> nn.ModuleList:
    """The shape's blocks."""
    last = max(shape.depth - 1, 1)
    return nn.ModuleList(Block(shape.width, shape.heads, shape.drop_path * i / last) for i in range(shape.depth))


VITS: dict[str, ViTShape] = {
    shape.name: shape
    for shape in (
        ViTShape("vit_small", width=384),
        ViTShape("vit_base", width=768),
        ViTShape("vit_tiny", width=64, heads=2, depth=3, drop_path=0.0),
    )
}
