"""Protocol `antialias`: every target pixel is the mean of the area that it covers."""

from __future__ import annotations

from typing import Any

import numpy as np

from components.degrade.area import area_mean, to_uint8, upright_grid
from components.degrade.protocol import Protocol, View


class Antialias(Protocol):
    """Area means: exact in evaluation; in training by up to 4 x 4 samples of a store with up to 4 px per target px.

    Training crops that are zoomed in more than twice (half-body crops of large persons) are softer than evaluated ones.
    """

    name = "antialias"
    caption = "mean of the area under each pixel"
    density = 4.0
    taps = 4

    def crop(self, image: np.ndarray, view: View, settings: Any, seed: tuple[int, int, int]) -> np.ndarray:
        step, start = upright_grid(view.image_to_crop)
        return to_uint8(area_mean(image, start, step, view.size))


PROTOCOL = Antialias()
