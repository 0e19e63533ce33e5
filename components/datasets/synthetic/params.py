"""Settings of the synthetic data set."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SyntheticParams:
    """Size and contents of the synthetic data set; the same values give the same bytes on every machine.

    Attributes:
        train_images: images of the training split.
        val_images: images of the validation split.
        seed: of all scenes.
        min_height_px: shortest person, px of the image, before it is cut off or covered.
        max_height_px: tallest person, px of the image. Heights are drawn towards the short end, with density ∝ (h − min)^(−2/3).
        max_persons: largest number of persons in one image.
        empty_fraction: share of the images without any person.
        jpeg_quality: quality of the stored images, 1 to 100.
    """

    train_images: int = 600
    val_images: int = 200
    seed: int = 20170
    min_height_px: float = 20.0
    max_height_px: float = 300.0
    max_persons: int = 8
    empty_fraction: float = 0.04
    jpeg_quality: int = 92

    def __post_init__(self) -> None:
        if self.train_images < 1 or self.val_images < 1:
            raise ValueError(f"train_images and val_images must be at least 1, got {self.train_images} and {self.val_images}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if not 8 <= self.min_height_px < self.max_height_px <= 480:
            raise ValueError(f"need 8 <= min_height_px < max_height_px <= 480, got {self.min_height_px} and {self.max_height_px}")
        if not 1 <= self.max_persons <= 8:
            raise ValueError(f"max_persons must be 1 to 8, got {self.max_persons}")
        if not 0 <= self.empty_fraction < 1:
            raise ValueError(f"empty_fraction must be in [0, 1), got {self.empty_fraction}")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality must be 1 to 100, got {self.jpeg_quality}")
