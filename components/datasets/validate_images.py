"""Open every image file once for its completeness, size and digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from components.base.fan_out import mapped
from components.pose import pictures
from components.pose.orientation import orientation_of

WHOLE = "whole"
PART_IMAGES = 16


def inspect_images(root: Path, image_paths: Iterable[str], threads: int, upright: bool = False) -> pd.DataFrame:
    """Decode each image in full.

    Args:
        root: the data set's root, to which `image_paths` are relative.
        upright: whether the annotations refer to the upright images.
    Returns:
        One row per path: `file` ("whole", "missing", "empty", "cut short or damaged" and the decoder's words, "too large for OpenCV",
        "not an image"), `width` and `height` in px as stored or upright (NaN unless whole), `sha256` of the bytes (None if missing),
        `orientation` by EXIF (1 to 8; 1 unless whole).
    """
    paths = list(image_paths)
    parts = (paths[start : start + PART_IMAGES] for start in range(0, len(paths), PART_IMAGES))
    rows = [row for _, part in mapped(partial(_inspected, root, upright), parts, threads) for row in part]
    frame = pd.DataFrame(rows, columns=["file", "width", "height", "sha256", "orientation"])
    return frame.astype({"file": "str", "width": "float64", "height": "float64", "sha256": "str", "orientation": "int64"})


def _inspected(root: Path, upright: bool, paths: list[str]) -> list[tuple[str, float, float, str | None, int]]:
    return [_inspect(root / path, upright) for path in paths]


def _inspect(path: Path, upright: bool) -> tuple[str, float, float, str | None, int]:
    try:
        data = path.read_bytes()
    except OSError:
        return "missing", np.nan, np.nan, None, 1
    digest = hashlib.sha256(data).hexdigest()
    try:
        image = pictures.pixels(data, upright)
    except pictures.Unreadable as error:
        problem = "cut short or damaged" if error.kind in (pictures.CUT, pictures.DAMAGED) else error.kind
        return problem + (f": {error.said}" if error.said else ""), np.nan, np.nan, digest, 1
    return WHOLE, image.shape[1], image.shape[0], digest, orientation_of(data)
