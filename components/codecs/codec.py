"""The contract of a codec, the object that owns a method's targets, decoding and flip alignment.

There are two kinds: a `CropCodec` handles one person in a crop, an `ImageCodec` all persons of an image. A codec's module has the
codec's name and declares a `CODEC` record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, cast

import numpy as np
from torch import Tensor

from components.base.errors import FarposeError
from components.pose.crop import Convention, CropGeometry
from components.pose.skeleton import Skeleton

Outputs = tuple[Tensor, ...]
Targets = dict[str, Tensor]
Size = tuple[int, int]  # height, width


class AnyCodec(Protocol):
    """What both kinds of codec share.

    `targets` and `loss` never wait for the device (no `.item()`, no boolean indexing), so a CUDA graph can contain
    a training step.
    """

    convention: ClassVar[Convention]  # the crop convention of the method's paper
    geometry: CropGeometry
    skeleton: Skeleton
    settings: Any  # of the type that the codec's record names
    num_keypoints: int

    @property
    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of each tensor that the network must output for one input in eval mode, (K, H, W) for heatmaps."""

    @property
    def constants(self) -> dict[str, Any]:
        """The numbers in use, including derived ones, for logs and model cards."""

    @property
    def score_threshold(self) -> float:
        """Joints at or below this score do not count in a person's score, unless `evaluate.in_vis_threshold` says otherwise."""

    def flip(self, outputs: Outputs) -> Outputs:
        """Outputs for mirrored inputs, aligned with those for the upright ones."""

    def loss(self, outputs: Outputs, targets: Targets) -> dict[str, Tensor]:
        """`loss` is the total, with gradient; other entries are for logs.

        Args:
            outputs: of the network in training mode, which may have more of them than in eval mode (supervised stages).
        """

    def progress(self, fraction: float) -> None:
        """Called before each epoch with the completed share of the epochs, for losses that begin late."""


class CropCodec(AnyCodec, Protocol):
    """One person in a crop: keypoints ↔ training targets ↔ network outputs."""

    @property
    def flip_border(self) -> tuple[int, int]:
        """Cells at the start and end of an output's last axis that `flip` has no value for and fills with their neighbour."""

    def targets(self, keypoints_crop: Tensor, visible: Tensor) -> Targets:
        """Training targets.

        Args:
            keypoints_crop: (B, K, 2) px of the crop.
            visible: (B, K) bool; a joint that is not visible weighs 0 and its coordinates are ignored (NaN included).
        Returns:
            At least `weights` (B, K). All tensors have the dtype of the keypoints.
        """

    def fuse(self, outputs: Outputs, aligned: Outputs) -> Outputs:
        """One set of outputs from those for the upright crops and, through `flip`, those for the mirrored ones."""

    def decode(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        """Keypoints (B, K, 2) in heatmap cells, and scores (B, K)."""

    def perfect(self, targets: Targets) -> Outputs:
        """The method's own targets as outputs, as a network without error outputs them."""

    def nearest(self, keypoints_heatmap: Tensor) -> Tensor:
        """The nearest point to each keypoint that `decode` can return for any outputs.

        This is the decoder's resolution: no network can be nearer. A superset of these points is used where the exact set is unknown.

        Args:
            keypoints_heatmap: (..., 2) heatmap cells.
        Returns:
            (..., 2) heatmap cells.
        """


class Grouped(Protocol):
    """The persons of one image; see `associative_embedding.GroupedPersons`."""

    @property
    def keypoints(self) -> np.ndarray: ...  # (N, K, 2) cells of the map that `find` was given
    @property
    def keypoint_scores(self) -> np.ndarray: ...  # (N, K)
    @property
    def scores(self) -> np.ndarray: ...  # (N,)


class ImageCodec(AnyCodec, Protocol):
    """All persons of an image. Targets take any number of persons; decoding returns those that it finds.

    Frames: cells of a map that covers the input, which are those of an output or px of the input. The joint (x, y) lies in the cell
    (int(x), int(y)).
    """

    # sides of the maps in whose cells joints are given, for a square input of the training size: of each output, or, where a codec places
    # joints within cells, of the input
    output_sizes: tuple[int, ...]

    @property
    def detection_threshold(self) -> float:
        """Joints that score this or less are uncertain: boxes of persons and pictures leave them out."""

    def targets(self, keypoints: Sequence[Tensor], visible: Tensor, masks: Sequence[Tensor]) -> Targets:
        """Training targets. A joint that is not visible, or outside of an output's map, has no target there.

        Args:
            keypoints: per size of `output_sizes` (B, P, K, 2) cells; P may be any number, and padded persons have no visible joint.
            visible: (B, P, K) bool.
            masks: per size (B, h, w) bool, True where the heatmap loss counts.
        """

    def find(
        self, upright: Sequence[Outputs], mirrored: Sequence[Outputs] | None, scales: Sequence[float], size: Size
    ) -> Sequence[Grouped]:
        """The persons of each image, in cells of a map of `size`; an image's result does not depend on the others of the batch.

        Args:
            upright, mirrored: the network's outputs (B, ...) per scale, for the images and for the mirrored images.
            scales: as many test scales, the largest first.
            size: (h, w) of a map that covers the images, usually the network's input.
        """

    def perfect(self, keypoints: Sequence[Tensor], visible: Tensor, sizes: Sequence[Size] | None = None) -> Outputs:
        """The method's own targets as outputs, as a network without error outputs them.

        Args:
            keypoints: per size of `output_sizes` (B, P, K, 2) cells.
            visible: (B, P, K) bool.
            sizes: (h, w) of each of these maps; by default those of the training size.
        """

    def nearest(self, keypoints: Tensor, size: Size) -> Tensor:
        """The nearest point to each joint that `decode` can return for any maps, as in `CropCodec.nearest`.

        Args:
            keypoints: (..., 2) cells of a map of `size`, as `find` returns them.
            size: (h, w).
        Returns:
            (..., 2) cells of the same map.
        """


Codec = CropCodec | ImageCodec


def as_crop_codec(codec: Codec) -> CropCodec:
    """The codec as a `CropCodec`.

    Raises:
        FarposeError: it is a codec for whole images.
    """
    if hasattr(codec, "find"):
        raise FarposeError(f"{type(codec).__name__} decodes whole images, not crops of one person")
    return codec


def as_image_codec(codec: Codec) -> ImageCodec:
    """The codec as an `ImageCodec`.

    Raises:
        FarposeError: it is a codec for crops.
    """
    if not hasattr(codec, "find"):
        raise FarposeError(f"{type(codec).__name__} decodes crops of one person, not whole images")
    return cast(ImageCodec, codec)


@dataclass(frozen=True)
class CodecRecord:
    """The record that a codec's module declares as `CODEC`.

    Attributes:
        name: used by methods and variants; also the module's name.
        make: the class, called with geometry, skeleton and settings.
        settings: frozen dataclass of the settings that a variant's `codec:` may contain.
        convention: the crop convention of the method's paper.
        approach: "crops" for a `CropCodec`, "images" for an `ImageCodec`.
    """

    name: str
    make: Callable[[CropGeometry, Skeleton, Any], Codec]
    settings: type[Any]
    convention: Convention
    approach: Literal["crops", "images"] = "crops"
