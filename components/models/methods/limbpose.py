"""LimbPose: HigherHRNet whose coarse heatmaps and tags are corrected by keypoint queries that know the skeleton.

Our own method, without a paper. HigherPose calls itself structure-aware but uses no skeleton (see `higherpose`); this is one
cheap way to use one. docs/limbpose.md says what it claims and what is not shown.

    queries   one learned vector per joint of the skeleton, for the whole image
    each layer, on the queries (norm first, added to its input):
        1. self-attention between joints, with a learned bias per head and per *distance along the limbs*
           (0 itself, 1 a limb's other end, …), so that a joint can attend to its neighbours without learning which joints they are
        2. cross-attention to the image: HRNet's stage 3 at 1/16, with sine positions on its keys
        3. MLP
    filters   each query gives two 1x1 filters over the finest branch: what they find is added to the joint's heatmap and to its
              tags, before HigherHRNet's finer head uses both

The filters start at zero, so an untrained LimbPose is HigherHRNet to the bit and takes its weights. The bias depends
only on the distance: left and right are equal, and any skeleton works.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from components.models.backbones.blocks import conv1x1, published_initialisation
from components.models.backbones.hrnet import HRNETS, HRNet, build_hrnet
from components.models.backbones.transpose import sine_positions
from components.models.heads.higher_resolution import HigherResolutionHead
from components.models.methods import higherhrnet
from components.models.variant import Method, Network, Variant

LAYERS, HEADS = 2, 4
OUR_PARTS = ("queries.", "filters.", "project.")


@dataclass(frozen=True)
class LimbPoseNetwork(Network):
    """Settings of the network.

    Attributes:
        limb_bias: keypoint queries attend by the distance along the skeleton; False leaves the bias out.
    """

    limb_bias: bool = True


def limb_distances(keypoints: int, limbs: Sequence[tuple[int, int]]) -> np.ndarray:
    """The number of limbs between joints: (K, K) int64; joints that no limbs connect are one further than the furthest that are."""
    apart = keypoints  # more than any path
    distances = np.full((keypoints, keypoints), apart)
    np.fill_diagonal(distances, 0)
    for a, b in limbs:
        distances[a, b] = distances[b, a] = 1
    for middle in range(keypoints):  # Floyd and Warshall
        distances = np.minimum(distances, distances[:, middle, None] + distances[None, middle])
    return np.minimum(distances, distances[distances < apart].max() + 1)


class Attention(nn.Module):
    """Multi-head attention of queries (B, Q, C) over places (B, N, C), with a bias (heads, Q, N) on the logits."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        parts = zip((self.query, self.key, self.value), (query, key, value), strict=True)
        q, k, v = (linear(x).unflatten(2, (HEADS, -1)).transpose(1, 2) for linear, x in parts)  # (B, heads, tokens, d)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias[None].to(q))
        return self.out(mixed.transpose(1, 2).flatten(2))


class LimbBias(nn.Module):
    """The bias of each head on the logits of joint i for joint j: (heads, K, K), equal for equal distances.

    Starts at 0, where all joints are alike.
    """

    distances: Tensor

    def __init__(self, distances: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("distances", torch.from_numpy(distances), persistent=False)  # from_numpy: numbers on any device
        self.by_distance = nn.Parameter(torch.zeros(HEADS, int(distances.max()) + 1))

    def forward(self) -> Tensor:
        return self.by_distance[:, self.distances]


class QueryLayer(nn.Module):
    """Queries (B, K, C) attend to each other, then to the image (B, N, C), then pass an MLP."""

    def __init__(self, width: int, bias: LimbBias | None) -> None:
        super().__init__()
        self.norm_self, self.norm_cross, self.norm_mlp = (nn.LayerNorm(width) for _ in range(3))
        self.self_attention, self.cross_attention = Attention(width), Attention(width)
        self.bias = bias
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, queries: Tensor, places: Tensor, positions: Tensor) -> Tensor:
        x = self.norm_self(queries)
        queries = queries + self.self_attention(x, x, x, self.bias() if self.bias is not None else None)
        queries = queries + self.cross_attention(self.norm_cross(queries), places + positions, places)
        return queries + self.mlp(self.norm_mlp(queries))


