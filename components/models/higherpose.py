"""HigherPose: HigherHRNet with two transformers over the cells of its feature maps.

"Structure-Aware Transformer for Enhanced Low-Resolution Human Pose Estimation" (jcong0226/higherpose; the paper itself is not
at hand). HRNet's layer 1 is reduced to 4 channels at 1/8 of the image, goes through a first transformer, back to 1/4 and
beside the finest branch of stage 4; what a 1x1 convolution makes of both goes through a second transformer and into
HigherHRNet's head. Nothing in the released code knows a skeleton; `limbpose` is our own that does.

`network.attention`:
    spatial    attention over the cells of each image, as a reader of the paper expects; what we train
    published  what the released code does, see `heads.spatial_attention`: an image's result depends on its batch, and alone in
               it, its attention adds one constant vector
    none       neither transformer nor what leads to and from them: HigherHRNet itself

The networks of the first two have the same parameters. The released code runs only at the size that its table of positions was
made for; here both compute the same sines for whatever map they get, so that all are scored under one geometry.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.models import higherhrnet
from components.models.backbones import HRNETS
from components.models.backbones.blocks import Bottleneck, published_initialisation
from components.models.backbones.hrnet import HighResolutionEnd, HighResolutionTrunk, HRNet
from components.models.backbones.transpose import sine_positions
from components.models.heads.higher_resolution import HigherResolutionHead
from components.models.heads.spatial_attention import FEEDFORWARD, HEADS, SpatialTransformer, transformer_initialisation
from components.models.variant import STRIDE, Variant

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
class HigherPoseShape:
    """How wide and how deep the two transformers are.

    Attributes:
        width: channels of the first, at 1/8; the second, at 1/4, has those of the backbone's finest branch.
        encoder_layers, decoder_layers: layers of the first and of the second (which the code names so; both are encoders).
        feedforward: hidden channels of their MLPs.
        heads: of their attention.
    """

    width: int = 4
    encoder_layers: int = 6
    decoder_layers: int = 6
    feedforward: int = FEEDFORWARD
    heads: int = HEADS


SHAPES = {"hrnet_tiny": HigherPoseShape(encoder_layers=1, decoder_layers=1, feedforward=64, heads=1)}  # ours; others as published


class HigherPose(nn.Module):
    """(B, 3, H, W) normalised images → (B, 2K, H/4, W/4), heatmaps then tags, and heatmaps (B, K, H/2, W/2).

    Args:
        input_size: (height, width) of a training image, px; the tables of positions are made for it. They are parameters that
            are not trained, as in the published checkpoints.
        published: attend as the released code does.
    """

    HEAD_PARTS = ("head.", *AUTHORS_PREFIXES)  # all but the backbone, in its counts

    def __init__(self, backbone: HRNet, keypoints: int, shape: HigherPoseShape, input_size: tuple[int, int], published: bool) -> None:
        super().__init__()
        width, features = shape.width, backbone.channels
        self.mixes_batch = published  # an image's output depends on its batch mates: score it alone, as its authors did
        self.backbone = backbone
        self.extract = nn.Conv2d(backbone.trunk.shape.layer1_width * Bottleneck.expansion, width, 1)
        self.encoder = SpatialTransformer(width, shape.encoder_layers, shape.feedforward, shape.heads, published)
        self.up = nn.ConvTranspose2d(width, width, 4, 2, 1, bias=False)
        self.fuse = nn.Conv2d(features + width, features, 1)
        self.decoder = SpatialTransformer(features, shape.decoder_layers, shape.feedforward, shape.heads, published)
        self.head = HigherResolutionHead(features, keypoints)
        self.cells = input_size[0] // STRIDE, input_size[1] // STRIDE
        half = self.cells[0] // 2, self.cells[1] // 2
        self.encoder_positions = nn.Parameter(sine_positions(half, width)[:, None], requires_grad=False)  # (N, 1, C)
        self.decoder_positions = nn.Parameter(sine_positions(self.cells, features)[:, None], requires_grad=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        shallow = self.backbone.trunk.shallow(images)
        coarse = functional.avg_pool2d(self.extract(shallow), 2)
        coarse = self.up(self.encoder(coarse, self._positions(self.encoder_positions, coarse, 2)))
        fine = self.backbone.end(self.backbone.trunk.branch(shallow))
        fused = self.fuse(torch.cat([fine, coarse], 1))
        return self.head(self.decoder(fused, self._positions(self.decoder_positions, fused, 1)))

    def _positions(self, table: Tensor, features: Tensor, shrunk: int) -> Tensor:
        """The table, or the same sines for a map of another size."""
        size = features.shape[-2], features.shape[-1]
        made_for = self.cells[0] // shrunk, self.cells[1] // shrunk
        if size == made_for:
            return table
        return sine_positions(size, features.shape[1]).to(features)[:, None]


def build(variant: Variant, published: bool = False) -> nn.Module:
    """HigherPose on the variant's HRNet.

    Convolutions and norms start as HigherHRNet's, linear layers by Xavier and Glorot. The three convolutions that no batch
    norm follows (`extract`, `up`, `fuse`) keep torch's own start, because a std of 0.001 would all but silence what passes.
    """
    attention = variant.network.attention
    if attention == "none":
        return higherhrnet.build(variant, published)
    shape = HRNETS[variant.backbone]
    backbone = HRNet(HighResolutionTrunk(shape), HighResolutionEnd(shape, variant.network.branches))
    transformers = SHAPES.get(variant.backbone, HigherPoseShape())
    as_published = published or attention == "published"
    model = HigherPose(backbone, variant.num_keypoints, transformers, variant.input_size, as_published)
    published_initialisation(model)
    transformer_initialisation(model)
    for module in (model.extract, model.up, model.fuse):
        module.reset_parameters()
    return model


def authors_key(key: str, variant: Variant) -> str:
    """The name of `key` in the released code of HigherPose."""
    prefix = next((prefix for prefix in AUTHORS_PREFIXES if key.startswith(prefix)), None)
    return higherhrnet.authors_key(key, variant) if prefix is None else AUTHORS_PREFIXES[prefix] + key.removeprefix(prefix)
