"""Arithmetic with the same bits on every processor.

IEEE additions, multiplications, divisions and square roots are exactly rounded, with or without vector units. Sines are not:
their last bit depends on the library and on the processor. So angles are whole tenths of a degree and sines come from a table
rounded to 1e-9, whose entries are all far from a rounding boundary. Random numbers use only the generator's integers and
doubles, because its other distributions call the mathematical library.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
Vector = tuple[float, float, float]
Matrix = tuple[Vector, Vector, Vector]

_QUADRANT = tuple(round(math.sin(tenths * math.pi / 1800), 9) for tenths in range(901))


def sine(degrees: float) -> float:
    """Sine of an angle, rounded to a tenth of a degree."""
    tenths = round(degrees * 10) % 3600
    sign, tenths = (-1.0, tenths - 1800) if tenths >= 1800 else (1.0, tenths)
    return sign * _QUADRANT[min(tenths, 1800 - tenths)]


def cosine(degrees: float) -> float:
    return sine(degrees + 90)


def about_x(degrees: float) -> Matrix:
    """Rotation that takes y towards z."""
    c, s = cosine(degrees), sine(degrees)
    return (1.0, 0.0, 0.0), (0.0, c, -s), (0.0, s, c)


def about_y(degrees: float) -> Matrix:
    """Rotation that takes z towards x."""
    c, s = cosine(degrees), sine(degrees)
    return (c, 0.0, s), (0.0, 1.0, 0.0), (-s, 0.0, c)


def about_z(degrees: float) -> Matrix:
    """Rotation that takes x towards y."""
    c, s = cosine(degrees), sine(degrees)
    return (c, -s, 0.0), (s, c, 0.0), (0.0, 0.0, 1.0)


def chain(*matrices: Matrix) -> Matrix:
    """Product of rotations; the last one is applied first."""
    product = matrices[0]
    for matrix in matrices[1:]:
        columns = tuple(zip(*matrix, strict=True))
        product = tuple(tuple(dot(row, column) for column in columns) for row in product)  # type: ignore[assignment]
    return product


def turn(matrix: Matrix, vector: Vector) -> Vector:
    return dot(matrix[0], vector), dot(matrix[1], vector), dot(matrix[2], vector)


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def cross(a: Vector, b: Vector) -> Vector:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def add(a: Vector, b: Vector, scale: float = 1.0) -> Vector:
    """a + scale · b"""
    return a[0] + scale * b[0], a[1] + scale * b[1], a[2] + scale * b[2]


def mix(a: Vector, b: Vector, share: float) -> Vector:
    """The point `share` of the way from a to b."""
    return add(a, add(b, a, -1.0), share)


def unit(vector: Vector) -> Vector:
    length = math.sqrt(dot(vector, vector))
    return vector[0] / length, vector[1] / length, vector[2] / length


def snap(value: float) -> float:
    """The nearest 1/256."""
    return round(value * 256) / 256


class Draw:
    """Random choices for one image. `np.random.PCG64` is seeded by (seed, split, image), so images do not depend on each other."""

    def __init__(self, *key: int) -> None:
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self._generator.random()

    def integer(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return int(self._generator.integers(low, high + 1))

    def integers(self, low: int, high: int, shape: tuple[int, ...]) -> np.ndarray:
        """int32 array of whole numbers from low to high, both included."""
        return self._generator.integers(low, high + 1, size=shape, dtype=np.int32)

    def chance(self, probability: float) -> bool:
        return self._generator.random() < probability

    def choice(self, options: Sequence[T]) -> T:
        return options[self.integer(0, len(options) - 1)]

    def weighted(self, weights: dict[T, int]) -> T:
        """A key, drawn in proportion to its weight."""
        ticket = self.integer(1, sum(weights.values()))
        for option, weight in weights.items():
            ticket -= weight
            if ticket <= 0:
                return option
        raise AssertionError("weights are positive")
