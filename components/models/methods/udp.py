"""UDP: unbiased data processing.

Huang, Zhu, Guo, Huang 2020, "The Devil is in the Details: Delving into Unbiased Data Processing for Human Pose Estimation".
On HRNet the released code also widens the last fusion of stage 4 by four (32 → 128 channels), for both kinds of target;
ResNets keep SimpleBaseline's network. What else UDP changes is in the crop geometry and the codec.

Offset targets ("combined" in the paper, section 3.3) need three maps per keypoint, in the order response, x, y.

Ours: on MobileNetFPN the plain head's network (`simplebaseline`), with K or 3K maps.
"""

from __future__ import annotations

from components.models.backbones.blocks import published_initialisation
from components.models.backbones.hrnet import HRNETS, build_hrnet
from components.models.backbones.mobilenet_fpn import MOBILENETS
from components.models.backbones.resnet import RESNETS
from components.models.heads.plain import PlainPose
from components.models.methods import simplebaseline
from components.models.methods.dark import authors_key
from components.models.variant import EnlargedNetwork, Method, Variant

WIDEN = 4
MAPS_PER_KEYPOINT = {"udp_gaussian": 1, "udp_offset": 3}


def build(variant: Variant, published: bool = False) -> PlainPose:
    """K (gaussian) or 3K (offset) maps on the variant's backbone, initialised as published."""
    maps = MAPS_PER_KEYPOINT[variant.method]
    if variant.backbone not in HRNETS:
        return simplebaseline.build(variant, published, maps)
    backbone = build_hrnet(variant.backbone, variant.network.branches, widen=WIDEN)
    model = PlainPose(backbone, maps * variant.num_keypoints)
    published_initialisation(model)
    return model


METHOD = tuple(
    Method(
        name,
        build,
        (*HRNETS, *RESNETS, *MOBILENETS),
        codec=name,
        authors_key=authors_key,
        convention="unbiased",
        network=EnlargedNetwork,
        uncounted=("upscale_weights",),
    )
    for name in MAPS_PER_KEYPOINT
)
