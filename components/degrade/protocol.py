"""The contract of a degradation protocol: how evaluation samples images, what training stores, and how the device degrades it.

A protocol is one file in `components/degrade/protocols/` that declares `PROTOCOL`. No other file names it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from components.base.errors import unknown_name
from components.base.records import records
from components.pose.crop import Convention

if TYPE_CHECKING:
    from torch import Tensor

    from components.degrade.sample import Rendered

PACKAGE = "components.degrade.protocols"


@dataclass(frozen=True)
class View:
    """The part of an image that is sampled.

    Attributes:
        image_to_crop: (2, 3) float64 without rotation, image px (centre of the first pixel at 0) to px of the crop.
        size: (height, width) of the crop, px.
        convention: of the crop geometry.
    """

    image_to_crop: np.ndarray
    size: tuple[int, int]
    convention: Convention = "classic"


@dataclass(frozen=True)
class Layout:
    """How N evaluation inputs are sampled: (N, 2, 3) matrices from image px, and (N, 2) heights and widths, px."""

    image_to_input: np.ndarray
    sizes: np.ndarray
    convention: Convention = "classic"

    def of(self, rows: np.ndarray) -> Layout:
        """Those of some rows."""
        return Layout(self.image_to_input[rows], self.sizes[rows], self.convention)

    @property
    def ends(self) -> np.ndarray:
        """(N,) end of each input in the flat file, bytes."""
        return np.cumsum(3 * self.sizes.prod(1))


class Protocol(ABC):
    """One way to degrade images. A subclass sets the attributes and methods; its only instance is the file's `PROTOCOL`.

    Training crops are stored clean: as they are, or as means over the area of the stored px. On the device, after augmentation,
    each crop is sampled on a grid of `oversampling` px per target px. Each px of the grid is the mean of up to `taps` x `taps`
    samples, which are spread so that together they cover its area. `degrade` turns the grid into the target's px.

    Attributes:
        name: as in params/pipeline.yaml.
        caption: one clause for the contact sheet.
        density: most stored px per px of an unscaled target; None: training crops keep the image's own px.
        taps: most samples per px of the grid and axis; 1: one bilinear sample, aliased.
        oversampling: px of the grid per target px and axis.
        redraws: whether `degrade` uses its keys, so that a crop differs from step to step.
        varies: whether training crops are meant to differ from evaluated ones, by a drawn amount.
        settings: frozen dataclass of the settings in params/degrade.yaml (`protocols: NAME:`); None: no settings.
    """

    name: str
    caption: str
    density: float | None = None
    taps: int = 1
    oversampling: int = 1
    redraws: bool = False
    varies: bool = False
    settings: type[Any] | None = None

    @abstractmethod
    def crop(self, image: np.ndarray, view: View, settings: Any, seed: tuple[int, int, int]) -> np.ndarray:
        """(h, w, 3) uint8 BGR: a crop or a whole image exactly as it is evaluated. Outside the image it is black.

        Args:
            image: (H, W, 3) uint8 BGR.
            settings: an object of `self.settings`, or None.
            seed: the shard's seed, image id and annotation id; they decide all noise, whatever the order of work.
        """

    def padding(self, settings: Any) -> int:
        """Px of the grid that `degrade` needs beyond each edge of the target."""
        return 0

    def degrade(self, rendered: Rendered, settings: Any) -> Tensor:
        """(B, 3, h, w) float32 grey levels 0..255 of the targets. Fixed shapes, no host synchronisation, no random state."""
        return rendered.grey_levels

    def stored_step(self, target_step: np.ndarray) -> np.ndarray:
        """(N,) image px per stored px, at least 1, for targets with `target_step` (N,) image px per px."""
        return np.ones(len(target_step)) if self.density is None else np.maximum(target_step / self.density, 1.0)


def protocols() -> dict[str, Protocol]:
    """Every protocol by name."""
    return records(PACKAGE, "PROTOCOL")


def protocol(name: str, where: object = None) -> Protocol:
    """The protocol of a name.

    Raises:
        FarposeError: unknown; lists the known ones.
    """
    known = protocols()
    if name not in known:
        raise unknown_name("protocol", name, known, where=where)
    return known[name]