class KeypointQueries(nn.Module):
    """Features (B, C, h, w) → the joints' queries (B, K, C).

    Args:
        distances: (K, K) along the limbs, or None without their bias.
    """

    def __init__(self, width: int, keypoints: int, distances: np.ndarray | None) -> None:
        super().__init__()
        self.joints = nn.Parameter(torch.randn(keypoints, width))
        self.norm_image, self.norm_end = nn.LayerNorm(width), nn.LayerNorm(width)
        self.layers = nn.ModuleList(QueryLayer(width, None if distances is None else LimbBias(distances)) for _ in range(LAYERS))

    def forward(self, features: Tensor) -> Tensor:
        places = self.norm_image(features.flatten(2).transpose(1, 2))
        with features.device:  # made there: an upload would wait for the device, which a step recorded as a CUDA graph cannot
            positions = sine_positions((features.shape[-2], features.shape[-1]), features.shape[1]).to(places)[None]
        queries = self.joints[None].expand(features.shape[0], -1, -1)  # not len(), which a recorded graph takes for a constant
        for layer in self.layers:
            queries = layer(queries, places, positions)
        return self.norm_end(queries)


class LimbPose(nn.Module):
    """(B, 3, H, W) normalised images → (B, 2K, H/4, W/4), heatmaps then tags, and heatmaps (B, K, H/2, W/2).

    Args:
        distances: (K, K) along the skeleton's limbs, or None for joints that know of none.
    """

    HEAD_PARTS = ("head.", *OUR_PARTS)  # all but the backbone, in its counts

    def __init__(self, backbone: HRNet, keypoints: int, distances: np.ndarray | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = HigherResolutionHead(backbone.channels, keypoints)
        width = backbone.trunk.shape.channels(3)[2]
        self.queries = KeypointQueries(width, keypoints, distances)
        self.project = nn.Sequential(conv1x1(backbone.channels, backbone.channels), nn.BatchNorm2d(backbone.channels))
        self.filters = nn.Linear(width, 2 * backbone.channels)  # of the heatmap and of the tags

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        branches = self.backbone.trunk(images)
        queries = self.queries(branches[2])
        features = self.backbone.end(branches)
        return self.head(features, self._found(queries, features))

    def _found(self, queries: Tensor, features: Tensor) -> Tensor:
        """What the joints' filters find: (B, 2K, h, w), for the heatmaps and then for the tags.

        Scaled, because Adam moves all weights behind one number at once: by a step it changes as much as HigherHRNet's own.
        """
        filters = self.filters(queries).unflatten(2, (2, -1)).transpose(1, 2).flatten(1, 2)  # (B, 2K, C)
        scale = (queries.shape[2] * features.shape[1]) ** -0.5
        return (filters @ self.project(features).flatten(2) * scale).unflatten(2, features.shape[-2:])


def build(variant: Variant, published: bool = False) -> LimbPose:
    """LimbPose for the variant's skeleton; its HigherHRNet starts as published (`published` changes nothing: nobody published it)."""
    backbone = build_hrnet(variant.backbone, variant.network.branches)
    limbs = variant.skeleton.limb_indices
    distances = limb_distances(variant.num_keypoints, limbs) if variant.network.limb_bias else None
    model = LimbPose(backbone, variant.num_keypoints, distances)
    published_initialisation(model)
    for part in model.filters.parameters():
        nn.init.zeros_(part)
    return model


def authors_key(key: str, variant: Variant) -> str:
    """HigherHRNet's names for its parameters, and our own names for the others."""
    return key if key.startswith(OUR_PARTS) else higherhrnet.authors_key(key, variant)


METHOD = Method(
    "limbpose",
    build,
    tuple(HRNETS),
    codec="associative_embedding",
    authors_key=authors_key,
    approach="images",
    network=LimbPoseNetwork,
    drops="hrnet_",
    counting="summary_decimal",
)
