"""A variant: one row of a paper's table, as a validated entry of `params/variants/`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from components.base.errors import FarposeError, unknown_name
from components.models.backbones import BACKBONES, EFFICIENTVITS, HRFORMERS, HRNETS, LITEPOSES, RESNETS, TOKENPOSES, TRANSPOSES, VITS
from components.pose.crop import Convention, CropGeometry
from components.pose.skeleton import Skeleton
from components.pose.sources import skeleton_of

STRIDE = 4  # input px per heatmap cell of most methods
UPSCALE = 4  # how much `network.upscale` enlarges the input
IMAGE_STRIDE = 64  # sides of whole images are multiples of this, px (bottom-up)

Counting = Literal["summary", "summary_decimal", "mmcv", "fvcore"]


@dataclass(frozen=True)
class Method:
    """What a method's name decides.

    Attributes:
        convention: how crops are cut.
        codec: how joints become targets and are read again, a name that `components.codecs.build` knows.
        backbones: what the method can stand on.
        stride: input px per cell of the output (1: as many cells as px); of a bottom-up method's coarsest.
        reads: fields of `Network` that the method has a use for, beside `branches` where it stands on an HRNet.
        label: start of its variants' names; "" where the backbone's name says it all.
        drops: start of the backbone's name that its variants' names leave out.
        bottom_up: it finds all persons of a whole image, instead of one person in a crop.
    """

    convention: Convention
    codec: str
    backbones: tuple[str, ...]
    stride: int = STRIDE
    reads: tuple[str, ...] = ()
    label: str | None = None
    drops: str = ""
    bottom_up: bool = False


_CONVOLUTIONAL = (*HRNETS, *RESNETS)
_PYRAMIDS = (*HRNETS, *RESNETS, *HRFORMERS, *TRANSPOSES)
METHODS: dict[str, Method] = {
    "hrnet": Method("classic", "heatmap", tuple(HRNETS), reads=("upscale", "upscale_weights"), label=""),
    "simple": Method("classic", "heatmap", (*RESNETS, *EFFICIENTVITS)),
    "dark": Method("dark", "dark", _CONVOLUTIONAL),
    "udp_gaussian": Method("unbiased", "udp_gaussian", _CONVOLUTIONAL, reads=("upscale", "upscale_weights")),
    "udp_offset": Method("unbiased", "udp_offset", _CONVOLUTIONAL, reads=("upscale", "upscale_weights")),
    "cal": Method("unbiased", "cal", tuple(HRNETS), reads=("offset_width",)),
    "hrformer": Method("classic", "heatmap", tuple(HRFORMERS), reads=("relative_positions",), label=""),
    "transpose": Method("classic", "heatmap", tuple(TRANSPOSES), label=""),
    "tokenpose": Method("dark", "dark", tuple(TOKENPOSES), label=""),
    "sr_head": Method("classic", "super_resolution", _PYRAMIDS, stride=1, reads=("relative_positions",)),
    "srpose": Method("classic", "super_resolution", _PYRAMIDS, stride=1, reads=("relative_positions",)),
    "siu": Method("classic", "heatmap", (*HRNETS, *RESNETS, *EFFICIENTVITS), reads=("downsample",)),
    "sharpose": Method("unbiased", "sharpose", tuple(VITS), reads=("keep", "gate"), drops="vit_"),
    "simcc": Method("classic", "simcc", (*HRNETS, *RESNETS, *TOKENPOSES), stride=1),
    "higherhrnet": Method("classic", "associative_embedding", tuple(HRNETS), drops="hrnet_", bottom_up=True),
    "litepose": Method("classic", "associative_embedding", tuple(LITEPOSES), label="", bottom_up=True),
    "higherpose": Method("classic", "associative_embedding", tuple(HRNETS), reads=("attention",), drops="hrnet_", bottom_up=True),
    "limbpose": Method("classic", "associative_embedding", tuple(HRNETS), reads=("limb_bias",), drops="hrnet_", bottom_up=True),
    "sr_head_bottomup": Method("classic", "associative_embedding", _CONVOLUTIONAL, stride=1, bottom_up=True),
}


@dataclass(frozen=True)
class Network:
    """Settings of the network beyond its backbone.

    Attributes:
        branches: branches of HRNet's stage 4: 4 as in its paper, 3 as published for 64x48.
        offset_width: channels of the finest branch of CAL's offset trunk; None for the backbone's own.
        upscale: enlarge the input fourfold before the network sees it, with "bicubic" or with the generator of SPSR.
        upscale_weights: file of SPSR's generator (`farpose import-weights spsr_x4 FILE` writes it); the generator is not trained.
        downsample: SIU on HRNet, its fusions to coarser branches: "depthwise" as in its released code, or HRNet's "convolution".
        relative_positions: HRFormer, add the learned bias to its attention; False as in its released pose code.
        keep: SHaRPose, share of the coarse patches that are refined (alpha).
        gate: SHaRPose, refine a person only if the predicted quality of the coarse heatmaps is below this; None refines always.
        attention: HigherPose, over the places of one image ("spatial"), as in its released code ("published": the top left place of
            each image, mixed over the batch), or no transformer at all ("none").
        limb_bias: LimbPose, keypoint queries that attend by the distance along the skeleton; False attends to all alike.
    """

    branches: int = 4
    offset_width: int | None = None
    upscale: Literal["bicubic", "spsr"] | None = None
    upscale_weights: str | None = None
    downsample: Literal["depthwise", "convolution"] = "depthwise"
    relative_positions: bool = False
    keep: float = 0.5
    gate: float | None = None
    attention: Literal["spatial", "published", "none"] = "spatial"
    limb_bias: bool = True

    def __post_init__(self) -> None:
        if self.branches not in (3, 4):
            raise ValueError(f"branches must be 3 or 4, got {self.branches}")
        if self.offset_width is not None and self.offset_width < 1:
            raise ValueError(f"offset_width must be positive, got {self.offset_width}")
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep must be above 0 and at most 1, got {self.keep}")
        if self.upscale_weights is not None and self.upscale != "spsr":
            raise ValueError("upscale_weights has no meaning without upscale: spsr")

    @property
    def changed(self) -> list[str]:
        """Names of the settings that are not the default."""
        default = Network()
        return [name for name in self.__dataclass_fields__ if getattr(self, name) != getattr(default, name)]


@dataclass(frozen=True)
class Paper:
    """The row as its authors printed it; None where they did not.

    Attributes:
        ap, ap50, ap75, ap_medium, ap_large, ar: COCO val2017 (CrowdPose, WholeBody: their own test and val sets), percent.
        ap_without_shift, ar_without_shift: the same without the quarter-cell shift in decoding.
        ap_crowd_easy, ap_crowd_medium, ap_crowd_hard: CrowdPose test by crowd index, percent.
        ap_body, ap_foot, ap_face, ap_hand: COCO-WholeBody val by part, percent; `ap` is the whole body's.
        pckh50, pckh10: MPII val mean PCKh at 0.5 and at "0.1" (the code's 0.1 is 0.11 where it is HRNet's), percent.
        params_m: parameters, millions; params_backbone_m, params_head_m where the paper splits them.
        gflops: multiply-adds as `counting` counts them.
        counting: the tool of the paper, see `components.models.counting`: "summary" counts in units of 2³⁰ and deconvolutions at
            their output, "summary_decimal" prints the same in units of 1e9, "mmcv" adds biases and elementwise layers, "fvcore" adds
            norms and attention.
        fps: images per second as printed, on the authors' hardware.
        source: where the row was printed.
    """

    ap: float | None = None
    ap50: float | None = None
    ap75: float | None = None
    ap_medium: float | None = None
    ap_large: float | None = None
    ar: float | None = None
    ap_without_shift: float | None = None
    ar_without_shift: float | None = None
    ap_crowd_easy: float | None = None
    ap_crowd_medium: float | None = None
    ap_crowd_hard: float | None = None
    ap_body: float | None = None
    ap_foot: float | None = None
    ap_face: float | None = None
    ap_hand: float | None = None
    pckh50: float | None = None
    pckh10: float | None = None
    params_m: float | None = None
    params_backbone_m: float | None = None
    params_head_m: float | None = None
    gflops: float | None = None
    counting: Counting = "summary"
    fps: float | None = None
    source: str | None = None


@dataclass(frozen=True)
class Variant:
    """What is trained and compared.

    Attributes:
        name: `<method>_<backbone>_<dataset>_<H>x<W>[_<tag>]`, bottom-up `<method>_<backbone>_<dataset>_<size>[_<tag>]`; the method is
            left out where it is its backbone's name (HRNet, HRFormer, TransPose, TokenPose, LitePose), and so are the `vit_` of
            SHaRPose's backbones and the `hrnet_` of HigherHRNet's and its successors'.
        input_size: (height, width) of the network's input, px, multiples of 4; bottom-up: of a training image, a square whose side
            is the short side of an evaluated image, a multiple of 64.
        tag: end of the name where settings differ from the variant without it.
        codec: settings of the method's codec, see `components.codecs`.
        train: this variant's overrides of `params/train.yaml`.
        joints: spelled out where no params/data.yaml says them, as in a registered model; None: those of the data set's entry.

    Raises:
        FarposeError: unknown method, backbone or data set, a backbone that the method cannot stand on, a setting that
            nothing would read, or a name that disagrees with the fields.
    """

    name: str
    method: str
    backbone: str
    dataset: str
    input_size: tuple[int, int]
    tag: str | None = None
    network: Network = Network()
    codec: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    paper: Paper = Paper()
    joints: Skeleton | None = None

    def __post_init__(self) -> None:
        where = f"variant {self.name}"
        if self.method not in METHODS:
            raise unknown_name("method", self.method, METHODS, where=where)
        if self.backbone not in BACKBONES:
            raise unknown_name("backbone", self.backbone, BACKBONES, where=where)
        allowed = METHODS[self.method].backbones
        if self.backbone not in allowed:
            problem = f"method {self.method!r} cannot stand on backbone {self.backbone!r}"
            raise FarposeError(problem, where=where, fix=f"use one of {', '.join(allowed)}")
        self._check_network(where)
        if min(self.input_size) < 1 or any(side % STRIDE for side in self.input_size):
            raise FarposeError(f"input_size must be positive multiples of {STRIDE} px, got {self.input_size}", where=where)
        if self.bottom_up and (self.input_size[0] != self.input_size[1] or self.input_size[0] % IMAGE_STRIDE):
            problem = f"input_size of a bottom-up variant must be a square, its side a multiple of {IMAGE_STRIDE} px, got {self.input_size}"
            raise FarposeError(problem, where=where, fix="such as [256, 256] or [512, 512]")
        if self.name != self.expected_name:
            raise FarposeError(f"the name disagrees with the entry, which makes {self.expected_name!r}", where=where, fix="correct either")

    def _check_network(self, where: str) -> None:
        reads = (*METHODS[self.method].reads, *(("branches",) if self.backbone in HRNETS else ()))
        for setting in self.network.changed:
            if setting not in reads:
                subject = self.backbone if setting == "branches" else f"method {self.method}"
                raise FarposeError(f"network.{setting} has no meaning for {subject}", where=where, fix="remove it")

    @property
    def expected_name(self) -> str:
        method = METHODS[self.method]
        label = self.method if method.label is None else method.label
        height, width = self.input_size
        size = str(height) if method.bottom_up else f"{height}x{width}"
        return "_".join(part for part in (label, self.backbone.removeprefix(method.drops), self.dataset, size, self.tag) if part)

    @property
    def bottom_up(self) -> bool:
        """Whether it takes whole images and finds all persons in them."""
        return METHODS[self.method].bottom_up

    @property
    def approach(self) -> str:
        """What the network sees: "crops" of one person each, or whole "images" in which it finds everybody."""
        return "images" if self.bottom_up else "crops"

    @property
    def convention(self) -> Convention:
        """How crops are cut for this method."""
        return METHODS[self.method].convention

    @property
    def codec_name(self) -> str:
        """The method's codec, a name that `components.codecs.build` knows."""
        return METHODS[self.method].codec

    @property
    def stride(self) -> int:
        """Input px per cell of the output; an input that is enlarged first has that many more cells."""
        return METHODS[self.method].stride // (UPSCALE if self.network.upscale else 1)

    @property
    def heatmap_size(self) -> tuple[int, int]:
        """(height, width) of the output, cells."""
        return self.input_size[0] // self.stride, self.input_size[1] // self.stride

    @property
    def skeleton(self) -> Skeleton:
        return self.joints or skeleton_of(self.dataset)

    @property
    def num_keypoints(self) -> int:
        return len(self.skeleton)

    def geometry(self) -> CropGeometry:
        """How a box becomes this variant's input and heatmap."""
        return CropGeometry(self.input_size, self.heatmap_size, self.convention)
