"""HRFormer: HRNet whose residual blocks are transformer blocks with attention inside local windows.

Yuan, Fu, Huang, Lin, Zhang, Chen, Wang 2021, "HRFormer: High-Resolution Transformer for Dense Prediction", section 3, as its
released pose code computes it:

- windows of 7x7 cells lie on the map padded with zeros to a multiple of 7, as much before as after. The padding comes after
  the layer norm and before the projections, so padded cells are tokens (keys and values are the biases) and take part;
- the relative position bias of section 3.1 is in the checkpoints but is not added (`relative_positions=True` adds it);
- the MLP ends in batch norm *and* GELU: its branch of the residual sum is never below -0.17;
- a module's blocks have the same stochastic depth on every branch.

All names inside are those of the released checkpoints. Ordinary batch norms replace its synchronised ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.models.backbones.blocks import Bottleneck, HighResolutionStem, conv1x1, published_initialisation
from components.models.backbones.hrnet import Transition
from components.models.backbones.imagenet import ImageNetBackbone
from components.models.resizing import bilinear

BRANCHES = 4


@dataclass(frozen=True)
class HRFormerShape:
    """How wide and how deep an HRFormer is.

    Attributes:
        width: channels of the finest branch; each coarser one has twice as many.
        modules: modules in stages 2, 3 and 4.
        blocks: transformer blocks per branch and module.
        heads: attention heads of the finest branch; each coarser one has twice as many.
        mlp_ratio: hidden channels of an MLP over those of its branch.
        window: side of an attention window, cells.
        drop_path: share of training samples that skip the last block; the first ones are never skipped.
        layer1_width, layer1_blocks: the bottlenecks before stage 2 (they output 4 layer1_width channels).
        stem_width: channels of the two stride-2 convolutions.
    """

    name: str
    width: int = 32
    modules: tuple[int, int, int] = (1, 4, 2)
    blocks: int = 2
    heads: int = 1
    mlp_ratio: int = 4
    window: int = 7
    drop_path: float = 0.1
    layer1_width: int = 64
    layer1_blocks: int = 2
    stem_width: int = 64

    def channels(self, branches: int) -> list[int]:
        return [self.width * 2**branch for branch in range(branches)]


def to_windows(cells: Tensor, window: int) -> Tensor:
    """(B, H, W, C), H and W multiples of `window` → (B H W / window², window², C), windows and their cells row by row."""
    batch, height, width, channels = cells.shape
    grid = cells.reshape(batch, height // window, window, width // window, window, channels)
    return grid.transpose(2, 3).reshape(-1, window * window, channels)


def from_windows(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """The inverse of `to_windows`: → (B, height, width, C)."""
    channels = windows.shape[-1]
    grid = windows.reshape(-1, height // window, width // window, window, window, channels)
    return grid.transpose(2, 3).reshape(-1, height, width, channels)


def relative_position_index(window: int, device: torch.device | None = None) -> Tensor:
    """Row of the bias table for every pair of a window's cells, (window², window²) int64: (Δy + w - 1)(2 w - 1) + Δx + w - 1."""
    side = torch.arange(window, device=device)
    row = side[:, None].expand(window, window).flatten()
    column = side[None, :].expand(window, window).flatten()
    down, right = row[:, None] - row + window - 1, column[:, None] - column + window - 1
    return down * (2 * window - 1) + right


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows (N, window², channels) → the same shape (equation 1).

    Args:
        relative_positions: add the learned bias. If not, its table stays in the state but is not trained.
    """

    def __init__(self, channels: int, heads: int, window: int, relative_positions: bool) -> None:
        super().__init__()
        self.heads, self.window, self.relative_positions = heads, window, relative_positions
        table = torch.zeros((2 * window - 1) ** 2, heads)
        self.relative_position_bias_table = nn.Parameter(table, requires_grad=relative_positions)
        self.q_proj, self.k_proj = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.v_proj, self.out_proj = nn.Linear(channels, channels), nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = (self._split(project(tokens)) for project in (self.q_proj, self.k_proj, self.v_proj))
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=self._bias())
        mixed = mixed.transpose(1, 2).flatten(2)
        return functional.linear(mixed, self.out_proj.weight, self.out_proj.bias)  # no layer call: the paper's counter must miss it

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (N, heads, window², channels / heads)

    def _bias(self) -> Tensor | None:
        if not self.relative_positions:
            return None
        table = self.relative_position_bias_table
        return table[relative_position_index(self.window, table.device)].permute(2, 0, 1)  # (heads, window², window²)


class LocalAttention(nn.Module):
    """Pads cells (B, H, W, channels) to whole windows, attends inside them, and cuts the padding off again."""

    def __init__(self, channels: int, heads: int, window: int, relative_positions: bool) -> None:
        super().__init__()
        self.window = window
        self.attn = WindowAttention(channels, heads, window, relative_positions)

    def forward(self, cells: Tensor) -> Tensor:
        height, width = cells.shape[1:3]
        (top, bottom), (left, right) = self._padding(height), self._padding(width)
        padded = functional.pad(cells, (0, 0, left, right, top, bottom))
        mixed = from_windows(self.attn(to_windows(padded, self.window)), self.window, *padded.shape[1:3])
        return mixed[:, top : top + height, left : left + width]

    def _padding(self, length: int) -> tuple[int, int]:
        surplus = -length % self.window
        return surplus // 2, surplus - surplus // 2


class DepthwiseMLP(nn.Module):
    """1x1, depthwise 3x3 and 1x1 convolutions, each with batch norm and GELU (figure 2): (B, channels, H, W) → the same shape."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.norm1 = nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden)
        self.dw3x3, self.norm2 = nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden), nn.BatchNorm2d(hidden)
        self.fc2, self.norm3 = nn.Conv2d(hidden, channels, 1), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.gelu(self.norm1(self.fc1(x)))
        x = functional.gelu(self.norm2(self.dw3x3(x)))
        return functional.gelu(self.norm3(self.fc2(x)))


