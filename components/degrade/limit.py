"""Persons of limited height: the image around them is reduced by area means before it is sampled, as if they stood further away."""

from __future__ import annotations

import numpy as np

from components.degrade.area import area_mean, to_uint8, upright_grid
from components.degrade.protocol import View

BORDER = 8  # target px around the view that are kept, more than any protocol reaches


def limited(image: np.ndarray, view: View, step: float) -> tuple[np.ndarray, View]:
    """The image around a view at `step` px per px, and the same view of it; both as they are where `step` is at most 1.

    Args:
        image: (H, W, 3) uint8 BGR; black outside.
        step: image px per px of the result, the same along both axes.
    Returns:
        (h, w, 3) uint8 BGR, whose first px lies `BORDER` target px outside of the view, and the view of it.
    """
    if step <= 1:
        return image, view
    (step_x, step_y), (first_x, first_y) = upright_grid(view.image_to_crop)
    height, width = view.size
    left, top = first_x - (BORDER + 0.5) * step_x, first_y - (BORDER + 0.5) * step_y  # edges, not centres
    start = left + step / 2, top + step / 2
    size = int(np.ceil((height + 2 * BORDER) * step_y / step)), int(np.ceil((width + 2 * BORDER) * step_x / step))
    reduced = to_uint8(area_mean(image, start, (step, step), size))
    to_image = np.array([[step, 0.0, start[0]], [0.0, step, start[1]], [0.0, 0.0, 1.0]])
    return reduced, View(view.image_to_crop @ to_image, view.size, view.convention)
