"""Augmentation of whole images on the device: rotation, scale, shift and flip, as the published bottom-up trainers draw them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from components.base.errors import FarposeError
from components.degrade.image_shards import COUNTED_FULLY, TrainImages
from components.degrade.render import KEYS, render
from components.degrade.sample import COUNTED, normalise, sample
from components.pose.crop import compose, invert, transform
from components.pose.skeleton import Skeleton
from components.pose.whole_image import MULTIPLE, view

SMALLEST_FOCUS = 16.0  # px of the image; the least span of a person's joints when its view is chosen, because a single joint spans none
PUBLISHED_UNIT = 200.0  # px of the image per unit of the published scale; its translation is in px per unit


@dataclass(frozen=True)
class ImageAugmentParams:
    """How training images are varied. The defaults are those of HigherHRNet's and LitePose's published trainers.

    Attributes:
        flip_probability: of mirroring left and right.
        max_rotation: degrees; the angle is uniform in -max_rotation..max_rotation.
        focus: what a view is centred on and scaled by. "image" (published): the image's middle and side. "person" (ours): the middle of
            one labelled person's joints, drawn uniformly, and the longer side that these joints span, so that small persons appear
            as large as large ones. Images without labelled persons use "image".
        min_scale, max_scale: the input shows a square of this many sides of the focus, uniform; 1.5 shows more, at a smaller size.
        max_translation: the square's middle is shifted by whole image px, uniform in -n..n-1 per axis, where n is this many
            200ths of the square's side: 40 is a fifth of the view at any input size.
        scale_type: the side of the image that the scale refers to: "short" or "long".
        side: of the training square, px, a multiple of 64; None: the input's size. A smaller square that shows a
            proportionally smaller part of the image (min_scale, max_scale) has the density of evaluation images at a fraction of the cost.
    """

    flip_probability: float = 0.5
    max_rotation: float = 30.0
    focus: Literal["image", "person"] = "image"
    min_scale: float = 0.75
    max_scale: float = 1.5
    max_translation: float = 40.0
    scale_type: Literal["short", "long"] = "short"
    side: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.flip_probability <= 1:
            raise ValueError(f"flip_probability must lie in 0..1, got {self.flip_probability}")
        if not 0 < self.min_scale <= self.max_scale:
            raise ValueError(f"min_scale must be positive and at most max_scale, got {self.min_scale} and {self.max_scale}")
        if min(self.max_rotation, self.max_translation) < 0:
            raise ValueError("max_rotation and max_translation must not be negative")
        if self.side is not None and (self.side < 1 or self.side % MULTIPLE):
            raise ValueError(f"side must be a positive multiple of {MULTIPLE} px or null, got {self.side}")

    @classmethod
    def none(cls) -> ImageAugmentParams:
        """No augmentation: the square in the middle of the image, as wide as its short side."""
        return cls(flip_probability=0, max_rotation=0, min_scale=1, max_scale=1, max_translation=0)


@dataclass(frozen=True)
class ImageBatch:
    """Training input.

    Attributes:
        images: (B, 3, S, S) float32, normalised by ImageNet's mean and deviation.
        keypoints: per output (B, M, K, 2) float32, its cells; may lie outside.
        visible: (B, M, K) bool, labelled in the annotation; False where an image has fewer than M persons.
        masks: per output (B, h, w) bool, True where the loss counts: inside the image, except on ignored persons.
    """

    images: Tensor
    keypoints: tuple[Tensor, ...]
    visible: Tensor
    masks: tuple[Tensor, ...]


class ImageAugmenter:
    """Draws and applies the augmentation of a batch of whole images.

    `augmenter(images, indices, seed)` is `augmenter.apply(images, indices, augmenter.draw(len(indices), seed))`; the
    second half has fixed shapes and no host synchronisation, so a CUDA graph can hold it.

    Args:
        size: side of the network's input, px.
        output_sizes: side of each of its outputs for such an input, cells; scaled in proportion if `params.side` differs from `size`.
        params: `ImageAugmentParams.none()` to switch it off.
        skeleton: whose joints swap sides when an image is mirrored.
    """

    def __init__(self, size: int, output_sizes: tuple[int, ...], params: ImageAugmentParams, skeleton: Skeleton) -> None:
        self.input_size, self.size, self.params = size, params.side or size, params
        self.output_sizes = tuple(cells * self.size // size for cells in output_sizes)
        self._skeleton = skeleton
        self._permutation: dict[torch.device, Tensor] = {}

    def __call__(self, images: TrainImages, indices: Tensor, seed: int) -> ImageBatch:
        """The augmented batch of images `indices` (B,); the same for the same `seed`, on every device.

        Raises:
            FarposeError: the shard is of another input size.
        """
        return self.apply(images, indices.to(images.device), self.draw(len(indices), seed).to(images.device, non_blocking=True))

    def draw(self, batch_size: int, seed: int) -> Tensor:
        """(B, 7) float64 on the CPU: scale factor, degrees, place of the shift in x and y (0..1), mirrored (0 or 1), person (0..1),
        key of the noise. As in `Augmenter.draw`, `seed` (at least 0) decides them all.
        """
        p = self.params
        generator = np.random.Generator(np.random.Philox(key=seed))
        uniform, keys = generator.random((6, batch_size)), generator.integers(KEYS, size=batch_size)
        scale = p.min_scale + uniform[0] * (p.max_scale - p.min_scale)
        degrees = (2 * uniform[1] - 1) * p.max_rotation
        return torch.from_numpy(np.stack([scale, degrees, uniform[2], uniform[3], uniform[4] < p.flip_probability, uniform[5], keys], 1))

    def apply(self, images: TrainImages, indices: Tensor, draws: Tensor) -> ImageBatch:
        """The batch for given draws; all arguments on the images' device."""
        if images.input_size != (self.input_size, self.input_size):
            raise FarposeError(f"shard is for input size {images.input_size}, the model takes {(self.input_size, self.input_size)}")
        mirrored = draws[:, 4] > 0.5
        center, side = self._views(images, indices, draws)

        def matrix(size: int) -> Tensor:
            upright = view(center, side, size, draws[:, 1])
            return torch.where(mirrored[:, None, None], _mirrored(upright, size), upright)

        def to_stored(size: int) -> Tensor:
            return compose(images.image_to_stored[indices], invert(matrix(size)))

        grey_levels = render(images, indices, to_stored(self.size), (self.size, self.size), draws[:, 6])
        # The published mask is warped as 0 and 255, rounded, and counts above 127.
        masks = tuple(
            sample(*images.place(indices), to_stored(size), (size, size), (COUNTED,), COUNTED)[:, 0] >= COUNTED_FULLY / 2
            for size in self.output_sizes
        )
        keypoints, visible = self._joints(images, indices, mirrored)
        cells = tuple(transform(matrix(size), keypoints).float() for size in self.output_sizes)
        return ImageBatch(normalise(grey_levels, out=grey_levels), cells, visible, masks)

    def _views(self, images: TrainImages, indices: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Centre (B, 2) and side (B,), image px, of the squares that the inputs show."""
        whole = images.image_size[indices].double()
        middle, length = whole / 2, whole.amin(1) if self.params.scale_type == "short" else whole.amax(1)
        if self.params.focus == "person":
            found, its_middle, its_length = _one_person(images.keypoints_image[indices].double(), images.visible[indices], draws[:, 5])
            middle, length = torch.where(found[:, None], its_middle, middle), torch.where(found, its_length, length)
        side = length * draws[:, 0]
        reach = torch.floor(self.params.max_translation / PUBLISHED_UNIT * side)[:, None]
        shift = torch.minimum(torch.floor(2 * reach * draws[:, 2:4]), 2 * reach - 1) - reach
        return middle + torch.where(reach > 0, shift, 0), side

    def _joints(self, images: TrainImages, indices: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
        """Keypoints (B, M, K, 2) float64, image px, and visible (B, M, K), with sides swapped where mirrored."""
        permutation = self._flip_permutation(images.device)
        keypoints, visible = images.keypoints_image[indices].double(), images.visible[indices]
        keypoints = torch.where(mirrored[:, None, None, None], keypoints[:, :, permutation], keypoints)
        return keypoints, torch.where(mirrored[:, None, None], visible[:, :, permutation], visible)

    def _flip_permutation(self, device: torch.device) -> Tensor:
        """Copied to a device once, because a CUDA graph cannot contain a copy from the host."""
        if device not in self._permutation:
            self._permutation[device] = torch.tensor(self._skeleton.flip_permutation).to(device)
        return self._permutation[device]


def _one_person(keypoints: Tensor, visible: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Whether there is a labelled person (B,), and the middle (B, 2) and longer side (B,), image px, of the joints of one.

    Args:
        keypoints: (B, M, K, 2) image px.
        visible: (B, M, K) bool.
        place: (B,) in 0..1, the chosen person's place among the image's labelled persons.
    """
    labelled = visible.any(2)
    count = labelled.sum(1, keepdim=True)
    rank = labelled.cumsum(1) - 1
    person = (labelled & (rank == torch.floor(place[:, None] * count))).byte().argmax(1)
    row = torch.arange(len(person), device=person.device)
    joints, seen = keypoints[row, person], visible[row, person][..., None]
    low, high = torch.where(seen, joints, torch.inf).amin(1), torch.where(seen, joints, -torch.inf).amax(1)
    return count[:, 0] > 0, (low + high) / 2, (high - low).amax(1).clamp(min=SMALLEST_FOCUS)


def _mirrored(matrix: Tensor, size: int) -> Tensor:
    """The matrices followed by x → size - 1 - x: published flips mirror each output's own array."""
    shift = torch.zeros_like(matrix[:, 0])
    shift[:, 2] = size - 1
    return torch.stack([shift - matrix[:, 0], matrix[:, 1]], 1)
