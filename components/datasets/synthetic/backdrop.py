"""The background of a scene: sky, walls, fields, floors. Integers only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from components.datasets.synthetic.exact import Draw
from components.datasets.synthetic.raster import Colour

GROUNDS: tuple[Colour, ...] = (
    (86, 122, 58), (112, 132, 70), (132, 128, 122), (96, 98, 102), (170, 156, 128), (196, 178, 140), (120, 92, 70),
)  # fmt: skip
SKIES: tuple[Colour, ...] = ((140, 178, 216), (186, 204, 220), (206, 206, 204), (98, 132, 178), (214, 188, 164))
WALLS: tuple[Colour, ...] = ((188, 180, 166), (150, 84, 66), (206, 202, 192), (116, 124, 132), (92, 110, 96), (168, 148, 112), (62, 66, 76))


@dataclass(frozen=True)
class Backdrop:
    """An empty scene.

    Attributes:
        image: (height, width, 3) int32 RGB, 0 to 255.
        horizon: row in which the ground meets the sky or the wall.
    """

    image: np.ndarray
    horizon: int


def draw_backdrop(draw: Draw, width: int, height: int) -> Backdrop:
    horizon = draw.integer(height * 22 // 100, height * 55 // 100)
    image = np.empty((height, width, 3), np.int32)
    kind = draw.weighted({"sky": 4, "wall": 4, "skyline": 3, "blur": 2})
    if kind == "wall":
        image[:] = _wall(draw, width, height)
    elif kind == "blur":
        image[:] = _gradient(draw.choice(WALLS), draw.choice(WALLS), height)
        image += _noise(draw, width, height, 70, 34)[..., None]
    else:
        image[:] = _gradient(draw.choice(SKIES), draw.choice(SKIES), height)
        image += _noise(draw, width, height, 60, 14)[..., None]
        if kind == "skyline":
            _skyline(draw, image, horizon)
    image[horizon:] = _ground(draw, width, height - horizon)
    return Backdrop(np.clip(image, 0, 255), horizon)


def _gradient(first: Colour, second: Colour, height: int) -> np.ndarray:
    """(height, 1, 3) rows from one colour to another."""
    share = np.arange(height, dtype=np.int32)[:, None, None]
    return (np.array(first) * (height - share) + np.array(second) * share) // height


def _ground(draw: Draw, width: int, height: int) -> np.ndarray:
    base = np.array(draw.choice(GROUNDS))
    ground = np.empty((height, width, 3), np.int32)
    ground[:] = base
    row = np.arange(height, dtype=np.int32)
    ground -= ((height - row) * 18 // height)[:, None, None]
    for cell, amplitude in ((48, 16), (14, 12), (4, 9)):
        # Rows are denser towards the horizon, as in perspective.
        noise = _noise(draw, width, height * 2, cell, amplitude)
        rows = row * row // height + row
        ground += noise[height * 2 - 1 - rows[::-1]][..., None]
    pattern = draw.weighted({"plain": 4, "stripes": 2, "tiles": 2, "line": 2})
    distance = height * 64 // (row + 2)  # of each row from the camera, in steps
    if pattern == "stripes":
        ground += np.where((distance // draw.integer(20, 60)) % 2 == 0, 7, -7)[:, None, None]
    elif pattern == "tiles":
        columns = (np.arange(width, dtype=np.int32)[None, :] - width // 2) * distance[:, None] // draw.integer(900, 2600)
        ground += np.where((columns + (distance // draw.integer(12, 40))[:, None]) % 2 == 0, 9, -9)[..., None]
    elif pattern == "line":
        first = draw.integer(height // 6, height - 2)
        ground[first : first + 1 + first // 24] = draw.choice(((232, 232, 228), (216, 190, 70)))
    return ground


def _wall(draw: Draw, width: int, height: int) -> np.ndarray:
    wall = np.empty((height, width, 3), np.int32)
    wall[:] = np.array(draw.choice(WALLS))
    wall += _noise(draw, width, height, 90, 14)[..., None] + _noise(draw, width, height, 5, 8)[..., None]
    x, y = np.arange(width, dtype=np.int32)[None, :], np.arange(height, dtype=np.int32)[:, None]
    pattern = draw.weighted({"plain": 3, "bricks": 3, "panels": 2, "blinds": 1})
    if pattern == "bricks":
        brick = draw.integer(5, 12)
        course = y // brick
        joint = (y % brick == 0) | ((x + (course % 2) * brick) % (brick * 2) == 0)
        tone = ((x + (course % 2) * brick) // (brick * 2) * 7 + course * 13) % 11 - 5
        wall += np.where(joint, 24, tone * 2)[..., None]
    elif pattern == "panels":
        panel = draw.integer(28, 80)
        wall -= np.where((x % panel < 2) | (y % (panel * 2) < 2), 30, 0)[..., None]
    elif pattern == "blinds":
        slat = draw.integer(6, 16)
        wall += ((y % slat) * 26 // slat - 13)[..., None]
    for _ in range(draw.integer(0, 3)):
        _picture(draw, wall)
    return wall


def _picture(draw: Draw, wall: np.ndarray) -> None:
    """A window, door or poster."""
    height, width = wall.shape[:2]
    w, h = draw.integer(width // 14, width // 4), draw.integer(height // 12, height // 3)
    x, y = draw.integer(0, width - w), draw.integer(0, height - h)
    wall[y : y + h, x : x + w] = draw.choice(WALLS)
    wall[y + 2 : y + h - 2, x + 2 : x + w - 2] = draw.choice(SKIES + WALLS)
    wall[y + 2 : y + h - 2, x + w // 2] -= 40


def _skyline(draw: Draw, image: np.ndarray, horizon: int) -> None:
    """Houses with windows, side by side."""
    width = image.shape[1]
    x = draw.integer(-20, 10)
    while x < width:
        w = draw.integer(18, 90)
        h = draw.integer(max(horizon // 5, 4), max(horizon * 9 // 10, 6))
        if draw.chance(0.85):
            left, top = max(x, 0), horizon - h
            house = image[top:horizon, left : max(x + w, 0)]
            house[:] = np.array(draw.choice(WALLS)) - draw.integer(0, 24)
            cell, gap = draw.integer(5, 11), draw.integer(2, 4)
            rows, columns = np.arange(house.shape[0])[:, None], np.arange(house.shape[1])[None, :]
            window = (rows % cell >= gap) & (columns % cell >= gap) & (rows < h - gap)
            house += np.where(window, draw.choice((-34, -20, 26)), 0)[..., None]
        x += w


def _noise(draw: Draw, width: int, height: int, cell: int, amplitude: int) -> np.ndarray:
    """(height, width) smooth noise in −amplitude..amplitude: random values every `cell` px, interpolated between."""
    rows, columns = height // cell + 2, width // cell + 2
    lattice = draw.integers(-amplitude, amplitude, (rows, columns))
    x, y = np.arange(width, dtype=np.int32), np.arange(height, dtype=np.int32)
    fx, fy = x % cell, (y % cell)[:, None]
    across = lattice[:, x // cell] * (cell - fx) + lattice[:, x // cell + 1] * fx
    return (across[y // cell] * (cell - fy) + across[y // cell + 1] * fy) // (cell * cell)
