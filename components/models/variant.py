"""A variant, one row of a paper's table as a validated entry of `params/variants/`; and the record that its method declares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from torch import nn

from components.base.config import parse
from components.base.errors import FarposeError, unknown_name
from components.base.records import records
from components.models.paper import Counting, Paper
from components.pose.crop import Convention, CropGeometry
from components.pose.skeleton import Skeleton
from components.pose.sources import skeleton_of

STRIDE = 4  # input px per heatmap cell of most methods
HRNET = "hrnet_"  # start of the names of the backbones that have branches
UPSCALE = 4.0  # how much `network.upscale` enlarges the input unless `network.factor` says otherwise
IMAGE_STRIDE = 64  # sides of whole images are multiples of this, px (bottom-up)
METHODS = "components.models.methods"  # the package whose modules declare METHOD

Approach = Literal["crops", "images"]
Upscaling = Literal["bilinear", "bicubic", "spsr"]


@dataclass(frozen=True)
class Network:
    """Settings of the network beyond its backbone; a method with settings of its own extends this.

    Attributes:
        branches: branches of HRNet's stage 4: 4 as in its paper, 3 as published for 64x48. Other backbones have none.
    """

    branches: int = 4

    def __post_init__(self) -> None:
        if self.branches not in (3, 4):
            raise ValueError(f"branches must be 3 or 4, got {self.branches}")

    @property
    def changed(self) -> list[str]:
        """Names of the settings that are not the default."""
        default = type(self)()
        return [setting.name for setting in fields(self) if getattr(self, setting.name) != getattr(default, setting.name)]


@dataclass(frozen=True)
class EnlargedNetwork(Network):
    """Settings of methods whose input may be enlarged, see `components.models.upscale`.

    Attributes:
        upscale: enlarge the input before the network sees it, "bilinear", "bicubic" or with the generator of SPSR.
        factor: how much; SPSR's generator enlarges fourfold.
        upscale_weights: file of SPSR's generator (`farpose import-weights spsr_x4 FILE` writes it); the generator is not trained.
    """

    upscale: Upscaling | None = None
    factor: float = UPSCALE
    upscale_weights: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factor <= 1:
            raise ValueError(f"factor must be above 1, got {self.factor:g}")
        if self.factor != UPSCALE and self.upscale in (None, "spsr"):
            raise ValueError(f"factor = {self.factor:g} has no meaning for upscale: {self.upscale or 'null'}")
        if self.upscale_weights is not None and self.upscale != "spsr":
            raise ValueError("upscale_weights has no meaning without upscale: spsr")


def _unchanged(variant: Variant) -> Variant:
    return variant


def _always(variant: Variant) -> bool:
    return True


@dataclass(frozen=True)
class Method:
    """Everything the rest of the project knows about a method. Its file in `components/models/methods/` declares it as `METHOD`.

    Attributes:
        name: the value of a variant's `method:`.
        build: (variant, published) → the network with fresh weights; `published` keeps the errors of the released code.
        backbones: names of `components.models.backbones` that it runs on.
        codec: how keypoints become targets and are decoded, a name that `components.codecs.build` knows.
        authors_key: (key, variant) → the name that the released code has for `key` of the network's state_dict.
        convention: how crops are cut.
        stride: input px per cell of the output (1: as many cells as px); of a bottom-up method's coarsest.
        approach: the network's input: "crops" of one person each, or whole "images" in which it finds all persons.
        network: type of its settings.
        label: start of its variants' names; None for `name`, "" where the backbone's name says it all.
        drops: start of the backbone's name that its variants' names leave out.
        ignored: keys of its authors' files that are not weights.
        counting: the tool that its paper counted multiply-adds with, see `components.models.counting`.
        uncounted: settings of the network that change neither parameters nor multiply-adds.
        codec_counted: settings of the codec that do change them.
        sized: some parameters depend on the input's size.
        exported: the variant to export, another one where a recorded graph cannot hold all of its behaviour.
        any_size: whether the exported network of a variant takes images of any size (bottom-up).
    """

    name: str
    build: Callable[[Variant, bool], nn.Module]
    backbones: tuple[str, ...]
    codec: str
    authors_key: Callable[[str, Variant], str]
    convention: Convention = "classic"
    stride: int = STRIDE
    approach: Approach = "crops"
    network: type[Network] = Network
    label: str | None = None
    drops: str = ""
    ignored: tuple[str, ...] = ()
    counting: Counting = "summary"
    uncounted: tuple[str, ...] = ()
    codec_counted: tuple[str, ...] = ()
    sized: bool = False
    exported: Callable[[Variant], Variant] = _unchanged
    any_size: Callable[[Variant], bool] = _always


def methods() -> dict[str, Method]:
    """Every method by name: what the modules of `components/models/methods/` declare, read at first use."""
    return records(METHODS, "METHOD")


@dataclass(frozen=True)
class Variant:
    """What is trained and compared.

    Attributes:
        name: `<method>_<backbone>_<dataset>_<H>x<W>[_<tag>]`, bottom-up `<method>_<backbone>_<dataset>_<size>[_<tag>]`; the method is
            left out where it is its backbone's name (HRNet, HRFormer, TransPose, TokenPose, LitePose), and so are the `vit_` of
            SHaRPose's backbones and the `hrnet_` of HigherHRNet's and its successors'.
        input_size: (height, width) of the network's input, px, multiples of 4. Bottom-up: the size of a training image, a square;
            evaluated images have this short side, a multiple of 64.
        tag: end of the name where settings differ from the variant without it.
        network: settings of the method's network, of the type that its record names; a mapping is parsed, None is the default.
        codec: settings of the method's codec, see `components.codecs`.
        train: this variant's overrides of `params/train.yaml`, its recipe `published`.
        baseline: the variant it is compared with under the recipe `matched`: "plain" is the plain heatmap on the same backbone, data set
            and input size; or a variant's name.
        exceptions: keys of `train` that hold in the recipe `matched` as well, each with the reason why the method needs it.
        reprints: the same network's rows in other papers' tables.
        joints: given where there is no params/data.yaml, as in a registered model; None: those of the data set's entry.

    Raises:
        FarposeError: unknown method, backbone or setting, a backbone that the method does not run on, a setting that
            has no effect, or a name that disagrees with the fields.
    """

    name: str
    method: str
    backbone: str
    dataset: str
    input_size: tuple[int, int]
    tag: str | None = None
    network: Any = None
    codec: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    baseline: str | None = None
    exceptions: dict[str, str] = field(default_factory=dict)
    paper: Paper = field(default_factory=Paper)
    reprints: tuple[Paper, ...] = ()
    joints: Skeleton | None = None

    def __post_init__(self) -> None:
        where = f"variant {self.name}"
        if self.method not in methods():
            raise unknown_name("method", self.method, methods(), where=where)
        allowed = self.record.backbones
        if self.backbone not in allowed:
            known = {backbone for method in methods().values() for backbone in method.backbones}
            if self.backbone not in known:
                raise unknown_name("backbone", self.backbone, known, where=where)
            problem = f"method {self.method!r} does not run on backbone {self.backbone!r}"
            raise FarposeError(problem, where=where, fix=f"use one of {', '.join(allowed)}")
        object.__setattr__(self, "network", self._network(where))
        if self.network.branches != Network().branches and not self.backbone.startswith(HRNET):
            raise FarposeError(f"network.branches has no meaning for {self.backbone}", where=where, fix="remove it")
        self._check_size(where)
        if self.name != self.expected_name:
            raise FarposeError(f"the name disagrees with the entry, which makes {self.expected_name!r}", where=where, fix="correct either")

    def _network(self, where: str) -> Network:
        """The settings as the method's type, from None, a mapping, or plain settings that its type extends."""
        kind, given = self.record.network, {} if self.network is None else self.network
        if isinstance(given, kind):
            return given
        return parse(kind, asdict(given) if isinstance(given, Network) else given, f"{where}: network")

    def _check_size(self, where: str) -> None:
        if min(self.input_size) < 1 or any(side % STRIDE for side in self.input_size):
            raise FarposeError(f"input_size must be positive multiples of {STRIDE} px, got {self.input_size}", where=where)
        if any(side % STRIDE for side in self.enlarged_size):
            problem = f"network.factor enlarges the input to {self.enlarged_size}, which are no multiples of {STRIDE} px"
            raise FarposeError(problem, where=where, fix="give another factor, such as 2 or 4")
        if self.approach == "images" and (self.input_size[0] != self.input_size[1] or self.input_size[0] % IMAGE_STRIDE):
            problem = f"input_size of a bottom-up variant must be a square, its side a multiple of {IMAGE_STRIDE} px, got {self.input_size}"
            raise FarposeError(problem, where=where, fix="such as [256, 256] or [512, 512]")

    @property
    def record(self) -> Method:
        """The record that its method declares."""
        return methods()[self.method]

    @property
    def settings(self) -> dict[str, Any]:
        """The network's settings that mean something to it."""
        return {name: value for name, value in asdict(self.network).items() if name != "branches" or self.backbone.startswith(HRNET)}

    @property
    def expected_name(self) -> str:
        """The name that the fields make."""
        method = self.record
        label = self.method if method.label is None else method.label
        height, width = self.input_size
        size = str(height) if self.approach == "images" else f"{height}x{width}"
        return "_".join(part for part in (label, self.backbone.removeprefix(method.drops), self.dataset, size, self.tag) if part)

    @property
    def approach(self) -> Approach:
        """The network's input: "crops" of one person each, or whole "images" in which it finds all persons."""
        return self.record.approach

    @property
    def convention(self) -> Convention:
        """How crops are cut for this method."""
        return self.record.convention

    @property
    def codec_name(self) -> str:
        """The method's codec, a name that `components.codecs.build` knows."""
        return self.record.codec

    @property
    def upscale(self) -> Upscaling | None:
        """How the input is enlarged before the network sees it; None where it is not."""
        return getattr(self.network, "upscale", None)

    @property
    def enlarged_size(self) -> tuple[int, int]:
        """(height, width) of what the network itself sees: the input, enlarged where `network.upscale` says so."""
        if not self.upscale:
            return self.input_size
        height, width = (round(side * self.network.factor) for side in self.input_size)
        return height, width

    @property
    def heatmap_size(self) -> tuple[int, int]:
        """(height, width) of the output, cells; an enlarged input has that many more, and so have maps finer than the features."""
        finer: int = getattr(self.network, "finer", 1)
        height, width = (side // self.record.stride * finer for side in self.enlarged_size)
        return height, width

    @property
    def skeleton(self) -> Skeleton:
        """Names, pairs and limbs of the data set's keypoints."""
        return self.joints or skeleton_of(self.dataset)

    @property
    def num_keypoints(self) -> int:
        """How many keypoints its data set has."""
        return len(self.skeleton)

    def geometry(self) -> CropGeometry:
        """How a box becomes this variant's input and heatmap."""
        return CropGeometry(self.input_size, self.heatmap_size, self.convention)
