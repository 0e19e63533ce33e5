"""Objects other than people: distractors behind them, and objects in front that hide joints."""

from __future__ import annotations

from components.datasets.synthetic.exact import Draw, Vector, snap
from components.datasets.synthetic.raster import Colour, Cone, Paint, Solid, slab

_COLOURS: tuple[Colour, ...] = (
    (150, 44, 40), (44, 84, 140), (214, 214, 210), (60, 64, 70), (196, 168, 60), (96, 72, 50), (120, 124, 126), (70, 112, 76),
)  # fmt: skip
_LEAVES: tuple[Colour, ...] = ((54, 88, 40), (82, 110, 48), (110, 118, 52), (44, 70, 44), (150, 104, 44))


def _ball(x: float, y: float, z: float, radius: float, paint: Paint) -> Solid:
    centre = snap(x), snap(y), snap(z)
    return Cone(centre, snap(radius), centre, snap(radius), paint)


def _rod(a: Vector, b: Vector, radius: float, paint: Paint) -> Solid:
    return Cone((snap(a[0]), snap(a[1]), snap(a[2])), snap(radius), (snap(b[0]), snap(b[1]), snap(b[2])), snap(radius), paint)


def _box(x: float, y: float, width: float, height: float, radius: float, paint: Paint) -> list[Solid]:
    """A rounded board that stands on (x, y)."""
    left, right = snap(x - width / 2 + radius), snap(x + width / 2 - radius)
    top, bottom = snap(y - height + radius), snap(y - radius)
    return slab([(left, top, 0.0), (right, top, 0.0), (right, bottom, 0.0), (left, bottom, 0.0)], [snap(radius)] * 4, paint)


def tree(draw: Draw, x: float, y: float, stature: float) -> list[Solid]:
    height, leaf = stature * draw.between(1.4, 3.2), draw.choice(_LEAVES)
    trunk: list[Solid] = [_rod((x, y, 0), (x + height * 0.03, y - height * 0.6, 0), height * 0.03, Paint((92, 70, 50)))]
    crown = [
        _ball(
            x + height * draw.between(-0.2, 0.2), y - height * draw.between(0.5, 0.95), height * draw.between(-0.1, 0.1),
            height * draw.between(0.08, 0.17), Paint(leaf),
        )
        for _ in range(12)
    ]  # fmt: skip
    return trunk + crown


def bush(draw: Draw, x: float, y: float, stature: float) -> list[Solid]:
    size, leaf = stature * draw.between(0.35, 0.6), draw.choice(_LEAVES)
    return [
        _ball(x + size * draw.between(-0.9, 0.9), y - size * draw.between(0.1, 0.8), 0, size * draw.between(0.15, 0.32), Paint(leaf))
        for _ in range(14)
    ]


def post(draw: Draw, x: float, y: float, stature: float) -> list[Solid]:
    height, radius = stature * draw.between(0.8, 2.4), stature * draw.between(0.02, 0.055)
    second = draw.choice((None, (226, 226, 222)))
    return [_rod((x, y, 0), (x, y - height, 0), radius, Paint(draw.choice(_COLOURS), second, "hoops", draw.integer(4, 9)))]


def fence(draw: Draw, x: float, y: float, stature: float) -> list[Solid]:
    paint, height, span = Paint(draw.choice(_COLOURS)), stature * draw.between(0.35, 0.6), stature * draw.between(1.0, 2.2)
    solids = [_rod((x - span / 2, y - height * k, 0), (x + span / 2, y - height * k, 0), stature * 0.018, paint) for k in (0.45, 0.95)]
    count = draw.integer(4, 9)
    for k in range(count):
        place = x - span / 2 + span * k / (count - 1)
        solids.append(_rod((place, y, 0), (place, y - height, 0), stature * 0.016, paint))
    return solids


def crate(draw: Draw, x: float, y: float, stature: float) -> list[Solid]:
    width, height = stature * draw.between(0.3, 0.9), stature * draw.between(0.2, 0.55)
    paint = Paint(draw.choice(_COLOURS), draw.choice(_COLOURS), draw.choice(("plain", "hoops", "check")), draw.integer(3, 7))
    return _box(x, y, width, height, stature * 0.02, paint)


def ball(draw: Draw, x: float, y: float, stature: float) -> list[Solid]:
    radius = stature * draw.between(0.06, 0.16)
    return [_ball(x, y - radius, 0, radius, Paint(draw.choice(_COLOURS), draw.choice(_COLOURS), "stripes", 5))]


def car(draw: Draw, x: float, y: float, stature: float) -> list[Solid]:
    paint, length = Paint(draw.choice(_COLOURS)), stature * draw.between(2.0, 2.5)
    solids = _box(x, y - stature * 0.12, length, stature * 0.36, stature * 0.08, paint)
    solids += _box(x, y - stature * 0.40, length * 0.56, stature * 0.36, stature * 0.08, paint)
    solids += _box(x, y - stature * 0.46, length * 0.48, stature * 0.24, stature * 0.09, Paint((58, 70, 82)))
    for side in (-0.3, 0.3):
        solids.append(_ball(x + side * length, y - stature * 0.17, stature * 0.12, stature * 0.17, Paint((34, 34, 36))))
    return solids


BEHIND = {"tree": tree, "bush": bush, "post": post, "fence": fence, "crate": crate, "ball": ball, "car": car}
BEFORE = {"bush": bush, "post": post, "fence": fence, "crate": crate}
