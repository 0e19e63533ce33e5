"""What a shard is, and the settings that every shard shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from components.pose.crop import Convention, CropGeometry
from components.pose.whole_image import MULTIPLE, Fit, ImageGeometry

Protocol = Literal["direct", "antialias", "sensor"]


@dataclass(frozen=True)
class ShardSpec:
    """One shard: which crops or whole images, made how.

    Attributes:
        input_size: (height, width) of the network's input, px; of whole images both are the size of their short side.
        protocol: "direct": bilinear warp of the original image straight to the target, aliased, as in the published
            top-down systems; "antialias": every target pixel is the mean of the area it covers; "sensor": point spread,
            area reduction, noise and JPEG, as a far-away camera would record the person.
        images: whole images, for bottom-up networks, instead of one crop per person.
    """

    input_size: tuple[int, int]
    protocol: Protocol = "direct"
    images: bool = False

    def __post_init__(self) -> None:
        if min(self.input_size) < 8:
            raise ValueError(f"input_size must be at least 8 px a side, got {self.input_size}")
        if self.images and (self.input_size[0] != self.input_size[1] or self.input_size[0] % MULTIPLE):
            raise ValueError(
                f"input_size of whole images must be a square whose sides are a multiple of {MULTIPLE} px, got {self.input_size}"
            )

    @property
    def name(self) -> str:
        """Such as `direct_64x48`, or `direct_512` of whole images."""
        size = f"{self.input_size[0]}" if self.images else f"{self.input_size[0]}x{self.input_size[1]}"
        return f"{self.protocol}_{size}"

    def geometry(self, convention: Convention) -> CropGeometry:
        """The crop geometry of one convention; its heatmap side is not used by shards."""
        return CropGeometry(self.input_size, self.input_size, convention)

    def image_geometry(self, fit: Fit) -> ImageGeometry:
        """The geometry of whole images."""
        return ImageGeometry(self.input_size[0], fit)


@dataclass(frozen=True)
class SensorParams:
    """The camera of protocol `sensor`.

    Attributes:
        psf_sigma: standard deviation of the Gaussian point spread, target px.
        shot_noise: standard deviation of the signal-dependent noise at full scale, grey levels of 255.
        read_noise: standard deviation of the signal-independent noise, grey levels of 255.
        jpeg_quality: 1 (worst) to 100 (best), libjpeg's scale.
    """

    psf_sigma: float = 0.5
    shot_noise: float = 6.0
    read_noise: float = 2.0
    jpeg_quality: int = 75

    def __post_init__(self) -> None:
        if min(self.psf_sigma, self.shot_noise, self.read_noise) < 0:
            raise ValueError("psf_sigma, shot_noise and read_noise must not be negative")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality must be 1 to 100, got {self.jpeg_quality}")


@dataclass(frozen=True)
class DegradeParams:
    """Settings of every shard; see params/degrade.yaml for their effects.

    Attributes:
        seed: start of the sensor's noise.
        max_train_side: longest side of a stored training crop, px; of a whole image at least twice the input's size.
        margin_scale: largest zoom-out that augmentation may ask of the training crops.
        threads: images decoded at once; 0 means one per usable core.
        contact_sheet_persons: persons on the contact sheet.
        sensor: the camera of protocol `sensor`.
    """

    seed: int = 0
    max_train_side: int = 640
    margin_scale: float = 1.35
    threads: int = 0
    contact_sheet_persons: int = 24
    sensor: SensorParams = SensorParams()

    def __post_init__(self) -> None:
        if self.max_train_side < 16:
            raise ValueError(f"max_train_side must be at least 16 px, got {self.max_train_side}")
        if self.margin_scale < 1:
            raise ValueError(f"margin_scale must be at least 1, got {self.margin_scale}")
        if min(self.seed, self.threads, self.contact_sheet_persons) < 0:
            raise ValueError("seed, threads and contact_sheet_persons must not be negative")
