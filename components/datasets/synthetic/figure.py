"""A clothed person: solids around a posed body, and their projection by the camera."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from components.datasets.synthetic.body import SIDES, Body
from components.datasets.synthetic.exact import Draw, Matrix, Vector, mix, snap, turn
from components.datasets.synthetic.raster import Colour, Cone, Paint, Solid, slab

SKINS: tuple[Colour, ...] = ((244, 206, 180), (232, 184, 152), (210, 158, 122), (178, 122, 86), (132, 86, 60), (92, 60, 44))
HAIRS: tuple[Colour, ...] = ((28, 22, 20), (52, 36, 26), (92, 62, 38), (150, 110, 62), (206, 170, 104), (140, 136, 132), (120, 52, 28))
CLOTHES: tuple[Colour, ...] = (
    (236, 236, 232), (30, 32, 38), (70, 74, 82), (150, 152, 156), (176, 40, 44), (214, 92, 40), (232, 190, 60), (52, 120, 62),
    (30, 72, 140), (96, 150, 208), (92, 52, 120), (206, 120, 150), (120, 84, 56), (206, 190, 156), (26, 110, 112), (24, 34, 74),
)  # fmt: skip
TROUSERS: tuple[Colour, ...] = (
    (38, 48, 78), (58, 78, 118), (28, 28, 32), (82, 82, 86), (150, 132, 104), (92, 78, 60), (196, 186, 168), (66, 76, 60), (120, 36, 40),
)  # fmt: skip
SHOES: tuple[Colour, ...] = ((236, 236, 236), (26, 26, 28), (92, 60, 38), (176, 44, 44), (120, 124, 130))


@dataclass(frozen=True)
class Camera:
    """Maps the body's axes (statures, y up) to the image (px, y down, z towards the viewer), in perspective.

    Attributes:
        rotation: body → camera axes.
        scale: px a stature at the body's origin.
        x, y: px of the image where the body's origin lies.
        distance: from the camera to the body's origin, in statures.
    """

    rotation: Matrix
    scale: float
    x: float
    y: float
    distance: float

    def project(self, point: Vector) -> tuple[Vector, float]:
        """Image position (x, y, z) in px, and the size of a stature there in px; both in multiples of 1/256 px."""
        x, y, z = turn(self.rotation, point)
        size = self.scale * self.distance / (self.distance - z)
        return (snap(self.x + size * x), snap(self.y - size * y), snap(size * z)), snap(size)

    def cone(self, a: Vector, radius_a: float, b: Vector, radius_b: float, paint: Paint, v: tuple[float, float] = (0, 1)) -> list[Solid]:
        """A cone given in statures; one that points at the viewer is filled with balls."""
        (start, size_a), (end, size_b) = self.project(a), self.project(b)
        ra, rb = snap(radius_a * size_a), snap(radius_b * size_b)
        solids: list[Solid] = [Cone(start, ra, end, rb, paint, v)]
        flat = (end[0] - start[0]) ** 2 + (end[1] - start[1]) ** 2
        if flat < (end[2] - start[2]) ** 2:
            for share in (0.0, 0.25, 0.5, 0.75, 1.0):
                centre, along = mix(start, end, share), v[0] + share * (v[1] - v[0])
                solids.append(Cone(centre, ra + share * (rb - ra), centre, ra + share * (rb - ra), paint, (along, along)))
        return solids

    def slab(self, corners: list[Vector], radii: list[float], paint: Paint, v: tuple[float, float] = (0.0, 1.0)) -> list[Solid]:
        """A thick quadrilateral given in statures."""
        seen = [self.project(corner) for corner in corners]
        return slab([place for place, _ in seen], [snap(r * size) for r, (_, size) in zip(radii, seen, strict=True)], paint, v)


@dataclass(frozen=True)
class Outfit:
    """Clothes and looks of a person. `sleeves` and `legs` are the covered shares of arms and legs, 0 to 1."""

    skin: Paint
    hair: Paint
    hair_style: str
    top: Paint
    sleeves: float
    bottom: Paint
    legs: float
    skirt: bool
    shoes: Paint
    loose: float

    @classmethod
    def draw(cls, draw: Draw) -> Outfit:
        style = draw.weighted({"short": 6, "long": 4, "bun": 1, "cap": 2, "bald": 1})
        skirt = draw.chance(0.16)
        hair = draw.choice(CLOTHES) if style == "cap" else draw.choice(HAIRS)
        pattern = draw.weighted({"plain": 7, "hoops": 2, "stripes": 1, "check": 1})
        return cls(
            skin=Paint(_tinted(draw, draw.choice(SKINS))),
            hair=Paint(_tinted(draw, hair)),
            hair_style=style,
            top=Paint(_tinted(draw, draw.choice(CLOTHES)), draw.choice(CLOTHES), pattern, draw.integer(5, 12)),
            sleeves=draw.choice((0.0, 0.24, 0.26, 0.28, 0.95, 0.97)),
            bottom=Paint(_tinted(draw, draw.choice(TROUSERS if not skirt else CLOTHES))),
            legs=draw.choice((0.42, 0.62, 0.8)) if skirt else draw.choice((0.3, 0.38, 0.97, 0.97, 0.97)),
            skirt=skirt,
            shoes=Paint(draw.choice(SHOES)),
            loose=draw.between(0.004, 0.013),
        )


def _tinted(draw: Draw, colour: Colour) -> Colour:
    red, green, blue = (min(max(channel + draw.integer(-10, 10), 0), 255) for channel in colour)
    return red, green, blue


def clothed(body: Body, outfit: Outfit, camera: Camera) -> list[Solid]:
    """All solids of a person, in px of the image."""
    solids = _torso(body, outfit, camera) + _head(body, outfit, camera)
    for side in SIDES:
        solids += _arm(body, outfit, camera, side) + _leg(body, outfit, camera, side)
    if outfit.skirt:
        solids += _skirt(body, outfit, camera)
    return solids


def _torso(body: Body, outfit: Outfit, camera: Camera) -> list[Solid]:
    build = body.build
    girth, shoulder, hip = build.girth, build.shoulder, build.hip
    chest_radius, waist_radius, hip_radius = 0.047 * girth, 0.050 * girth, 0.056 * girth
    chest = [body.on_chest(sign * (shoulder - 0.030), -0.026, 0.004) for sign in (-1, 1)]
    waist = [body.on_chest(sign * (hip - 0.004), -0.175, 0.006) for sign in (1, -1)]
    belly = [body.on_pelvis(sign * (hip - 0.006), 0.085, 0.004) for sign in (-1, 1)]
    seat = [body.on_pelvis(sign * (hip - 0.004), 0.012, -0.006) for sign in (1, -1)]
    upper = camera.slab(chest + waist, [chest_radius] * 2 + [waist_radius] * 2, outfit.top, (0.0, 0.6))
    middle = camera.slab(waist[::-1] + belly[::-1], [waist_radius] * 2 + [0.052 * girth] * 2, outfit.top, (0.6, 0.9))
    lower = camera.slab(belly + seat, [0.054 * girth] * 2 + [hip_radius] * 2, outfit.bottom)
    yoke = []
    for side in SIDES:
        shoulder_joint = body.joints[f"{side}_shoulder"]
        yoke += camera.cone(body.on_chest(0, 0.012, 0), 0.036 * girth, shoulder_joint, 0.036 * girth, outfit.top, (0, 0.05))
    neck = camera.cone(body.on_chest(0, 0.02, 0.002), 0.031, body.on_head(0, -0.035, -0.004), 0.029, outfit.skin)
    return upper + middle + lower + yoke + neck


def _arm(body: Body, outfit: Outfit, camera: Camera, side: str) -> list[Solid]:
    girth, joints = body.build.girth, body.joints
    shoulder, elbow, wrist, hand = (joints[f"{side}_{name}"] for name in ("shoulder", "elbow", "wrist", "hand"))
    solids = camera.cone(shoulder, 0.030 * girth, elbow, 0.024 * girth, outfit.skin)
    solids += camera.cone(elbow, 0.024 * girth, wrist, 0.0165 * girth, outfit.skin)
    solids += camera.cone(wrist, 0.018 * girth, hand, 0.019 * girth, outfit.skin)
    if outfit.sleeves > 0:
        loose = outfit.loose
        cut = min(outfit.sleeves * 2, 1.0)
        end = mix(shoulder, elbow, cut)
        solids += camera.cone(shoulder, 0.033 * girth + loose / 2, end, 0.027 * girth + loose, outfit.top, (0.0, 0.35 * cut))
        if outfit.sleeves > 0.5:
            end = mix(elbow, wrist, outfit.sleeves * 2 - 1)
            solids += camera.cone(elbow, 0.026 * girth + loose, end, 0.020 * girth + loose, outfit.top, (0.35, 0.7))
    return solids


def _leg(body: Body, outfit: Outfit, camera: Camera, side: str) -> list[Solid]:
    girth, joints = body.build.girth, body.joints
    hip, knee, ankle, heel, toe = (joints[f"{side}_{name}"] for name in ("hip", "knee", "ankle", "heel", "toe"))
    solids = camera.cone(hip, 0.050 * girth, knee, 0.035 * girth, outfit.skin)
    solids += camera.cone(knee, 0.035 * girth, ankle, 0.020 * girth, outfit.skin)
    solids += camera.cone(heel, 0.024, toe, 0.019, outfit.shoes) + camera.cone(ankle, 0.021, heel, 0.024, outfit.shoes)
    if not outfit.skirt:
        loose = outfit.loose
        cut = min(outfit.legs * 2, 1.0)
        solids += camera.cone(hip, 0.053 * girth + loose / 2, mix(hip, knee, cut), 0.038 * girth + loose, outfit.bottom)
        if outfit.legs > 0.5:
            hem = mix(knee, ankle, outfit.legs * 2 - 1)
            solids += camera.cone(knee, 0.037 * girth + loose, hem, 0.026 * girth + loose, outfit.bottom)
    return solids


def _skirt(body: Body, outfit: Outfit, camera: Camera) -> list[Solid]:
    ends = []
    for side in ("right", "left"):
        hip, knee, ankle = (body.joints[f"{side}_{name}"] for name in ("hip", "knee", "ankle"))
        hem = mix(hip, knee, min(outfit.legs * 2, 1.0))
        ends.append(mix(hem, ankle, max(outfit.legs * 2 - 1, 0) * 0.6))
    wide = 0.030 * outfit.legs
    right, left = mix(ends[1], ends[0], 1 + wide * 10), mix(ends[0], ends[1], 1 + wide * 10)
    top = [body.joints["right_hip"], body.joints["left_hip"]]
    radius = 0.052 * body.build.girth + outfit.loose
    return camera.slab(top + [left, right], [radius, radius, radius * 0.95, radius * 0.95], outfit.bottom)


def _head(body: Body, outfit: Outfit, camera: Camera) -> list[Solid]:
    at, size = body.on_head, body.build.head
    ball = lambda x, y, z, r, paint: camera.cone(at(x, y, z), r * size, at(x, y, z), r * size, paint)  # noqa: E731
    rod = lambda a, ra, b, rb, paint: camera.cone(at(*a), ra * size, at(*b), rb * size, paint)  # noqa: E731
    solids = rod((0, 0.0, -0.004), 0.056, (0, -0.040, 0.016), 0.036, outfit.skin)
    for sign in (1, -1):
        solids += ball(sign * 0.056, -0.010, -0.006, 0.012, outfit.skin)
    if camera.scale > 36:  # at smaller scales, these details cover less than a sample
        solids += rod((0, -0.004, 0.052), 0.006, (0, -0.024, 0.060), 0.009, outfit.skin)
        for sign in (1, -1):
            solids += ball(sign * 0.020, -0.003, 0.0462, 0.0088, Paint((240, 238, 232)))
            solids += ball(sign * 0.020, -0.003, 0.0500, 0.0062, Paint((34, 26, 22)))
            solids += rod((sign * 0.012, 0.011, 0.0505), 0.0032, (sign * 0.030, 0.012, 0.045), 0.003, outfit.hair)
        solids += rod((-0.012, -0.046, 0.0475), 0.0042, (0.012, -0.046, 0.0475), 0.0042, Paint((150, 64, 60)))
    return solids + _hair(outfit, ball, rod)


def _hair(outfit: Outfit, ball: Callable[..., list[Solid]], rod: Callable[..., list[Solid]]) -> list[Solid]:
    if outfit.hair_style == "bald":
        return []
    solids = ball(0, 0.010, -0.012, 0.058, outfit.hair) + ball(0, -0.010, -0.020, 0.050, outfit.hair)
    if outfit.hair_style == "long":
        solids += rod((0, -0.01, -0.030), 0.048, (0, -0.105, -0.034), 0.034, outfit.hair)
    elif outfit.hair_style == "bun":
        solids += ball(0, 0.022, -0.072, 0.024, outfit.hair)
    elif outfit.hair_style == "cap":
        solids += rod((-0.022, 0.026, 0.046), 0.016, (0.022, 0.026, 0.046), 0.016, outfit.hair)
        solids += rod((-0.016, 0.020, 0.066), 0.011, (0.016, 0.020, 0.066), 0.011, outfit.hair)
    return solids
