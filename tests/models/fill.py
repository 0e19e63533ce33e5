"""Weights that depend on parameter names alone: the rule by which the reference outputs in tests/golden were made."""

from __future__ import annotations

import hashlib
import math

import numpy as np


def filled(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Authors' key → float32 array: matrices from N(0, 1 / fan-in), batch norms near identity, biases small."""
    return {key: _draw(key, shape) for key, shape in shapes.items() if not key.endswith("num_batches_tracked")}


def fixed_input(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(0)).standard_normal(shape).astype(np.float32)


def _draw(key: str, shape: tuple[int, ...]) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    values = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)
    if key.endswith("running_var"):
        values = 1 + 0.1 * np.abs(values)
    elif len(shape) >= 2:
        values = values / math.sqrt(math.prod(shape[1:]))
    elif key.endswith("weight"):
        values = 1 + 0.1 * values
    else:
        values = 0.1 * values
    return values.astype(np.float32)