class TransformerBlock(nn.Module):
    """Local attention and depthwise MLP, each with an identity path: (B, channels, H, W) → the same shape.

    Args:
        drop_path: share of training samples for which each of the two is left out (Huang et al. 2016, stochastic depth).
    """

    def __init__(self, shape: HRFormerShape, branch: int, drop_path: float, relative_positions: bool) -> None:
        super().__init__()
        channels = shape.channels(BRANCHES)[branch]
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = LocalAttention(channels, shape.heads * 2**branch, shape.window, relative_positions)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = DepthwiseMLP(channels, channels * shape.mlp_ratio)

    def forward(self, x: Tensor) -> Tensor:
        cells = x.permute(0, 2, 3, 1)
        cells = cells + self._dropped(self.attn(self.norm1(cells)))
        x = cells.permute(0, 3, 1, 2)
        return x + self._dropped(self.mlp(self.norm2(cells).permute(0, 3, 1, 2)))

    def _dropped(self, change: Tensor) -> Tensor:
        if not (self.training and self.drop_path):
            return change
        kept = 1 - self.drop_path
        return change * change.new_empty(len(change), 1, 1, 1).bernoulli_(kept) / kept


class HRFormerModule(nn.Module):
    """Transformer blocks on every branch, then every branch's sum over all branches (figure 1), finest first.

    Args:
        drop_path: of the blocks of a branch, in order.
    """

    def __init__(self, shape: HRFormerShape, branches: int, drop_path: list[float], relative_positions: bool) -> None:
        super().__init__()
        channels = shape.channels(branches)
        self.branches = nn.ModuleList(
            nn.Sequential(*(TransformerBlock(shape, branch, rate, relative_positions) for rate in drop_path)) for branch in range(branches)
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_fuse_path(channels, source, target) for source in range(branches)) for target in range(branches)
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        features = [branch(x) for branch, x in zip(self.branches, features, strict=True)]
        return [self._fuse(target, features) for target in range(len(features))]

    def _fuse(self, target: int, features: list[Tensor]) -> Tensor:
        paths: nn.ModuleList = self.fuse_layers[target]  # type: ignore[assignment]
        moved = [path(x) for path, x in zip(paths, features, strict=True)]
        size = features[target].shape[-2:]
        finer, coarser = moved[: target + 1], moved[target + 1 :]
        resized = [bilinear(x, size) for x in coarser]
        return self.relu(sum([*finer[1:], *resized], start=finer[0]))


