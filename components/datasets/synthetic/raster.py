"""Shaded solids on a pixel grid with a depth buffer, in exactly rounded float64 and integer arithmetic.

Pixel centres lie at whole coordinates, so pixel (row, column) of an image covers y in row ± ½ and x in column ± ½. z grows
towards the viewer, in px.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from components.datasets.synthetic.exact import Vector, cross, unit

Colour = tuple[int, int, int]
AMBIENT, DIFFUSE = 0.52, 0.58


@dataclass(frozen=True)
class Paint:
    """RGB surface colour; a pattern alternates with the second colour `count` times along the solid."""

    colour: Colour
    second: Colour | None = None
    pattern: str = "plain"
    count: int = 8

    def rgb(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """(n, 3) float64 colours at surface coordinates u (across) and v (along), both about 0..1."""
        base = np.empty((len(u), 3))
        base[:] = self.colour
        if self.second is not None and self.pattern != "plain":
            along = np.floor(v * self.count).astype(np.int64)
            across = np.floor(u * self.count).astype(np.int64)
            index = {"hoops": along, "stripes": across, "check": along + across}[self.pattern]
            base[index & 1 == 1] = self.second
        return base


@dataclass(frozen=True)
class Cone:
    """A capsule with a radius at each end, px; `v` are the surface coordinates of its ends."""

    a: Vector
    radius_a: float
    b: Vector
    radius_b: float
    paint: Paint
    v: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Triangle:
    """A flat piece with a normal and (u, v) coordinates at each corner, px."""

    corners: tuple[Vector, Vector, Vector]
    normals: tuple[Vector, Vector, Vector]
    uv: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    paint: Paint


Solid = Cone | Triangle


def bounds(solids: list[Solid]) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the solids, px."""
    boxes = [_box(solid) for solid in solids]
    return min(b[0] for b in boxes), min(b[1] for b in boxes), max(b[2] for b in boxes), max(b[3] for b in boxes)


def _box(solid: Solid) -> tuple[float, float, float, float]:
    if isinstance(solid, Triangle):
        xs, ys = [c[0] for c in solid.corners], [c[1] for c in solid.corners]
        return min(xs), min(ys), max(xs), max(ys)
    (ax, ay, _), ra, (bx, by, _), rb = solid.a, solid.radius_a, solid.b, solid.radius_b
    return min(ax - ra, bx - rb), min(ay - ra, by - rb), max(ax + ra, bx + rb), max(ay + ra, by + rb)


@dataclass
class Layer:
    """The part of an image that a group of solids covers, with `step`² samples per pixel.

    Attributes:
        left, top: first column and row of the image that the layer covers.
        step: samples along each side of a pixel.
        depth: (h · step, w · step) float64, z of the nearest surface, −inf without one.
        colour: (h · step, w · step, 3) uint8 RGB.
    """

    left: int
    top: int
    step: int
    depth: np.ndarray
    colour: np.ndarray

    @classmethod
    def render(cls, solids: list[Solid], light: Vector, step: int, width: int, height: int) -> Layer | None:
        """Draw `solids` in a width × height image; None if they are outside of it."""
        x0, y0, x1, y1 = bounds(solids)
        left, top = max(math.floor(x0), 0), max(math.floor(y0), 0)
        right, bottom = min(math.ceil(x1) + 1, width), min(math.ceil(y1) + 1, height)
        if left >= right or top >= bottom:
            return None
        shape = ((bottom - top) * step, (right - left) * step)
        layer = cls(left, top, step, np.full(shape, -np.inf), np.zeros((*shape, 3), np.uint8))
        for solid in solids:
            layer._draw(solid, light)
        return layer

    def coverage(self) -> tuple[np.ndarray, np.ndarray]:
        """Covered samples (h, w) and their summed RGB (h, w, 3) per pixel of the image, both int32."""
        inside = self.depth > -np.inf
        corners = [(slice(i, None, self.step), slice(j, None, self.step)) for i in range(self.step) for j in range(self.step)]
        covered, colour = np.zeros(inside[corners[0]].shape, np.int32), np.zeros(self.colour[corners[0]].shape, np.int32)
        for corner in corners:
            covered += inside[corner]
            colour += self.colour[corner]
        return covered, colour

    def area(self) -> int:
        """Number of pixels with at least half of their samples covered."""
        return int((self.coverage()[0] * 2 >= self.step**2).sum())

    def front(self, x: float, y: float) -> float:
        """z of the nearest surface at a point of the image, −inf without one or outside of the layer."""
        row, column = math.floor((y - self.top + 0.5) * self.step), math.floor((x - self.left + 0.5) * self.step)
        if 0 <= row < self.depth.shape[0] and 0 <= column < self.depth.shape[1]:
            return float(self.depth[row, column])
        return -math.inf

    def _draw(self, solid: Solid, light: Vector) -> None:
        x0, y0, x1, y1 = _box(solid)
        rows, columns = self.depth.shape
        first_row, last_row = self._samples(y0 - self.top, y1 - self.top, rows)
        first_column, last_column = self._samples(x0 - self.left, x1 - self.left, columns)
        if first_row >= last_row or first_column >= last_column:
            return
        x = self.left - 0.5 + (np.arange(first_column, last_column) + 0.5) / self.step
        y = self.top - 0.5 + (np.arange(first_row, last_row) + 0.5) / self.step
        window = slice(first_row, last_row), slice(first_column, last_column)
        depth = self.depth[window]
        sampled = _sample_cone(solid, x, y, depth) if isinstance(solid, Cone) else _sample_triangle(solid, x, y, depth)
        inside, z, normal, u, v = sampled
        if not len(z):
            return
        self.depth[window][inside] = z
        lit = np.maximum(normal[0] * light[0] + normal[1] * light[1] + normal[2] * light[2], 0.0)
        rgb = solid.paint.rgb(u, v) * (AMBIENT + DIFFUSE * lit)[:, None]
        self.colour[window][inside] = np.clip(np.floor(rgb + 0.5), 0, 255).astype(np.uint8)

    def _samples(self, low: float, high: float, limit: int) -> tuple[int, int]:
        return max(math.floor((low + 0.5) * self.step), 0), min(math.ceil((high + 0.5) * self.step), limit)


