"""Number, heights and places of the people."""

from __future__ import annotations

from dataclasses import dataclass

from components.datasets.synthetic.exact import Draw
from components.datasets.synthetic.params import SyntheticParams

_COUNTS = {1: 26, 2: 20, 3: 16, 4: 12, 5: 9, 6: 7, 7: 5, 8: 5}


@dataclass(frozen=True)
class Place:
    """The place of one person.

    Attributes:
        x, ground: px of the image: column of the person's middle, row of the ground under the lowest point.
        height_px: longer side of the whole figure, px.
        elevation: degrees by which the camera looks down.
    """

    x: float
    ground: float
    height_px: float
    elevation: float


def place_persons(draw: Draw, params: SyntheticParams, width: int, height: int, horizon: int) -> list[Place]:
    """Places seen by a camera above a plane: nearer people are taller and lower in the image. Some scenes are groups of similar heights."""
    if draw.chance(params.empty_fraction):
        return []
    count = draw.weighted({number: weight for number, weight in _COUNTS.items() if number <= params.max_persons})
    camera_height = draw.between(0.75, 2.2)  # in statures; more looks down on the people
    elevation = draw.between(-4.0, 10.0) + 7.0 * (camera_height - 0.75)
    group = draw.chance(0.3)
    middle, leader = draw.between(0.2, 0.8) * width, _height(draw, params)
    places = []
    for _ in range(count):
        if group:
            tall = min(max(leader * draw.between(0.82, 1.15), params.min_height_px), params.max_height_px)
            x = middle + tall * draw.between(-0.28, 0.28) * count
        else:
            tall, x = _height(draw, params), draw.between(-0.04, 1.04) * width
        ground = horizon + camera_height * tall * draw.between(0.92, 1.08)
        if ground > height and draw.chance(0.7):  # pull most of the near ones into the image
            ground = height * draw.between(0.90, 1.03)
        x = min(max(x, -0.08 * tall), width + 0.08 * tall)
        places.append(Place(x, min(ground, height + 0.62 * tall), tall, elevation))
    return places


def _height(draw: Draw, params: SyntheticParams) -> float:
    share = draw.between(0.0, 1.0)
    return params.min_height_px + (params.max_height_px - params.min_height_px) * share * share * share