def _fuse_path(channels: list[int], source: int, target: int) -> nn.Module:
    inputs, outputs = channels[source], channels[target]
    if source == target:
        return nn.Identity()
    if source > target:
        return nn.Sequential(conv1x1(inputs, outputs), nn.BatchNorm2d(outputs))
    steps = [_halve(inputs, inputs, relu=True) for _ in range(target - source - 1)]
    return nn.Sequential(*steps, _halve(inputs, outputs, relu=False))


def _halve(inputs: int, outputs: int, relu: bool) -> nn.Sequential:
    depthwise = nn.Conv2d(inputs, inputs, 3, 2, 1, groups=inputs, bias=False)
    step = nn.Sequential(depthwise, nn.BatchNorm2d(inputs), conv1x1(inputs, outputs), nn.BatchNorm2d(outputs))
    if relu:
        step.append(nn.ReLU(inplace=True))
    return step


class HRFormer(HighResolutionStem, ImageNetBackbone):
    """(B, 3, H, W) normalised images → the finest branch (B, channels, H/4, W/4), or all four (`pyramid`).

    Every fusion resamples to its target's size, so sizes need not be powers of two apart (64x48: 16x12, 8x6, 4x3, 2x2).
    The last module outputs all branches, as in the released configurations, also where only the finest is used.

    Args:
        relative_positions: add the learned relative position bias, which the released pose code leaves out.
        multi_scale: the coarser branches are used; if not, the last fusions into them are not trained.
    """

    def __init__(self, shape: HRFormerShape, relative_positions: bool = False, multi_scale: bool = True) -> None:
        super().__init__(shape.stem_width, shape.layer1_width, shape.layer1_blocks)
        self.shape = shape
        self.channels, self.pyramid_channels = shape.width, tuple(shape.channels(BRANCHES))
        self.transition1 = Transition([shape.layer1_width * Bottleneck.expansion], shape.channels(2))
        self.transition2 = Transition(shape.channels(2), shape.channels(3))
        self.transition3 = Transition(shape.channels(3), shape.channels(4))
        self.stage2, self.stage3, self.stage4 = _stages(shape, relative_positions)
        if not multi_scale:
            self.stage4[-1].fuse_layers[1:].requires_grad_(False)  # type: ignore[index]

    def forward(self, images: Tensor) -> Tensor:
        return self.pyramid(images)[0]

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Every branch, (B, pyramid_channels[i], ⌈H / 2ⁱ⁺²⌉, ⌈W / 2ⁱ⁺²⌉), finest first."""
        features = self.stage2(self.transition1([self.shallow(images)]))
        features = self.stage3(self.transition2(features))
        return self.stage4(self.transition3(features))


def _stages(shape: HRFormerShape, relative_positions: bool) -> list[nn.Sequential]:
    """Stages 2, 3 and 4; stochastic depth rises linearly over all their blocks."""
    total = sum(shape.modules) * shape.blocks
    rates = iter([shape.drop_path * i / max(total - 1, 1) for i in range(total)])
    return [
        nn.Sequential(
            *(HRFormerModule(shape, branches, [next(rates) for _ in range(shape.blocks)], relative_positions) for _ in range(modules))
        )
        for branches, modules in enumerate(shape.modules, start=2)
    ]


def hrformer_initialisation(model: nn.Module) -> None:
    """Convolutions and batch norms as the released pose networks; linear layers and bias tables from N(0, 0.02²) cut at ±2."""
    published_initialisation(model)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        elif isinstance(module, WindowAttention):
            nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)


HRFORMERS: dict[str, HRFormerShape] = {
    shape.name: shape
    for shape in (
        HRFormerShape("hrformer_s"),
        HRFormerShape(
            "hrformer_tiny", width=16, modules=(1, 1, 1), blocks=1, drop_path=0.0, layer1_width=16, layer1_blocks=1, stem_width=32
        ),
    )
}
