"""SimCC: the column and the row of every joint as two classifications.

Li et al. 2022, "SimCC: a Simple Coordinate Classification Perspective for Human Pose Estimation" (first circulated as SimDR).
On HRNet and on SimpleBaseline's ResNets the plain head's K maps are flattened, and one pair of linear layers, shared by the
joints, turns each map into the logits of all columns and of all rows. One-hot (SimDR) and Gaussian targets (SimDR*) train the
same network. How many bins there are is the codec's business.

On TokenPose-S the paper prints results but neither repository holds the head. Here every joint's token goes through one layer
norm and one linear layer per axis: ours, not known to be theirs. It has the parameters that the paper prints.

Where the published networks cannot run: at 64x48 HRNet's fourth branch is fused to the size of its target, and a ResNet's
surplus columns (16 instead of 12) are cut off. The linear layers' size follows from the feature, never from a setting.

Ours: on MobileNetFPN the classifier reads the plain head's maps. Bins of an enlarged input divide its px, not the crop's.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from components import codecs
from components.models.backbones.blocks import published_initialisation
from components.models.backbones.hrnet import HRNETS, build_hrnet, published_key
from components.models.backbones.mobilenet_fpn import MOBILENETS, build_mobilenet
from components.models.backbones.resnet import RESNETS, ResNet
from components.models.backbones.tokenpose import TOKENPOSES, KeypointEncoder, token_initialisation, tokenpose
from components.models.heads.deconvolution import DeconvolutionHead
from components.models.methods import tokenpose as heatmaps
from components.models.naming import renamed
from components.models.variant import STRIDE, EnlargedNetwork, Method, Variant

Bins = tuple[int, int]  # along x, along y


class MapClassifier(nn.Module):
    """Features (B, C, h, w) → logits (B, K, columns) and (B, K, rows).

    Args:
        cells: (height, width) of the maps before they are flattened; surplus cells to the right and below are cut off.
        deconvolutions: layers between the features and the maps, each doubling their size.
    """

    def __init__(self, channels: int, keypoints: int, cells: tuple[int, int], bins: Bins, deconvolutions: int = 0) -> None:
        super().__init__()
        self.cells = cells
        self.deconvolutions = DeconvolutionHead(channels, layers=deconvolutions) if deconvolutions else nn.Identity()
        maps = self.deconvolutions.channels if isinstance(self.deconvolutions, DeconvolutionHead) else channels
        self.final_layer = nn.Conv2d(maps, keypoints, 1)
        self.x, self.y = (nn.Linear(cells[0] * cells[1], count) for count in bins)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        height, width = self.cells
        maps = self.final_layer(self.deconvolutions(features)[..., :height, :width]).flatten(2)  # (B, K, h w)
        return self.x(maps), self.y(maps)


class TokenClassifier(nn.Module):
    """The joints' tokens (B, K, dim) → logits (B, K, columns) and (B, K, rows)."""

    def __init__(self, dim: int, bins: Bins) -> None:
        super().__init__()
        self.x, self.y = (nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, count)) for count in bins)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.x(tokens), self.y(tokens)


class SimCC(nn.Module):
    """(B, 3, H, W) normalised images → logits (B, K, columns) and (B, K, rows)."""

    START_PARTS: ClassVar = {"backbone.branch.": "heatmap.branch.", "backbone.": "backbone.", "head.final_layer.": "heatmap.final."}

    def __init__(self, backbone: nn.Module, head: MapClassifier) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(self.backbone(images))


class SimCCOnTokens(nn.Module):
    """(B, 3, H, W) normalised images → logits (B, K, columns) and (B, K, rows)."""

    def __init__(self, backbone: nn.Module, encoder: KeypointEncoder, head: TokenClassifier) -> None:
        super().__init__()
        self.backbone, self.encoder, self.head = backbone, encoder, head

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(self.encoder(self.backbone(images)[0]))


def build(variant: Variant, published: bool = False) -> SimCC | SimCCOnTokens:
    """The variant's network, initialised as published (the linear layers on maps as torch does).

    Args:
        published: keep the surplus cells of ResNets.
    Raises:
        FarposeError: a setting of the variant's codec is wrong.
    """
    codec = codecs.build(variant.codec_name, variant.geometry(), variant.skeleton, **variant.codec)
    (_, columns), (_, rows) = codec.output_shapes
    if variant.backbone in TOKENPOSES:
        return _on_tokens(variant, (columns, rows))
    height, width = variant.enlarged_size
    cells = height // STRIDE, width // STRIDE
    if variant.backbone in MOBILENETS:
        mobilenet = build_mobilenet(variant.backbone)
        model = SimCC(mobilenet, MapClassifier(mobilenet.channels, variant.num_keypoints, cells, (columns, rows)))
        published_initialisation(model.head)
        return model
    if variant.backbone in RESNETS:
        resnet = ResNet(RESNETS[variant.backbone])
        if published:
            cells = 8 * -(-height // 32), 8 * -(-width // 32)
        head = MapClassifier(resnet.channels, variant.num_keypoints, cells, (columns, rows), deconvolutions=3)
        model = SimCC(resnet, head)
    else:
        hrnet = build_hrnet(variant.backbone, variant.network.branches)
        model = SimCC(hrnet, MapClassifier(hrnet.channels, variant.num_keypoints, cells, (columns, rows)))
    published_initialisation(model)
    return model


def _on_tokens(variant: Variant, bins: Bins) -> SimCCOnTokens:
    shape = TOKENPOSES[variant.backbone]
    backbone, encoder = tokenpose(shape, variant.input_size, variant.num_keypoints)
    head = TokenClassifier(shape.dim, bins)
    token_initialisation(head)
    return SimCCOnTokens(backbone, encoder, head)


_AUTHORS = {
    "head.deconvolutions.": "deconv_layers.",
    "head.final_layer.": "final_layer.",
    "head.x.": "mlp_head_x.",
    "head.y.": "mlp_head_y.",
}


def authors_key(key: str, variant: Variant) -> str:
    """The name of `key` in the released code; on TokenPose that of its trunk's, and `mlp_head_x`, `mlp_head_y` as on the others.

    On MobileNetFPN it is `key`.
    """
    if variant.backbone in MOBILENETS:
        return key
    if key.startswith("head."):
        return renamed(key, _AUTHORS)
    return heatmaps.authors_key(key, variant) if variant.backbone in TOKENPOSES else published_key(key.removeprefix("backbone."))


METHOD = Method(
    "simcc",
    build,
    (*HRNETS, *RESNETS, *TOKENPOSES, *MOBILENETS),
    codec="simcc",
    authors_key=authors_key,
    stride=1,
    network=EnlargedNetwork,
    uncounted=("upscale_weights",),
    codec_counted=("split",),
    sized=True,
)
