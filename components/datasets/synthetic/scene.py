"""One image: people and objects on a ground, painted from far to near, and the visible part of each person."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from components.datasets.synthetic.backdrop import draw_backdrop
from components.datasets.synthetic.exact import Draw, Vector, unit
from components.datasets.synthetic.layout import Place, place_persons
from components.datasets.synthetic.params import SyntheticParams
from components.datasets.synthetic.person import Posed, head_length, label, label_further, pose_person
from components.datasets.synthetic.props import BEFORE, BEHIND
from components.datasets.synthetic.raster import Layer, Solid

SIZES = ((320, 240), (360, 240), (360, 270), (400, 300), (426, 320), (480, 320), (480, 360), (240, 320), (270, 360), (320, 426))
SLIVER_PX, SLIVER_SHARE = 12, 0.04  # persons with a smaller visible part, in pixels or as a share of the figure, are not annotated
HIDDEN_SHARE = 0.2  # for persons with a smaller visible share, only hidden joints inside the visible box are labelled;
HIDDEN_REACH = 0.25  # for others, also hidden joints up to this many longer sides outside the box


@dataclass(frozen=True)
class SyntheticPerson:
    """The annotation of one person.

    Attributes:
        keypoints: (17, 3) float64: x, y (px, pixel centres at whole numbers), visibility 0, 1 or 2; COCO's order.
        mask: (height, width) bool, the visible pixels.
        height_px: longer side of the whole figure, px, including cut and covered parts.
        further: (8, 3) the joints of `person.FURTHER`, as `keypoints`.
        head_px: from the neck to the top of the head in the image, px, whatever covers them.
    """

    keypoints: np.ndarray
    mask: np.ndarray
    height_px: float
    further: np.ndarray
    head_px: float


@dataclass(frozen=True)
class _Item:
    """An object to paint; nearer objects have a larger `ground`."""

    ground: float
    solids: list[Solid]
    posed: Posed | None
    shadow: tuple[float, float, float]


def render_scene(draw: Draw, params: SyntheticParams, places: list[Place] | None = None, size: tuple[int, int] | None = None) -> tuple[
    np.ndarray, list[SyntheticPerson]
]:  # fmt: skip
    """Draw one image.

    Args:
        draw: source of every random choice; `Draw(seed, split, index)` for the images of the data set.
        places: where people stand; drawn by default.
        size: width and height, px; drawn by default.
    Returns:
        image: (height, width, 3) uint8 RGB.
        persons: those with more than a sliver visible, from far to near.
    """
    width, height = size or draw.choice(SIZES)
    backdrop = draw_backdrop(draw, width, height)
    if places is None:
        places = place_persons(draw, params, width, height, backdrop.horizon)
    light = unit((draw.between(-0.8, 0.8), draw.between(-1.0, -0.3), draw.between(0.35, 1.0)))
    people = [pose_person(draw, place) for place in places]
    items = [_Item(posed.ground, posed.solids, posed, (posed.x, posed.ground, posed.stature * 0.2)) for posed in people]
    items += _things(draw, width, height, backdrop.horizon, people)
    items.sort(key=lambda item: item.ground)
    image, owner, layers = _paint(backdrop.image, items, light)
    image = _expose(draw, image)
    persons = []
    for order, (item, layer) in enumerate(zip(items, layers, strict=True), start=1):
        if item.posed is None or layer is None:
            continue
        mask = owner == order
        seen, whole = int(mask.sum()), layer.area()
        if seen >= max(SLIVER_PX, SLIVER_SHARE * whole):
            keypoints, further = (labels(item.posed, layer, owner, order) for labels in (label, label_further))
            for joints in (keypoints, further):
                _forget_unguessable(joints, mask, HIDDEN_REACH if seen > HIDDEN_SHARE * whole else 0.0)
            persons.append(SyntheticPerson(keypoints, mask, item.posed.height_px, further, head_length(item.posed)))
    return image, persons


def _forget_unguessable(keypoints: np.ndarray, mask: np.ndarray, reach: float) -> None:
    """Set hidden joints further than `reach` longer sides outside the visible box to unlabelled (zeros)."""
    rows, columns = np.nonzero(mask)
    left, right, top, bottom = int(columns.min()), int(columns.max()), int(rows.min()), int(rows.max())
    margin = reach * max(right - left + 1, bottom - top + 1)
    x, y = keypoints[:, 0], keypoints[:, 1]
    near = (x >= left - margin) & (x <= right + margin) & (y >= top - margin) & (y <= bottom + margin)
    keypoints[(keypoints[:, 2] == 1) & ~near] = 0


def _things(draw: Draw, width: int, height: int, horizon: int, people: list[Posed]) -> list[_Item]:
    """Distractors anywhere, and sometimes an object right in front of a person."""
    items = []
    for _ in range(draw.integer(0, 4)):
        ground = horizon + draw.between(0.0, 0.45) * draw.between(0.0, 1.0) * (height - horizon)
        stature = max((ground - horizon) * draw.between(0.5, 1.0), 10.0) + draw.between(0, 30)
        x = draw.between(0, width)
        solids = BEHIND[draw.choice(sorted(BEHIND))](draw, x, ground, stature)
        items.append(_Item(ground, solids, None, (x, ground, stature * 0.15)))
    for person in people:
        if draw.chance(0.16):
            ground = person.ground + person.stature * draw.between(0.01, 0.08)
            x = person.x + person.stature * draw.between(-0.25, 0.25)
            solids = BEFORE[draw.choice(sorted(BEFORE))](draw, x, ground, person.stature)
            items.append(_Item(ground, solids, None, (x, ground, person.stature * 0.15)))
    return items


def _paint(image: np.ndarray, items: list[_Item], light: Vector) -> tuple[np.ndarray, np.ndarray, list[Layer | None]]:
    """Returns the image, (height, width) owners (1 + index of the item on top, 0 for none) and the layers."""
    image = image.copy()
    height, width = image.shape[:2]
    owner = np.zeros((height, width), np.int64)
    layers: list[Layer | None] = []
    for order, item in enumerate(items, start=1):
        step = 4 if item.posed is not None and item.posed.stature < 110 else 2
        layer = Layer.render(item.solids, light, step, width, height)
        layers.append(layer)
        _shade_ground(image, *item.shadow)
        if layer is None:
            continue
        covered, colour = layer.coverage()
        rows, columns = covered.shape
        window = slice(layer.top, layer.top + rows), slice(layer.left, layer.left + columns)
        full = step * step
        image[window] = (image[window] * (full - covered)[..., None] + colour + full // 2) // full
        owner[window][covered * 2 >= full] = order
    return image, owner, layers


def _shade_ground(image: np.ndarray, x: float, y: float, radius: float) -> None:
    """A soft shadow where an object touches the ground: an ellipse four times as wide as high."""
    height, width = image.shape[:2]
    x0, x1 = max(round(x - radius), 0), min(round(x + radius) + 1, width)
    y0, y1 = max(round(y - radius / 4), 0), min(round(y + radius / 4) + 1, height)
    if x0 >= x1 or y0 >= y1:
        return
    dx, dy = (np.arange(x0, x1) - round(x))[None, :], (np.arange(y0, y1) - round(y))[:, None] * 4
    reach = max(round(radius) ** 2, 1)
    dark = np.clip(80 - 80 * (dx * dx + dy * dy) // reach, 0, 60)
    image[y0:y1, x0:x1] = image[y0:y1, x0:x1] * (160 - dark)[..., None] // 160


def _expose(draw: Draw, image: np.ndarray) -> np.ndarray:
    """Brightness, contrast and sensor noise, as uint8."""
    contrast, middle, offset = draw.integer(200, 290), 118, draw.integer(-18, 18)
    image = (image - middle) * contrast // 256 + middle + offset
    amplitude = draw.integer(0, 5)
    noise = draw.integers(-amplitude, amplitude, image.shape) + draw.integers(-amplitude, amplitude, image.shape[:2])[..., None]
    return np.clip(image + noise, 0, 255).astype(np.uint8)
