"""HigherPose: HigherHRNet with two transformers over the cells of its feature maps.

"Structure-Aware Transformer for Enhanced Low-Resolution Human Pose Estimation" (jcong0226/higherpose; the paper itself was not
available). HRNet's layer 1 is reduced to 4 channels at 1/8 of the image, goes through a first transformer, back to 1/4 and
next to the finest branch of stage 4; a 1x1 convolution merges both; the result goes through a second transformer and into
HigherHRNet's head. Nothing in the released code uses a skeleton; our own `limbpose` does.

`network.attention`:
    spatial    attention over the cells of each image, as the paper describes it; this is what we train
    published  what the released code does, see `heads.spatial_attention`: an image's result depends on its batch; for a
               batch of one image the attention adds one constant vector
    none       neither the transformers nor the layers around them: HigherHRNet itself

The networks of the first two have the same parameters. The released configurations differ: COCO's asks for six layers in either
transformer and sine positions; CrowdPose's names neither, which leaves the code's defaults, four layers and learned positions.

The released code runs only at the size that its table of positions was made for. Here any map gets positions, so that all are
scored under one geometry: sines are computed for it, learned ones are interpolated from the table (bilinear).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.models.backbones.blocks import Bottleneck, published_initialisation
from components.models.backbones.hrnet import HRNETS, HRNet, build_hrnet
from components.models.backbones.transpose import sine_positions
from components.models.heads.higher_resolution import HigherResolutionHead
from components.models.heads.spatial_attention import FEEDFORWARD, HEADS, SpatialTransformer, transformer_initialisation
from components.models.methods import higherhrnet
from components.models.naming import renamed
from components.models.variant import STRIDE, Method, Network, Variant

IGNORED = ("pos_embedding",)  # of authors' checkpoints: the second table once more
AUTHORS_PREFIXES = {
    "encoder_positions": "pos_embedding_en",
    "decoder_positions": "pos_embedding_de",
    "extract.": "extration.",  # sic
    "encoder.": "global_encoder.",
    "up.": "up.",
    "fuse.": "fusion.",
    "decoder.": "global_decoder.",
}


@dataclass(frozen=True)
class HigherPoseNetwork(Network):
    """Settings of the network.

    Attributes:
        attention: over the cells of one image ("spatial"), as in the released code ("published": the top left cell of each image,
            mixed over the batch), or no transformer at all ("none").
        layers: of either transformer; None for six (COCO's configuration), one on our tiny backbone.
        positions: "sine", a fixed table (COCO's configuration), or "learned", a table that is trained.
    """

    attention: Literal["spatial", "published", "none"] = "spatial"
    layers: int | None = None
    positions: Literal["sine", "learned"] = "sine"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers is not None and self.layers < 1:
            raise ValueError(f"layers must be at least 1, got {self.layers}")
        if self.attention == "none" and (self.layers is not None or self.positions != "sine"):
            raise ValueError("layers and positions have no meaning with attention: none")


@dataclass(frozen=True)
class HigherPoseShape:
    """How wide and how deep the two transformers are.

    Attributes:
        width: channels of the first, at 1/8; the second, at 1/4, has those of the backbone's finest branch.
        layers: of either (the code names them encoder and decoder; both are encoders).
        feedforward: hidden channels of their MLPs.
        heads: of their attention.
    """

    width: int = 4
    layers: int = 6
    feedforward: int = FEEDFORWARD
    heads: int = HEADS


SETTINGS, SHAPE = HigherPoseNetwork(), HigherPoseShape()
SHAPES = {"hrnet_tiny": HigherPoseShape(layers=1, feedforward=64, heads=1)}  # ours; others as published


class HigherPose(nn.Module):
    """(B, 3, H, W) normalised images → (B, 2K, H/4, W/4), heatmaps then tags, and heatmaps (B, K, H/2, W/2).

    Args:
        input_size: (height, width) of a training image, px; the tables of positions are made for it. Sines are parameters that
            are not trained, as in the published checkpoints.
        settings: of the variant; `layers` overrides the shape's.
        published: attend as the released code does, whatever the settings say.
    """

    HEAD_PARTS = ("head.", *AUTHORS_PREFIXES)  # all but the backbone, in its counts

    def __init__(
        self,
        backbone: HRNet,
        keypoints: int,
        input_size: tuple[int, int],
        shape: HigherPoseShape = SHAPE,
        settings: HigherPoseNetwork = SETTINGS,
        published: bool = False,
    ) -> None:
        super().__init__()
        width, features, layers = shape.width, backbone.channels, settings.layers or shape.layers
        published = published or settings.attention == "published"
        self.mixes_batch = published  # an image's output depends on its batch mates: score it alone, as its authors did
        self.backbone = backbone
        self.extract = nn.Conv2d(backbone.trunk.shape.layer1_width * Bottleneck.expansion, width, 1)
        self.encoder = SpatialTransformer(width, layers, shape.feedforward, shape.heads, published)
        self.up = nn.ConvTranspose2d(width, width, 4, 2, 1, bias=False)
        self.fuse = nn.Conv2d(features + width, features, 1)
        self.decoder = SpatialTransformer(features, layers, shape.feedforward, shape.heads, published)
        self.head = HigherResolutionHead(features, keypoints)
        self.cells = input_size[0] // STRIDE, input_size[1] // STRIDE
        half = self.cells[0] // 2, self.cells[1] // 2
        self.learned = settings.positions == "learned"
        self.encoder_positions = _table(half, width, self.learned)
        self.decoder_positions = _table(self.cells, features, self.learned)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        shallow = self.backbone.trunk.shallow(images)
        coarse = functional.avg_pool2d(self.extract(shallow), 2)
        coarse = self.up(self.encoder(coarse, self._positions(self.encoder_positions, coarse, 2)))
        fine = self.backbone.end(self.backbone.trunk.branch(shallow))
        fused = self.fuse(torch.cat([fine, coarse], 1))
        return self.head(self.decoder(fused, self._positions(self.decoder_positions, fused, 1)))

    def _positions(self, table: Tensor, features: Tensor, shrunk: int) -> Tensor:
        """The table (N, 1, C), or one for a map of another size: the same sines, or the learned positions interpolated."""
        size = features.shape[-2], features.shape[-1]
        made_for = self.cells[0] // shrunk, self.cells[1] // shrunk
        if size == made_for:
            return table
        if self.learned:
            grid = table.permute(1, 2, 0).unflatten(2, made_for)
            return functional.interpolate(grid, size, mode="bilinear", align_corners=False).flatten(2).permute(2, 0, 1)
        return sine_positions(size, features.shape[1]).to(features)[:, None]


def _table(size: tuple[int, int], width: int, learned: bool) -> nn.Parameter:
    """(N, 1, C) positions of a map's cells: sines that are not trained, or drawn from N(0, 1), as published."""
    table = torch.randn(size[0] * size[1], width) if learned else sine_positions(size, width)
    return nn.Parameter(table[:, None], requires_grad=learned)


def build(variant: Variant, published: bool = False) -> nn.Module:
    """HigherPose on the variant's HRNet.

    Convolutions and norms start as HigherHRNet's, linear layers by Xavier and Glorot. The three convolutions that no batch
    norm follows (`extract`, `up`, `fuse`) keep torch's own start, because a std of 0.001 would almost remove the signal.
    """
    settings: HigherPoseNetwork = variant.network
    if settings.attention == "none":
        return higherhrnet.build(variant, published)
    backbone = build_hrnet(variant.backbone, variant.network.branches)
    transformers = SHAPES.get(variant.backbone, SHAPE)
    model = HigherPose(backbone, variant.num_keypoints, variant.input_size, transformers, settings, published)
    published_initialisation(model)
    transformer_initialisation(model)
    for module in (model.extract, model.up, model.fuse):
        module.reset_parameters()
    return model


def authors_key(key: str, variant: Variant) -> str:
    """The name of `key` in the released code of HigherPose."""
    if key.startswith(tuple(AUTHORS_PREFIXES)):
        return renamed(key, AUTHORS_PREFIXES)
    return higherhrnet.authors_key(key, variant)


def any_size(variant: Variant) -> bool:
    """A recorded graph holds the table of positions of one size."""
    return variant.network.attention == "none"


METHOD = Method(
    "higherpose",
    build,
    tuple(HRNETS),
    codec="associative_embedding",
    authors_key=authors_key,
    approach="images",
    network=HigherPoseNetwork,
    drops="hrnet_",
    ignored=IGNORED,
    counting="summary_decimal",
    any_size=any_size,
)
