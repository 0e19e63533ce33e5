"""TokenPose with heatmaps: every joint's token becomes that joint's map.

Li et al. 2021, "TokenPose: Learning Keypoint Tokens for Human Pose Estimation". Crops, targets and decoding are DARK's, as in the
released code. Released: S-v1, S-v2 and B at 256x192. At 64x64, 64x48 and 128x96 their patches do not divide the feature or leave
the code's 16 patches or fewer, which it refuses; ours follow the rule of `components.models.backbones.tokenpose`.
"""

from __future__ import annotations

from torch import Tensor, nn

from components.models.backbones.tokenpose import TOKENPOSES, KeypointEncoder, token_initialisation, tokenpose
from components.models.variant import Method, Variant


class TokenPose(nn.Module):
    """(B, 3, H, W) normalised images → ((B, K, H/4, W/4),)."""

    def __init__(self, backbone: nn.Module, encoder: KeypointEncoder, dim: int, heatmap_size: tuple[int, int]) -> None:
        super().__init__()
        self.backbone, self.encoder = backbone, encoder
        self.head = heatmap_head(dim, heatmap_size)
        self.heatmap_size = heatmap_size

    def forward(self, images: Tensor) -> tuple[Tensor]:
        tokens = self.encoder(self.backbone(images)[0])
        return (self.head(tokens).unflatten(-1, self.heatmap_size),)


def heatmap_head(dim: int, heatmap_size: tuple[int, int]) -> nn.Sequential:
    """Tokens (B, K, dim) → cells (B, K, H W): over a hidden layer of H W / 8 where that is at least twice as wide as a token."""
    cells = heatmap_size[0] * heatmap_size[1]
    hidden = cells // 8
    if dim > hidden / 2:
        return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, cells))
    return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.LayerNorm(hidden), nn.Linear(hidden, cells))


def build(variant: Variant, published: bool = False) -> TokenPose:
    """K heatmaps on the variant's TokenPose, initialised as published; the released code has no error to keep."""
    shape = TOKENPOSES[variant.backbone]
    backbone, encoder = tokenpose(shape, variant.input_size, variant.num_keypoints)
    model = TokenPose(backbone, encoder, shape.dim, variant.heatmap_size)
    token_initialisation(model.head)
    return model


_LAYER = {
    "norm1": "0.fn.norm",
    "qkv": "0.fn.fn.to_qkv",
    "out": "0.fn.fn.to_out.0",
    "norm2": "1.fn.norm",
    "expand": "1.fn.fn.net.0",
    "contract": "1.fn.fn.net.3",
}


def authors_key(key: str, variant: Variant) -> str:
    """S: everything under `features.`; B and the like: `pre_feature.` for the convolutions, `transformer.` for the rest."""
    part, rest = key.split(".", 1)
    on_hrnet = TOKENPOSES[variant.backbone].trunk is not None
    if part == "backbone":
        return ("pre_feature." if on_hrnet else "features.") + rest
    prefix = "transformer." if on_hrnet else "features."
    if part == "head":
        return f"{prefix}mlp_head.{rest}"
    if rest.startswith("layers."):
        _, number, layer, leaf = rest.split(".")
        return f"{prefix}transformer.layers.{number}.{_LAYER[layer]}.{leaf}"
    return prefix + rest


METHOD = Method("tokenpose", build, tuple(TOKENPOSES), "dark", authors_key, convention="dark", label="", sized=True)
