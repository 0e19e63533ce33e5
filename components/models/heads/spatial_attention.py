"""HigherPose's transformer over the cells of a feature map, with the attention that its paper describes or that its code runs.

"Structure-Aware Transformer for Enhanced Low-Resolution Human Pose Estimation" (jcong0226/higherpose). Its layer differs from
a standard one: keys and values come from the unnormalised tokens through a 1x1 depthwise convolution and a batch norm, and
positions are added to the values as well.

Tokens are laid out (N, B, C), N cells of each of B images. The released code passes them to an attention that expects
(batch, sequence, channels), so each cell attends to the same cell of the *other images of the batch*. It also takes the result
for a tuple and keeps only its first row: the result of the top left cells is added to every cell.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

HEADS, FEEDFORWARD, DROPOUT = 4, 2048, 0.1
ALIGNMENT = 8  # channels of a head that the memory-bounded kernels of a GPU need a multiple of


def attend(query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0) -> Tensor:
    """softmax(q kᵀ / √d) v on (…, tokens, d), without the whole matrix of weights in memory where a fused kernel exists.

    At 512x512 there are 16,384 tokens: a matrix of 1 GB per head. A head of HigherPose's first transformer has one channel,
    which the fused kernels of a GPU refuse; added zeros change neither the weights nor the result.
    """
    depth = query.shape[-1]
    surplus = -depth % ALIGNMENT if query.is_cuda else 0
    if surplus:
        query, key, value = (functional.pad(x, (0, surplus)) for x in (query, key, value))
    return functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=depth**-0.5)[..., :depth]


class MultiHeadAttention(nn.Module):
    """Attention of tokens (N, B, C) over the N cells of each image: (N, B, C).

    Args:
        published: over the batch instead, and only what the first cells find, (1, B, C).

    Attention weights are dropped in training only as published, where a row has as many as the batch has images. Over
    thousands of cells dropping a tenth of them averages out, and no fused kernel of a CPU can do it.
    """

    def __init__(self, width: int, heads: int = HEADS, published: bool = False) -> None:
        super().__init__()
        self.heads, self.published = heads, published
        self.linears = nn.ModuleList(nn.Linear(width, width) for _ in range(4))  # of queries, keys, values and the result

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        order = (0, 2, 1, 3) if self.published else (1, 2, 0, 3)  # attention is over the next to last axis: images, or cells
        projections = zip(self.linears, (query, key, value), strict=False)
        q, k, v = (linear(x).unflatten(2, (self.heads, -1)).permute(order) for linear, x in projections)
        mixed = attend(q, k, v, DROPOUT if self.published and self.training else 0.0)
        back = tuple(order.index(axis) for axis in range(4))
        mixed = self.linears[3](mixed.permute(back).flatten(2))
        return mixed[:1] if self.published else mixed


class SpatialLayer(nn.Module):
    """Tokens (N, B, C) → (N, B, C): attention and MLP, each added to its input; norms come first, and none comes last.

    Args:
        feedforward: hidden channels of the MLP.
    """

    def __init__(self, width: int, feedforward: int = FEEDFORWARD, heads: int = HEADS, published: bool = False) -> None:
        super().__init__()
        self.self_attn = MultiHeadAttention(width, heads, published)
        self.linear1, self.linear2 = nn.Linear(width, feedforward), nn.Linear(feedforward, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dw = nn.Sequential(nn.Conv2d(width, width, 1, groups=width), nn.BatchNorm2d(width))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Positions: (N, 1, C)."""
        query = self.norm1(tokens) + positions
        context = self.dw(tokens.permute(1, 2, 0)[..., None])[..., 0].permute(2, 0, 1) + positions
        tokens = tokens + self.dropout(self.self_attn(query, context, context))
        hidden = self.dropout(functional.gelu(self.linear1(self.norm2(tokens))))
        return tokens + self.dropout(self.linear2(hidden))


class SpatialTransformer(nn.Module):
    """Layers on the cells of a map: (B, C, h, w) → (B, C, h, w)."""

    def __init__(self, width: int, layers: int, feedforward: int = FEEDFORWARD, heads: int = HEADS, published: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(SpatialLayer(width, feedforward, heads, published) for _ in range(layers))

    def forward(self, features: Tensor, positions: Tensor) -> Tensor:
        """Positions: (h w, 1, C)."""
        tokens = features.flatten(2).permute(2, 0, 1).contiguous()
        for layer in self.layers:
            tokens = layer(tokens, positions)
        return tokens.permute(1, 2, 0).unflatten(2, features.shape[-2:])


def transformer_initialisation(model: nn.Module) -> None:
    """Every matrix of the layers by Xavier and Glorot, as published; biases of linear layers keep torch's own (±1 / √fan-in)."""
    for module in model.modules():
        if isinstance(module, SpatialLayer):
            for matrix in module.parameters():
                if matrix.ndim > 1:
                    nn.init.xavier_uniform_(matrix)
