"""A variant: one row of a paper's table, as a validated entry of `params/variants/`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from components.base.errors import FarposeError, unknown_name
from components.models.backbones import HRNETS, RESNETS
from components.pose.crop import Convention, CropGeometry
from components.pose.skeleton import Skeleton, skeleton_of

STRIDE = 4  # input px per heatmap cell of every method here


@dataclass(frozen=True)
class Method:
    """What a method's name decides: its crop convention, its codec and the backbones that it can stand on."""

    convention: Convention
    codec: str
    backbones: tuple[str, ...]


METHODS: dict[str, Method] = {
    "hrnet": Method("classic", "heatmap", tuple(HRNETS)),
    "simple": Method("classic", "heatmap", tuple(RESNETS)),
    "dark": Method("dark", "dark", (*HRNETS, *RESNETS)),
    "udp_gaussian": Method("unbiased", "udp_gaussian", (*HRNETS, *RESNETS)),
    "udp_offset": Method("unbiased", "udp_offset", (*HRNETS, *RESNETS)),
    "cal": Method("unbiased", "cal", tuple(HRNETS)),
}


@dataclass(frozen=True)
class Network:
    """Settings of the network beyond its backbone.

    Attributes:
        branches: branches of HRNet's stage 4: 4 as in its paper, 3 as published for 64x48.
        offset_width: channels of the finest branch of CAL's offset trunk; None for the backbone's own.
    """

    branches: int = 4
    offset_width: int | None = None

    def __post_init__(self) -> None:
        if self.branches not in (3, 4):
            raise ValueError(f"branches must be 3 or 4, got {self.branches}")
        if self.offset_width is not None and self.offset_width < 1:
            raise ValueError(f"offset_width must be positive, got {self.offset_width}")


@dataclass(frozen=True)
class Paper:
    """The row as its authors printed it; None where they did not.

    Attributes:
        ap, ap50, ap75, ap_medium, ap_large, ar: COCO val2017, percent.
        pckh50, pckh10: MPII val mean PCKh at 0.5 and at "0.1" (their code's 0.1 is 0.11), percent.
        params_m: parameters, millions.
        gflops: multiply-adds in units of 2³⁰, deconvolutions counted at their output (four times too much).
        source: where the row was printed.
    """

    ap: float | None = None
    ap50: float | None = None
    ap75: float | None = None
    ap_medium: float | None = None
    ap_large: float | None = None
    ar: float | None = None
    pckh50: float | None = None
    pckh10: float | None = None
    params_m: float | None = None
    gflops: float | None = None
    source: str | None = None


@dataclass(frozen=True)
class Variant:
    """What is trained and compared.

    Attributes:
        name: `<method>_<backbone>_<dataset>_<H>x<W>[_<tag>]`; method "hrnet" is left out, being its own backbone's name.
        input_size: (height, width) of the network's input, px, multiples of 4.
        tag: end of the name where settings differ from the variant without it.
        codec: settings of the method's codec, see `components.codecs`.
        train: this variant's overrides of `params/train.yaml`.

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

    def __post_init__(self) -> None:
        where = f"variant {self.name}"
        if self.method not in METHODS:
            raise unknown_name("method", self.method, METHODS, where=where)
        known = {**HRNETS, **RESNETS}
        if self.backbone not in known:
            raise unknown_name("backbone", self.backbone, known, where=where)
        allowed = METHODS[self.method].backbones
        if self.backbone not in allowed:
            problem = f"method {self.method!r} cannot stand on backbone {self.backbone!r}"
            raise FarposeError(problem, where=where, fix=f"use one of {', '.join(allowed)}")
        self._check_network(where)
        if min(self.input_size) < 1 or any(side % STRIDE for side in self.input_size):
            raise FarposeError(f"input_size must be positive multiples of {STRIDE} px, got {self.input_size}", where=where)
        if self.name != self.expected_name:
            raise FarposeError(f"the name disagrees with the entry, which makes {self.expected_name!r}", where=where, fix="correct either")

    def _check_network(self, where: str) -> None:
        if self.backbone in RESNETS and self.network.branches != Network().branches:
            raise FarposeError(f"network.branches has no meaning for {self.backbone}", where=where, fix="remove it")
        if self.method != "cal" and self.network.offset_width is not None:
            raise FarposeError(f"network.offset_width has no meaning for method {self.method}", where=where, fix="remove it")

    @property
    def expected_name(self) -> str:
        method = [] if self.method == "hrnet" else [self.method]
        tag = [self.tag] if self.tag else []
        return "_".join([*method, self.backbone, self.dataset, "{}x{}".format(*self.input_size), *tag])

    @property
    def convention(self) -> Convention:
        """How crops are cut for this method."""
        return METHODS[self.method].convention

    @property
    def codec_name(self) -> str:
        """The method's codec, a name that `components.codecs.build` knows."""
        return METHODS[self.method].codec

    @property
    def heatmap_size(self) -> tuple[int, int]:
        """(height, width) of the output, cells."""
        return self.input_size[0] // STRIDE, self.input_size[1] // STRIDE

    @property
    def skeleton(self) -> Skeleton:
        return skeleton_of(self.dataset)

    @property
    def num_keypoints(self) -> int:
        return len(self.skeleton)

    def geometry(self) -> CropGeometry:
        """How a box becomes this variant's input and heatmap."""
        return CropGeometry(self.input_size, self.heatmap_size, self.convention)
