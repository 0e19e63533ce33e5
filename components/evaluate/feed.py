"""The part of an approach that training uses: batches of a shard, and the validation AP.

It is separate from the rest of the approach, so that only a change of the training data retrains a model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from components.base.errors import FarposeError
from components.codecs.codec import Codec
from components.degrade.augment import AugmentParams
from components.degrade.augment_images import ImageAugmentParams
from components.degrade.streamed import Place
from components.evaluate.ranks import ALONE, Ranks
from components.models.variant import Variant
from components.pose.crop import CropGeometry
from components.pose.skeleton import Skeleton

WHOLE = slice(None)


class FeedRecipe(Protocol):
    """The part of a training recipe that a feed uses."""

    @property
    def augmentation(self) -> AugmentParams: ...
    @property
    def image_augmentation(self) -> ImageAugmentParams: ...


@dataclass(frozen=True)
class Drawn:
    """One step's batch.

    Attributes:
        images: (B, 3, H, W) normalised.
        targets: of the codec.
        supervised: () bool, whether any target of it has weight.
    """

    images: Tensor
    targets: dict[str, Tensor]
    supervised: Tensor


class Feed(Protocol):
    """Batches of one shard on the device. Call `place` before `draw` and `validate`."""

    @property
    def metric(self) -> str:
        """Name of the validation AP in history and logs, such as `dev_AP_gt_boxes`."""
        ...

    @property
    def skeleton(self) -> Skeleton: ...

    def __len__(self) -> int: ...

    def place(self, codec: Codec, recipe: FeedRecipe, device: torch.device) -> Place[Any]:
        """Bring the training data to the device, or fetch them from the disk batch by batch if they do not fit."""
        ...

    def draw(self, indices: Tensor, seed: int, part: slice = WHOLE) -> Drawn:
        """The augmented batch of (B,) indices into the shard, with its targets; the same for the same seed.

        Args:
            part: of the batch that is made; it looks as it does in the whole batch.
        """
        ...

    def view(self, indices: Tensor, seed: int, geometry: CropGeometry, part: slice = WHOLE) -> Tensor:
        """(B, 3, H, W) normalised: what `draw` shows for the same seed, in crops of another geometry and the same shape.

        Raises:
            FarposeError: the feed is of whole images.
        """
        ...

    def name(self, indices: np.ndarray) -> str:
        """The ids of these persons or images, for an error message."""
        ...

    def validate(self, model: nn.Module, flip: bool, bf16: bool, device: torch.device, ranks: Ranks = ALONE) -> float:
        """AP on the shard's crops or images of the validation split; each process finds the joints of its part, once."""
        ...


@dataclass(frozen=True)
class FeedRecord:
    """An approach's feed: its name, and how a shard is opened, (variant, directory, validation split) → feed.

    `FEED` of a module in `components.approaches`; `components.approaches.feed` looks it up.
    """

    name: str
    open: Callable[[Variant, str | Path, str], Feed]


def check_shard(variant: Variant, input_size: tuple[int, int], skeleton: Skeleton) -> None:
    """Check that a shard fits the variant.

    Raises:
        FarposeError: it has another input size or skeleton.
    """
    if input_size != variant.input_size:
        made, wanted = ("{}x{}".format(*size) for size in (input_size, variant.input_size))
        problem = f"the shard's {variant.approach} are {made} px, the variant needs {wanted}"
        raise FarposeError(problem, where=f"variant {variant.name}", fix="name the matching shard in params/pipeline.yaml")
    if skeleton.name != variant.skeleton.name:
        problem = f"the shard's persons have the joints {skeleton.name}, the variant predicts {variant.skeleton.name}"
        raise FarposeError(problem, where=f"variant {variant.name}", fix="make a shard of the variant's data set")
