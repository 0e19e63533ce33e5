"""SHaRPose: high-resolution tokens only where the keypoints are.

An, Zhao, Gong, Wang, Wang, Yang 2024, "SHaRPose: Sparse High-Resolution Representation for Human Pose Estimation" (AAAI).
One vision transformer runs twice with the same weights. The coarse stage gets the image at half its size and predicts heatmaps
and their quality; its attention ranks the patches. The fine stage gets the patches with most attention at full resolution, the
others as before, and predicts the heatmaps again.

Both stages compute the heatmaps from keypoint tokens, so the output has the target's size at any input; patches are 16 px,
and a 16th of the input's height where that is smaller (the papers' smallest input is 256x192), so that 64x48 has as many
patches as 256x192.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.base.errors import FarposeError
from components.models.backbones.imagenet import ImageNetBackbone
from components.models.backbones.vit import MLP, VITS, PatchEmbedding, ViTShape, blocks
from components.models.variant import Method, Network, Variant

LARGEST_PATCH = 16  # px
MEMORY = 0.99  # of the running mean of attention over the blocks
MAE_IN_TIMM = {"vit_base": "vit_base_patch16_224.mae"}  # published training starts from MAE's weights; timm has no small ones
CHILDREN = 2  # fine patches per coarse patch, along each axis


@dataclass(frozen=True)
class SHaRPoseNetwork(Network):
    """Settings of the network.

    Attributes:
        keep: share of the coarse patches that are refined (alpha).
        gate: refine a person only if the predicted quality of the coarse heatmaps is below this; None refines always.
    """

    keep: float = 0.5
    gate: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep must be above 0 and at most 1, got {self.keep}")


class Coarse(NamedTuple):
    """The coarse stage's results, one entry per person.

    Attributes:
        tokens: (B, K, C) of the keypoints.
        quality: (B,) predicted OKS of the coarse heatmaps. Not bounded: the last activation is a GELU.
        scores: (B, N) how much the keypoints attend to each patch.
        order: (B, N) patches by falling score.
        embedded: (B, N, C) patches as they entered the blocks.
        features: (B, N, C) patches as they left them.
    """

    tokens: Tensor
    quality: Tensor
    scores: Tensor
    order: Tensor
    embedded: Tensor
    features: Tensor

    def of(self, persons: Tensor) -> Coarse:
        """The chosen persons' (bool (B,))."""
        return Coarse(*(part[persons] for part in self))


class Stages(NamedTuple):
    """Everything that the two stages compute, with every person refined.

    Attributes:
        coarse_heatmaps, fine_heatmaps: (B, K, h, w).
        coarse_tokens, fine_tokens: (B, K, C) of the keypoints.
        quality: (B,) predicted OKS of the coarse heatmaps.
        scores: (B, N) how much the keypoints attend to each coarse patch.
        selected: (B, n) coarse patches that are refined, by falling score.
    """

    coarse_heatmaps: Tensor
    fine_heatmaps: Tensor
    coarse_tokens: Tensor
    fine_tokens: Tensor
    quality: Tensor
    scores: Tensor
    selected: Tensor


class QualityPredictor(nn.Module):
    """Quality token (B, 1, C) → (B,), section "Quality predictor" of the paper; learns the OKS of the coarse heatmaps."""

    def __init__(self, width: int) -> None:
        super().__init__()
        parts = [nn.Linear(width, width), nn.GELU(), nn.Identity(), nn.Linear(width, width), nn.GELU(), nn.Identity()]
        self.mlp = nn.Sequential(*parts, nn.Linear(width, 1), nn.GELU())  # identities: the published code's dropouts of rate 0
        self.norm = nn.LayerNorm(width)

    def forward(self, token: Tensor) -> Tensor:
        return self.mlp(self.norm(token.mean(1)))[:, 0]


