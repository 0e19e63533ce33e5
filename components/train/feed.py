"""What a training run learns from: persons' crops (top-down) or whole images (bottom-up), as batches on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from components.base.errors import FarposeError
from components.models.variant import Variant
from components.pose.skeleton import Skeleton
from components.train.recipe import Recipe
from components.train.step import Targets


@dataclass(frozen=True)
class Drawn:
    """One step's batch.

    Attributes:
        images: (B, 3, H, W) normalised.
        targets: of the codec.
        teaches: () bool, whether anything in it can be learned from.
    """

    images: Tensor
    targets: Targets
    teaches: Tensor


class Feed(Protocol):
    """Batches of one shard. `place` comes before `draw` and `validate`."""

    unit: ClassVar[str]  # what is counted: "crops" or "images"
    metric: ClassVar[str]  # name of the validation AP in history and logs

    @property
    def skeleton(self) -> Skeleton: ...

    def __len__(self) -> int: ...

    def place(self, codec: Any, recipe: Recipe, device: torch.device) -> None:
        """Bring the training data to the device."""
        ...

    def draw(self, indices: Tensor, seed: int) -> Drawn:
        """The augmented batch of (B,) indices into the shard, with its targets; the same for the same seed."""
        ...

    def name(self, indices: np.ndarray) -> str:
        """Which persons or images these are, for an error."""
        ...

    def validate(self, model: nn.Module, flip: bool, bf16: bool, device: torch.device) -> float:
        """AP on the shard's validation data."""
        ...


def check_shard(variant: Variant, input_size: tuple[int, int], skeleton: Skeleton) -> None:
    """Whether a shard is what the variant learns from.

    Raises:
        FarposeError: it has another input size or skeleton.
    """
    if input_size != variant.input_size:
        made, wanted = ("{}x{}".format(*size) for size in (input_size, variant.input_size))
        problem = f"the shard's {'images' if variant.bottom_up else 'crops'} are {made} px, the variant needs {wanted}"
        raise FarposeError(problem, where=f"variant {variant.name}", fix="name the matching shard in params/pipeline.yaml")
    if skeleton.name != variant.skeleton.name:
        problem = f"the shard's persons have the joints {skeleton.name}, the variant predicts {variant.skeleton.name}"
        raise FarposeError(problem, where=f"variant {variant.name}", fix="make a shard of the variant's data set")
