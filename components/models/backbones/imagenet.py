"""What a backbone declares about the ImageNet weights that it may start from; `components.models.pretrained` uses it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn


class ImageNetBackbone(nn.Module):
    """A backbone that published ImageNet weights fit.

    Attributes:
        IMAGENET_NAME: timm's name of the weights; by default that of the backbone's shape.

    A module of a network can declare that ImageNet weights lack it (`IN_IMAGENET_WEIGHTS = False`), or lack the keys below it that
    start with one of `NOT_IN_IMAGENET_WEIGHTS`. A network whose backbone is not one module named `backbone` maps its own prefixes
    to the backbone's in `IMAGENET_PARTS`.
    """

    IMAGENET_NAME: str | None = None
    shape: Any  # how wide and how deep it is; has a `name`

    def imagenet_names(self, keys: Iterable[str], weights: Mapping[str, Tensor]) -> dict[str, str]:
        """Our key (relative to the backbone) → its name in `weights`, which may come from more than one source."""
        return {key: key for key in keys}

    def imagenet_adapted(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights in this backbone's shapes, where they depend on the input's size."""
        return dict(weights)