_Sampled = tuple[tuple[np.ndarray, np.ndarray], np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray, np.ndarray]


def _sample_cone(cone: Cone, x: np.ndarray, y: np.ndarray, depth: np.ndarray) -> _Sampled:
    """Samples of a cone in front of `depth`: indices, z, normal, u and v of each."""
    (ax, ay, az), (bx, by, bz) = cone.a, cone.b
    along_x, along_y, along_z = bx - ax, by - ay, bz - az
    squared = along_x * along_x + along_y * along_y
    dx, dy = x - ax, y - ay
    if squared > 0:
        t = np.clip((dx * (along_x / squared))[None, :] + (dy * (along_y / squared))[:, None], 0.0, 1.0)
    else:
        t = np.zeros((len(y), len(x)))
    ex, ey = dx[None, :] - t * along_x, dy[:, None] - t * along_y
    radius = cone.radius_a + t * (cone.radius_b - cone.radius_a)
    height = radius * radius - ex * ex - ey * ey
    inside = np.nonzero(height > 0)
    t, radius, ex, ey = t[inside], radius[inside], ex[inside], ey[inside]
    up = np.sqrt(height[inside])
    z = az + t * along_z + up
    nearer = z > depth[inside]
    inside = inside[0][nearer], inside[1][nearer]
    t, radius = t[nearer], radius[nearer]
    normal = ex[nearer] / radius, ey[nearer] / radius, up[nearer] / radius
    return inside, z[nearer], normal, (normal[0] + 1.0) / 2, cone.v[0] + t * (cone.v[1] - cone.v[0])


def _sample_triangle(piece: Triangle, x: np.ndarray, y: np.ndarray, depth: np.ndarray) -> _Sampled:
    """Samples of a triangle in front of `depth`: indices, z, normal, u and v of each."""
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = piece.corners
    area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
    wb = ((x - ax) * ((cy - ay) / area))[None, :] - ((y - ay) * ((cx - ax) / area))[:, None]
    wc = ((y - ay) * ((bx - ax) / area))[:, None] - ((x - ax) * ((by - ay) / area))[None, :]
    wa = 1.0 - wb - wc
    inside = np.nonzero((wa >= 0) & (wb >= 0) & (wc >= 0))
    wa, wb, wc = wa[inside], wb[inside], wc[inside]
    z = wa * az + wb * bz + wc * cz
    nearer = z > depth[inside]
    inside = inside[0][nearer], inside[1][nearer]
    wa, wb, wc = wa[nearer], wb[nearer], wc[nearer]
    na, nb, nc = piece.normals
    normal = tuple(wa * na[i] + wb * nb[i] + wc * nc[i] for i in range(3))
    (ua, va), (ub, vb), (uc, vc) = piece.uv
    return inside, z[nearer], normal, wa * ua + wb * ub + wc * uc, wa * va + wb * vb + wc * vc  # type: ignore[return-value]


def slab(corners: list[Vector], radii: list[float], paint: Paint, v: tuple[float, float] = (0.0, 1.0)) -> list[Solid]:
    """A quadrilateral (top left, top right, bottom right, bottom left; px) thickened by a radius at each corner.

    It is a rim of four cones and a face on the viewer's side, whose normals lean outwards, as on a rounded body.
    """
    ends = (v[0], v[0]), (v[0], v[1]), (v[1], v[1]), (v[1], v[0])
    solids: list[Solid] = [Cone(corners[i], radii[i], corners[(i + 1) % 4], radii[(i + 1) % 4], paint, ends[i]) for i in range(4) if i != 3]
    solids.append(Cone(corners[0], radii[0], corners[3], radii[3], paint, v))
    side = tuple(corners[1][i] - corners[0][i] for i in range(3))
    down = tuple(corners[3][i] - corners[0][i] for i in range(3))
    normal = cross(side, down)  # type: ignore[arg-type]
    size = math.sqrt(normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2)
    if abs(normal[2]) < 0.05 * size or size == 0:  # seen from its edge: the rim hides the face
        return solids
    sign = 1.0 if normal[2] > 0 else -1.0
    facing = (sign * normal[0] / size, sign * normal[1] / size, sign * normal[2] / size)
    across = unit(side)  # type: ignore[arg-type]
    lean = [unit(tuple(facing[i] + k * across[i] for i in range(3))) for k in (-0.25, 0.25, 0.25, -0.25)]  # type: ignore[arg-type]
    raised = [tuple(corners[k][i] + radii[k] * facing[i] for i in range(3)) for k in range(4)]
    uv = ((0.0, v[0]), (1.0, v[0]), (1.0, v[1]), (0.0, v[1]))
    for i, j, k in ((0, 1, 2), (0, 2, 3)):
        three = raised[i], raised[j], raised[k]
        doubled = (three[1][0] - three[0][0]) * (three[2][1] - three[0][1]) - (three[2][0] - three[0][0]) * (three[1][1] - three[0][1])
        if abs(doubled) > 1e-6:
            solids.append(Triangle(three, (lean[i], lean[j], lean[k]), (uv[i], uv[j], uv[k]), paint))  # type: ignore[arg-type]
    return solids
