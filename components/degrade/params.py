"""What a shard is, and the settings that every shard shares."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from components.base.config import parse
from components.degrade.protocol import protocol
from components.pose.crop import Convention, CropGeometry
from components.pose.whole_image import MULTIPLE, Fit, ImageGeometry

MARGIN_SCALE = 1.35  # of the published trainers on COCO, whose boxes grow by at most this factor


@dataclass(frozen=True)
class ShardSpec:
    """One shard: its crops or whole images, and how they are made.

    Attributes:
        input_size: (height, width) of the network's input, px; for whole images both are the size of the short side.
        protocol: name of a file in `components/degrade/protocols/`.
        images: whole images, for bottom-up networks, instead of one crop per person.
        margin_scale: for crops: the largest training view in padded boxes; it limits the recipe's scale augmentation.

    Raises:
        FarposeError: unknown protocol.
    """

    input_size: tuple[int, int]
    protocol: str = "direct"
    images: bool = False
    margin_scale: float = MARGIN_SCALE

    def __post_init__(self) -> None:
        protocol(self.protocol)
        if min(self.input_size) < 8:
            raise ValueError(f"input_size must be at least 8 px a side, got {self.input_size}")
        if self.images and (self.input_size[0] != self.input_size[1] or self.input_size[0] % MULTIPLE):
            raise ValueError(
                f"input_size of whole images must be a square whose sides are a multiple of {MULTIPLE} px, got {self.input_size}"
            )
        if self.margin_scale < 1:
            raise ValueError(f"margin_scale must be at least 1, got {self.margin_scale}")
        if self.images and self.margin_scale != MARGIN_SCALE:
            raise ValueError("margin_scale is for crops; whole images have no margin")

    @property
    def name(self) -> str:
        """Such as `direct_64x48`, `direct_64x48_margin150` (a margin of 1.5), or `direct_512` (whole images)."""
        size = f"{self.input_size[0]}" if self.images else f"{self.input_size[0]}x{self.input_size[1]}"
        percent = f"{100 * self.margin_scale:g}".replace(".", "p")  # DVC parses a dot in a name as a nested key
        return f"{self.protocol}_{size}" + (f"_margin{percent}" if self.margin_scale != MARGIN_SCALE else "")

    def geometry(self, convention: Convention) -> CropGeometry:
        """The crop geometry of one convention; its heatmap side is not used by shards."""
        return CropGeometry(self.input_size, self.input_size, convention)

    def image_geometry(self, fit: Fit) -> ImageGeometry:
        """The geometry of whole images."""
        return ImageGeometry(self.input_size[0], fit)


@dataclass(frozen=True)
class DegradeParams:
    """Settings of every shard; see params/degrade.yaml for their effects.

    Attributes:
        seed: start of the noise of evaluation crops.
        threads: images decoded at once; 0 means one per usable core.
        contact_sheet_persons: persons on the contact sheet.
        protocols: settings by the protocol's name; settings that are left out keep their defaults.

    Raises:
        FarposeError: unknown protocol or setting.
    """

    seed: int = 0
    threads: int = 0
    contact_sheet_persons: int = 24
    protocols: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if min(self.seed, self.threads, self.contact_sheet_persons) < 0:
            raise ValueError("seed, threads and contact_sheet_persons must not be negative")
        for name in self.protocols:
            self.settings(name)

    def settings(self, name: str) -> Any:
        """The settings of one protocol, typed; None where it has none."""
        where = f"degrade.protocols.{name}"
        kind = protocol(name, "degrade.protocols").settings
        return parse(kind or _NoSettings, self.protocols.get(name, {}), where) if kind or name in self.protocols else None

    def of(self, name: str) -> dict[str, Any]:
        """As JSON values, with all settings of this protocol and none of the others."""
        settings = self.settings(name)
        return {**asdict(self), "protocols": {name: asdict(settings)} if settings is not None else {}}


@dataclass(frozen=True)
class _NoSettings:
    """The settings of a protocol without settings."""
