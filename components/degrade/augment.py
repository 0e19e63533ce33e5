"""Augmentation of whole batches on the device: half-body, scale, rotation, flip, as the published trainers draw them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from components.base.errors import FarposeError
from components.degrade.half_body import choose_half, half_body_box
from components.degrade.render import KEYS, render
from components.degrade.sample import normalise
from components.degrade.shards import TrainCrops
from components.pose.crop import CropGeometry, compose, invert, transform
from components.pose.skeleton import Skeleton

# The published code draws randn() < 0.5 where rand() < 0.5 is meant: the normal distribution's value at 0.5.
PUBLISHED_UPPER_PROBABILITY = 0.6914624612740131


@dataclass(frozen=True)
class AugmentParams:
    """How training crops are varied. The defaults are those of every published top-down trainer on COCO.

    Attributes:
        flip_probability: of mirroring left and right.
        scale_sigma: the box is scaled by clip(1 + scale_sigma * N(0, 1), 1 - scale_sigma, 1 + scale_sigma).
        rotation_sigma: degrees; the angle is clip(rotation_sigma * N(0, 1), -2 rotation_sigma, 2 rotation_sigma).
        rotation_probability: of rotating at all.
        half_body_probability: of cropping around one half of a person's joints.
        half_body_joints: only persons with more labelled joints than this are cropped so.
        half_body_choice: "corrected": upper or lower half with equal chance; "published": a slip in the published code takes the
            upper half in 69 % of the cases.
        shift_probability: of moving the box before it is mirrored, scaled and turned (mmpose's TopDownRandomShiftBboxCenter).
        shift_factor: the box moves by U(-1, 1) * shift_factor of its padded width and height; half-body boxes do not move.
        colour_sigma: the normalised image is multiplied by 1 + colour_sigma * N(0, 1), and colour_sigma * N(0, 1) is added to each
            channel (ours; the published trainers leave colours as they are).
    """

    flip_probability: float = 0.5
    scale_sigma: float = 0.35
    rotation_sigma: float = 45.0
    rotation_probability: float = 0.6
    half_body_probability: float = 0.3
    half_body_joints: int = 8
    half_body_choice: Literal["corrected", "published"] = "corrected"
    shift_probability: float = 0.0
    shift_factor: float = 0.0
    colour_sigma: float = 0.0

    def __post_init__(self) -> None:
        for name in ("flip_probability", "rotation_probability", "half_body_probability", "shift_probability", "shift_factor"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0..1, got {getattr(self, name)}")
        if not 0 <= self.scale_sigma < 1 or self.rotation_sigma < 0 or self.colour_sigma < 0:
            raise ValueError("scale_sigma must lie in 0..1, rotation_sigma and colour_sigma must not be negative")

    @property
    def margin_scale(self) -> float:
        """Size of a training crop in padded boxes at which every view lies inside the crop."""
        return 1 + self.scale_sigma + (2 * self.shift_factor if self.shift_probability else 0.0)

    @classmethod
    def none(cls) -> AugmentParams:
        """No augmentation: crops as they are evaluated, except that stored crops are interpolated."""
        return cls(flip_probability=0, scale_sigma=0, rotation_probability=0, half_body_probability=0)


@dataclass(frozen=True)
class Batch:
    """Training input.

    Attributes:
        images: (B, 3, H, W) float32, normalised by ImageNet's mean and deviation.
        keypoints_crop: (B, K, 2) float32, crop px; may lie outside the crop.
        visible: (B, K) bool, labelled in the annotation.
    """

    images: Tensor
    keypoints_crop: Tensor
    visible: Tensor


class Augmenter:
    """Draws and applies the augmentation of a batch.

    `augmenter(crops, indices, seed)` is `augmenter.apply(crops, indices, augmenter.draw(len(indices), seed))`; the
    second half has fixed shapes and no host synchronisation, so a CUDA graph can hold it.

    Args:
        geometry: of the network's input.
        params: `AugmentParams.none()` for crops as evaluated.
        skeleton: whose joints swap sides when a person is mirrored.
    """

    def __init__(self, geometry: CropGeometry, params: AugmentParams, skeleton: Skeleton) -> None:
        self.geometry, self.params = geometry, params
        self._skeleton = skeleton
        self._on_device: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, crops: TrainCrops, indices: Tensor, seed: int) -> Batch:
        """The augmented batch of persons `indices` (B,); the same for the same `seed`, on every device.

        Raises:
            FarposeError: the shard is of another input size, or its margin is too small for the scale augmentation.
        """
        return self.apply(crops, indices.to(crops.device), self.draw(len(indices), seed).to(crops.device, non_blocking=True))

    def draw(self, batch_size: int, seed: int) -> Tensor:
        """(B, 12) float64 on the CPU: scale factor; degrees; mirrored, half-body and prefers-upper (0 or 1 each); the shift in x and y
        as a share of the padded box; the key of the noise; the factor and the three summands of the colours.

        A counter-based generator keyed by `seed` (at least 0) draws them, so no state is kept.
        """
        p, generator = self.params, np.random.Generator(np.random.Philox(key=seed))
        normal, uniform = generator.standard_normal((2, batch_size)), generator.random((4, batch_size))
        scale = np.clip(normal[0] * p.scale_sigma + 1, 1 - p.scale_sigma, 1 + p.scale_sigma)
        degrees = np.clip(normal[1] * p.rotation_sigma, -2 * p.rotation_sigma, 2 * p.rotation_sigma)
        degrees = np.where(uniform[0] < p.rotation_probability, degrees, 0)
        upper_probability = PUBLISHED_UPPER_PROBABILITY if p.half_body_choice == "published" else 0.5
        flags = uniform[1] < p.flip_probability, uniform[2] < p.half_body_probability, uniform[3] < upper_probability
        shift = generator.random((3, batch_size))  # last, so that the other draws do not depend on it
        shift = np.where(shift[0] < p.shift_probability, (2 * shift[1:] - 1) * p.shift_factor, 0)
        noise = generator.integers(KEYS, size=batch_size)
        colours = p.colour_sigma * generator.standard_normal((4, batch_size))
        colours[0] += 1
        return torch.from_numpy(np.stack([scale, degrees, *flags, *shift, noise, *colours], 1))

    def apply(self, crops: TrainCrops, indices: Tensor, draws: Tensor) -> Batch:
        """The batch for given draws; all arguments on the crops' device."""
        self._check(crops)
        flip_permutation, upper_body = self._constants(crops.device)
        scale, degrees, mirrored, half_body, prefers_upper = draws[:, :5].unbind(1)
        mirrored, half_body, prefers_upper = mirrored > 0.5, half_body > 0.5, prefers_upper > 0.5
        keypoints, visible = crops.keypoints_image[indices], crops.visible[indices]
        center, size = crops.center[indices], crops.size[indices]
        center, size = self._boxes(center + draws[:, 5:7] * size, size, keypoints, choose_half(visible, upper_body, prefers_upper),
                                   half_body & (visible.sum(1) > self.params.half_body_joints))  # fmt: skip
        matrix = self.geometry.image_to_crop(center, size * scale[:, None], degrees)
        matrix = torch.where(mirrored[:, None, None], compose(matrix, _mirror_about(center)), matrix)
        crop_to_stored = compose(crops.image_to_stored[indices], invert(matrix))
        grey_levels = render(crops, indices, crop_to_stored, self.geometry.input_size, draws[:, 7])
        keypoints = torch.where(mirrored[:, None, None], keypoints[:, flip_permutation], keypoints)
        visible = torch.where(mirrored[:, None], visible[:, flip_permutation], visible)
        images = normalise(grey_levels, out=grey_levels)
        if self.params.colour_sigma:
            factor, summands = draws[:, 8].float(), draws[:, 9:12].float()
            images = torch.addcmul(summands[:, :, None, None], images, factor[:, None, None, None])
        return Batch(images, transform(matrix, keypoints).float(), visible)

    def _boxes(self, center: Tensor, size: Tensor, keypoints: Tensor, chosen: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Centre and size (B, 2), image px, of the chosen half where it is wanted and possible, else of the whole person."""
        aspect = self.geometry.input_size[1] / self.geometry.input_size[0]
        half_center, half_size, exists = half_body_box(keypoints, chosen, aspect)
        takes = (wanted & exists)[:, None]
        return torch.where(takes, half_center, center), torch.where(takes, half_size, size)

    def _constants(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The flip permutation and the upper body's mask; copied once, because a CUDA graph cannot contain a copy from the host."""
        if device not in self._on_device:
            permutation, mask = torch.tensor(self._skeleton.flip_permutation), torch.from_numpy(self._skeleton.upper_body_mask)
            self._on_device[device] = permutation.to(device), mask.to(device)
        return self._on_device[device]

    def _check(self, crops: TrainCrops) -> None:
        if crops.input_size != self.geometry.input_size:
            raise FarposeError(f"shard is for input size {crops.input_size}, the model takes {self.geometry.input_size}")
        needed = self.params.margin_scale
        if needed > crops.margin_scale + 1e-9:
            raise FarposeError(f"the augmentation asks for more margin ({needed:g}x) than the shard holds ({crops.margin_scale:g}x)",
                               fix="raise the shard's margin_scale, or lower scale_sigma and shift_factor")  # fmt: skip


def _mirror_about(center: Tensor) -> Tensor:
    """(B, 2, 3) matrices that mirror x about the box's centre.

    The published trainers mirror the whole image (x → W - 1 - x, for the centre too) and then crop around the new
    centre; W drops out of the product.
    """
    mirror = torch.zeros(len(center), 2, 3, dtype=center.dtype, device=center.device)
    mirror[:, 0, 0], mirror[:, 0, 2], mirror[:, 1, 1] = -1, 2 * center[:, 0], 1
    return mirror