class SparseViT(ImageNetBackbone):
    """Normalised images (B, 3, H, W) → tokens (B, K, C) of the keypoints, coarse and fine.

    Args:
        grid: (rows, columns) of coarse patches.
        patch: side of a patch, px, in both stages.
        keep: share of the coarse patches that are refined, rounded up to whole patches.
        published: leave the last keypoint out of the patches' scores, as the released slice `[1:K]` does (row 0 is the quality
            token), and start tokens and positions at zero.
    """

    NOT_IN_IMAGENET_WEIGHTS = ("keypoint_tokens", "quality_token", "reuse_block.", "quality_predictor.")

    def __init__(self, shape: ViTShape, grid: tuple[int, int], patch: int, keypoints: int, keep: float, published: bool = False) -> None:
        super().__init__()
        patches, width = grid[0] * grid[1], shape.width
        self.shape, self.grid, self.keypoints = shape, grid, keypoints
        self.IMAGENET_NAME = MAE_IN_TIMM.get(shape.name, shape.name)
        self.small = grid[0] * patch, grid[1] * patch  # height and width of the coarse stage's image, px
        self.kept = math.ceil(keep * patches)
        self.scored = slice(1, keypoints if published else keypoints + 1)
        self.keypoint_tokens = nn.Parameter(torch.zeros(1, keypoints, width))
        self.quality_token = nn.Parameter(torch.zeros(1, 1, width))
        self.patch_embed = PatchEmbedding(patch, width)
        sizes = patches, patches * CHILDREN**2
        self.pos_embed_list = nn.ParameterList(nn.Parameter(torch.zeros(1, size, width)) for size in sizes)
        self.blocks = blocks(shape)
        self.norm = nn.LayerNorm(width)
        self.reuse_block = nn.Sequential(nn.LayerNorm(width), MLP(width))
        self.quality_predictor = QualityPredictor(width)
        if not published:
            for tokens in (self.keypoint_tokens, self.quality_token, *self.pos_embed_list):
                nn.init.trunc_normal_(tokens, std=0.02)

    def imagenet_adapted(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of a plain vision transformer (MAE's) with its positions and patches in this network's sizes.

        Positions are resized as published; for patches of fewer px the kernels are reduced, which the paper does not need.
        """
        taken, kernel, side = dict(weights), weights.get("patch_embed.proj.weight"), self.patch_embed.proj.kernel_size[0]
        positions = taken.pop("pos_embed", None)
        if kernel is not None and kernel.shape[-1] > side:
            smaller = functional.interpolate(kernel, (side, side), mode="area")
            taken["patch_embed.proj.weight"] = smaller * (kernel.shape[-1] / side) ** 2  # a flat image gives what it gave
        if positions is not None:
            edge = math.isqrt(positions.shape[1])
            image = positions[:, -edge * edge :].transpose(1, 2).unflatten(2, (edge, edge))  # without the class token's
            for number, factor in enumerate((1, CHILDREN)):
                size = self.grid[0] * factor, self.grid[1] * factor
                resized = functional.interpolate(image, size, mode="bicubic", align_corners=False)
                taken[f"pos_embed_list.{number}"] = resized.flatten(2).transpose(1, 2)
        return taken

    def coarse(self, images: Tensor) -> Coarse:
        """Tokens of the image at half its size, and the keypoints' attention to each patch (the paper's equations 5 and 6)."""
        halved = functional.interpolate(images, self.small, mode="bilinear", align_corners=False)  # the mean of 2x2 px
        embedded = self.patch_embed(halved) + self.pos_embed_list[0]
        first = torch.cat([self.quality_token, self.keypoint_tokens], 1).expand(images.shape[0], -1, -1)
        tokens, count = torch.cat([first, embedded], 1), first.shape[1]
        scores = images.new_zeros(())
        for number, block in enumerate(self.blocks):
            if number < len(self.blocks) // 4:
                tokens = block(tokens)
            else:
                tokens, weights = block.with_weights(tokens)  # type: ignore[operator]
                mined = weights.detach()[:, :, self.scored, count:].mean(1).sum(1)
                scores = MEMORY * scores + (1 - MEMORY) * mined
        quality, keypoints, features = self.norm(tokens).split([1, self.keypoints, embedded.shape[1]], 1)
        order = scores.topk(scores.shape[1]).indices  # sorts all; ONNX has no stable sort
        return Coarse(keypoints, self.quality_predictor(quality), scores, order, embedded, features)

    def fine(self, images: Tensor, coarse: Coarse) -> Tensor:
        """(B, K, C): the kept patches at full resolution, the others as they entered the coarse stage.

        The keypoints start from their learned tokens again; a patch's coarse features are added to its children.
        """
        rows, columns = self.grid
        children = (self.patch_embed(images) + self.pos_embed_list[1]).unflatten(1, (rows, CHILDREN, columns, CHILDREN))
        children = children.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # (B, N, 4, C), by parent
        children = children + self.reuse_block(coarse.features)[:, :, None]
        kept, rest = coarse.order[:, : self.kept], coarse.order[:, self.kept :]
        parts = [self.keypoint_tokens.expand(images.shape[0], -1, -1), _pick(children, kept).flatten(1, 2)]
        if self.kept < rows * columns:
            parts.append(_pick(coarse.embedded, rest))
        tokens = torch.cat(parts, 1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)[:, : self.keypoints]


class HeatmapHead(nn.Sequential):
    """Tokens (B, K, C) → heatmaps (B, K, h, w), the same layers for every keypoint.

    One linear layer where a token has at least a quarter as many numbers as the heatmap has cells, else two.
    """

    def __init__(self, width: int, size: tuple[int, int]) -> None:
        cells = size[0] * size[1]
        parts = [nn.LayerNorm(width), nn.Linear(width, cells)]
        if width < cells // 4:
            parts = [nn.LayerNorm(width), nn.Linear(width, cells // 2), nn.GELU(), nn.LayerNorm(cells // 2), nn.Linear(cells // 2, cells)]
        super().__init__(*parts)
        self.size = size

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens).unflatten(-1, self.size)


class SHaRPose(nn.Module):
    """(B, 3, H, W) normalised images → ((B, K, h, w) heatmaps,); in training coarse heatmaps, fine heatmaps, quality (B,).

    Args:
        gate: in evaluation, persons whose predicted quality is not below it keep their coarse heatmaps, which spares their fine
            stage; None refines everyone, in training as always. The gate decides per person. Where shapes must be known
            beforehand (export, compilation, counting on shapes) everyone is refined and the gate selects afterwards: the same
            output at the full cost.
    """

    def __init__(self, backbone: SparseViT, heatmap_size: tuple[int, int], gate: float | None) -> None:
        super().__init__()
        self.backbone, self.gate = backbone, gate
        self.head = HeatmapHead(backbone.shape.width, heatmap_size)
        self.layers = len(backbone.blocks)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        coarse = self.backbone.coarse(images)
        if self.training:
            return self.head(coarse.tokens), self.head(self.backbone.fine(images, coarse)), coarse.quality
        return (self.head(self._gated(images, coarse)),)

    def stages(self, images: Tensor) -> Stages:
        """Both stages' results and what decided between them; the gate is left open."""
        coarse = self.backbone.coarse(images)
        tokens = self.backbone.fine(images, coarse)
        selected = coarse.order[:, : self.backbone.kept]
        return Stages(
            self.head(coarse.tokens), self.head(tokens), coarse.tokens, tokens, coarse.quality, coarse.scores, selected
        )  # fmt: skip

    def published_outputs(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Coarse and fine heatmaps (B, K, h, w), with the gate open."""
        stages = self.stages(images)
        return stages.coarse_heatmaps, stages.fine_heatmaps

    def layer_of(self, name: str) -> int:
        """The layer of a parameter for layer-wise learning rates: 0 embeddings and tokens, i block i - 1, `layers` + 1 the rest."""
        part, _, rest = name.removeprefix("backbone.").partition(".")
        if part in ("keypoint_tokens", "quality_token", "patch_embed", "pos_embed_list"):
            return 0
        return int(rest.split(".")[0]) + 1 if part == "blocks" else self.layers + 1

    def _gated(self, images: Tensor, coarse: Coarse) -> Tensor:
        """Tokens (B, K, C): refined where the predicted quality is below the gate."""
        if self.gate is None:
            return self.backbone.fine(images, coarse)
        poor = coarse.quality < self.gate
        if images.is_meta or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return torch.where(poor[:, None, None], self.backbone.fine(images, coarse), coarse.tokens)
        tokens = coarse.tokens
        if poor.any():
            tokens = tokens.clone()
            tokens[poor] = self.backbone.fine(images[poor], coarse.of(poor)).to(tokens.dtype)
        return tokens


def _pick(tokens: Tensor, index: Tensor) -> Tensor:
    """The tokens (B, N, …) at index (B, n): (B, n, …)."""
    shape = *index.shape, *tokens.shape[2:]
    return tokens.gather(1, index.reshape(*index.shape, *([1] * (tokens.ndim - 2))).expand(shape))


def build(variant: Variant, published: bool = False) -> SHaRPose:
    """The variant's network with fresh weights.

    Raises:
        FarposeError: the input does not divide into patches of both stages.
    """
    height, width = variant.input_size
    patch = min(LARGEST_PATCH, height // LARGEST_PATCH)
    step = CHILDREN * patch
    if not patch or height % step or width % step:
        problem = f"an input of {height}x{width} px does not divide into coarse patches of {step} px"
        raise FarposeError(problem, where=f"variant {variant.name}", fix="use such as 64x48, 128x96, 256x192 or 384x288")
    backbone = SparseViT(
        VITS[variant.backbone], (height // step, width // step), patch, variant.num_keypoints, variant.network.keep, published
    )  # fmt: skip
    return SHaRPose(backbone, variant.heatmap_size, variant.network.gate)


def authors_key(key: str, variant: Variant) -> str:
    """Only the head has another name in the released code."""
    return f"keypoint_head.heatmap_mlp.{key.removeprefix('head.')}" if key.startswith("head.") else key


def exported(variant: Variant) -> Variant:
    """Every person is refined, because a recorded graph cannot spare one person's work."""
    return replace(variant, network=replace(variant.network, gate=None))


METHOD = Method(
    "sharpose",
    build,
    tuple(VITS),
    codec="sharpose",
    authors_key=authors_key,
    convention="unbiased",
    network=SHaRPoseNetwork,
    drops="vit_",
    counting="fvcore",
    uncounted=("gate",),
    sized=True,
    exported=exported,
)
