"""The generic super-resolution head: heatmaps as large as the input from features of a quarter of its size.

Wang, Liu, Tang, Wu 2023, "Lightweight Super-Resolution Head for Human Pose Estimation" (SRPose), section 3.2. Released for
bottom-up methods only; the top-down form here is that head without the tags, on the features that the plain head of
each backbone reads: the finest branch (HRNet, HRFormer), or the output of the deconvolutions (ResNet: three, TransPose: one).
Parameters and multiply-adds of the paper's rows are met by it.

Where 32 does not divide the input, a ResNet's deconvolutions give surplus cells to the right and below (see
`simplebaseline`); they are cut off.
"""

from __future__ import annotations

from torch import Tensor, nn

from components.models.backbones.blocks import published_initialisation
from components.models.backbones.hrformer import HRFORMERS
from components.models.backbones.hrnet import HRNETS
from components.models.backbones.resnet import RESNETS
from components.models.backbones.transpose import TRANSPOSES
from components.models.heads.deconvolution import DeconvolutionHead
from components.models.heads.super_resolution import SuperResolutionHead
from components.models.naming import renamed
from components.models.pyramids import PyramidNetwork, backbone_key, build_backbone
from components.models.variant import STRIDE, Method, Variant


class SRHeadPose(nn.Module):
    """(B, 3, H, W) normalised images → ((B, K, H, W),).

    Args:
        deconvolutions: between the backbone and the head, if its features are coarser than H/4 x W/4.
        published: keep the surplus cells.
    """

    def __init__(
        self, backbone: nn.Module, keypoints: int, deconvolutions: DeconvolutionHead | None = None, published: bool = False
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.ModuleDict({"deconvolutions": deconvolutions or nn.Identity()})
        self.head["heatmaps"] = SuperResolutionHead((deconvolutions or backbone).channels, keypoints)  # type: ignore[arg-type]
        self.published = published
        published_initialisation(self.head)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        features = self.head["deconvolutions"](self.backbone(images))
        if not self.published:
            features = features[..., : images.shape[-2] // STRIDE, : images.shape[-1] // STRIDE]
        return (self.head["heatmaps"](features),)


def build(variant: Variant, published: bool = False) -> SRHeadPose:
    """The head on the variant's backbone, initialised as published: N(0, 0.001²) and biases of 0.

    Weights that small do not stand large first steps: Adam at 1e-3 or more without warm-up may leave keypoints whose embedding
    is 0 everywhere and stays so. Train with warm-up, as published.
    """
    backbone = build_backbone(variant, multi_scale=False)
    return SRHeadPose(backbone, variant.num_keypoints, _deconvolutions(variant, backbone.channels), published)  # type: ignore[arg-type]


def _deconvolutions(variant: Variant, channels: int) -> DeconvolutionHead | None:
    """Those of the backbone's plain head."""
    if variant.backbone in RESNETS:
        return DeconvolutionHead(channels)
    return DeconvolutionHead(channels, channels, layers=1) if variant.backbone in TRANSPOSES else None


_AUTHORS = {
    "head.deconvolutions.": "keypoint_head.deconv_layers.",
    "head.heatmaps.encoder.": "keypoint_head.kp_encoder.0.",
    "head.heatmaps.converge.": "keypoint_head.heatmap_head.",
}


def authors_key(key: str, variant: Variant) -> str:
    """The name of `key` in the released code (bottom-up, but for the tags)."""
    return backbone_key(key, variant) if key.startswith("backbone.") else renamed(key, _AUTHORS)


METHOD = Method(
    "sr_head",
    build,
    (*HRNETS, *RESNETS, *HRFORMERS, *TRANSPOSES),
    codec="super_resolution",
    authors_key=authors_key,
    stride=1,
    network=PyramidNetwork,
    counting="mmcv",
    sized=True,
)
