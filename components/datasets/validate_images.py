"""Open every image file once for its completeness, size and digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

WHOLE = "whole"
# Leading bytes of OpenCV's formats, which distinguish a damaged image from a file of another kind.
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF", b"II*\x00", b"MM\x00*", b"GIF8")


def inspect_images(root: Path, image_paths: Iterable[str], threads: int) -> pd.DataFrame:
    """Decode each image in full.

    Args:
        root: the data set's root, to which `image_paths` are relative.
    Returns:
        One row per path: `file` ("whole", "missing", "empty", "cut short or damaged", "too large for OpenCV", "not an image"),
        `width` and `height` in px as stored, EXIF orientation ignored (NaN unless whole), `sha256` of the bytes (None if missing).
    """
    verbosity = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # the result names the file; OpenCV's messages do not
    try:
        with ThreadPoolExecutor(threads) as pool:
            rows = list(pool.map(lambda path: _inspect(root / path), image_paths))
    finally:
        cv2.utils.logging.setLogLevel(verbosity)
    frame = pd.DataFrame(rows, columns=["file", "width", "height", "sha256"])
    return frame.astype({"file": "str", "width": "float64", "height": "float64", "sha256": "str"})


def _inspect(path: Path) -> tuple[str, float, float, str | None]:
    try:
        data = path.read_bytes()
    except OSError:
        return "missing", np.nan, np.nan, None
    digest = hashlib.sha256(data).hexdigest()
    # Not imread, which fills the missing part of a cut JPEG with grey and reports success; imdecode fails.
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) if data else None
    except cv2.error:  # it refuses more than 2^30 px
        return "too large for OpenCV", np.nan, np.nan, digest
    if image is not None:
        return WHOLE, image.shape[1], image.shape[0], digest
    problem = "cut short or damaged" if data.startswith(SIGNATURES) else "not an image" if data else "empty"
    return problem, np.nan, np.nan, digest
