"""The generic super-resolution head: heatmaps as large as the input from features of a quarter of its size.

Wang, Liu, Tang, Wu 2023, "Lightweight Super-Resolution Head for Human Pose Estimation" (SRPose), section 3.2. Released for
bottom-up methods only; the top-down form here is that head without the tags, on the features that the plain head of
each backbone uses: the finest branch (HRNet, HRFormer), or the output of the deconvolutions (ResNet: three, TransPose: one).
It has the parameters and multiply-adds of the paper's rows. Ours: on MobileNetFPN, on the 96 channels before MoveNet's heatmaps.

Where 32 does not divide the input, a ResNet's deconvolutions give surplus cells to the right and below (see
`simplebaseline`); they are cut off.
"""

from __future__ import annotations

from torch import Tensor, nn

from components.models.backbones.blocks import published_initialisation
from components.models.backbones.hrformer import HRFORMERS
from components.models.backbones.hrnet import HRNETS
from components.models.backbones.mobilenet_fpn import MOBILENETS
from components.models.backbones.resnet import RESNETS
from components.models.backbones.transpose import TRANSPOSES
from components.models.heads.deconvolution import DeconvolutionHead
from components.models.heads.plain import on_input
from components.models.heads.super_resolution import SuperResolutionHead
from components.models.pyramids import PyramidNetwork, authors_keys, build_backbone, plain_deconvolutions
from components.models.variant import Method, Variant


class SRHeadPose(nn.Module):
    """(B, 3, H, W) normalised images → ((B, K, H, W),).

    Args:
        deconvolutions: between the backbone and the head, if its features are coarser than H/4 x W/4.
        published: keep the surplus cells.
        tags: also make the layer of the tags, `head.tags`, which bottom-up methods have.
    """

    def __init__(
        self,
        backbone: nn.Module,
        keypoints: int,
        deconvolutions: DeconvolutionHead | None = None,
        published: bool = False,
        tags: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.ModuleDict({"deconvolutions": deconvolutions or nn.Identity()})
        channels: int = (deconvolutions or backbone).channels  # type: ignore[assignment]
        self.head["heatmaps"] = SuperResolutionHead(channels, keypoints)
        if tags:
            self.head["tags"] = nn.Conv2d(channels, keypoints, 1)
        self.published = published
        published_initialisation(self.head)

    def features(self, images: Tensor) -> Tensor:
        """(B, channels, H/4, W/4)."""
        features = self.head["deconvolutions"](self.backbone(images))
        return features if self.published else on_input(features, images)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.head["heatmaps"](self.features(images)),)


def build(variant: Variant, published: bool = False) -> SRHeadPose:
    """The head on the variant's backbone, initialised as published: N(0, 0.001²) and biases of 0.

    Large first steps break weights that small: after Adam at 1e-3 or more without warm-up, some keypoints' embeddings may be 0
    everywhere and stay so. Train with warm-up, as published.
    """
    backbone = build_backbone(variant, multi_scale=False)
    return SRHeadPose(backbone, variant.num_keypoints, plain_deconvolutions(variant, backbone.channels), published)  # type: ignore[arg-type]


AUTHORS = {
    "head.deconvolutions.": "keypoint_head.deconv_layers.",
    "head.heatmaps.encoder.": "keypoint_head.kp_encoder.0.",
    "head.heatmaps.converge.": "keypoint_head.heatmap_head.",
}


METHOD = Method(
    "sr_head",
    build,
    (*HRNETS, *RESNETS, *HRFORMERS, *TRANSPOSES, *MOBILENETS),
    codec="super_resolution",
    authors_key=authors_keys(AUTHORS),
    stride=1,
    network=PyramidNetwork,
    counting="mmcv",
    uncounted=("upscale_weights",),
    sized=True,
)
