"""The plain head for all persons of an image: heatmaps and tags at a quarter of the input, from one 1x1 convolution.

Newell, Huang, Deng 2017, "Associative Embedding", on SimpleBaseline's three deconvolutions (ResNet) or HRNet's finest branch; the
"Simple head" of the bottom-up part of SRPose's table (Wang, Liu, Tang, Wu 2023). Details from mmpose's AESimpleHead.
Ours: on MobileNetFPN, on the 96 channels before MoveNet's heatmaps.
"""

from __future__ import annotations

from torch import Tensor, nn

from components.models.backbones.blocks import published_initialisation
from components.models.backbones.hrnet import HRNETS
from components.models.backbones.mobilenet_fpn import MOBILENETS
from components.models.backbones.resnet import RESNETS
from components.models.heads.deconvolution import DeconvolutionHead
from components.models.pyramids import authors_keys, build_backbone, plain_deconvolutions
from components.models.variant import Method, Variant


class SimpleBottomUp(nn.Module):
    """(B, 3, H, W) normalised images → ((B, 2K, H/4, W/4),), heatmaps then tags; H and W are multiples of 32.

    Args:
        deconvolutions: between the backbone and the head, if its features are coarser than H/4 x W/4.
    """

    def __init__(self, backbone: nn.Module, keypoints: int, deconvolutions: DeconvolutionHead | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        channels: int = (deconvolutions or backbone).channels  # type: ignore[assignment]
        self.head = nn.ModuleDict({"deconvolutions": deconvolutions or nn.Identity(), "final": nn.Conv2d(channels, 2 * keypoints, 1)})
        published_initialisation(self.head)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.head["final"](self.head["deconvolutions"](self.backbone(images))),)


def build(variant: Variant, published: bool = False) -> SimpleBottomUp:
    """The head on the variant's backbone, initialised as published (which is also how it behaves: `published` changes nothing)."""
    backbone = build_backbone(variant, multi_scale=False)
    deconvolutions = plain_deconvolutions(variant, backbone.channels)  # type: ignore[arg-type]
    return SimpleBottomUp(backbone, variant.num_keypoints, deconvolutions)


_AUTHORS = {"head.deconvolutions.": "keypoint_head.deconv_layers.", "head.final.": "keypoint_head.final_layer."}

METHOD = Method(
    "simple_bottomup",
    build,
    (*HRNETS, *RESNETS, *MOBILENETS),
    codec="associative_embedding",
    authors_key=authors_keys(_AUTHORS),
    approach="images",
    counting="mmcv",
)
