"""Width and height of an image file from its header, for annotations that do not state them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from components.pose.orientation import SWAPPING, orientation_of

# JPEG's frame headers (ITU-T T.81, table B.1): all SOF markers, without DHT, JPG and DAC, which share their range.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length


def image_size(path: Path) -> tuple[int, int] | None:
    """(width, height) in px as stored, EXIF orientation ignored; None without a file or for one that is no image.

    JPEG and PNG headers are read; any other format is decoded.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(24)
            if start[:8] == b"\x89PNG\r\n\x1a\n" and len(start) == 24:
                width, height = struct.unpack(">II", start[16:24])
                return int(width), int(height)
            if start[:2] == b"\xff\xd8":
                stream.seek(2)
                return _of_jpeg(stream)
    except OSError:
        return None
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    return None if image is None else (image.shape[1], image.shape[0])


def annotated_size(path: Path, upright: bool) -> tuple[int, int] | None:
    """(width, height) in px as annotations take the image, None for a file that is no image.

    Args:
        upright: annotations refer to the image as viewers turn it by EXIF.
    """
    size = image_size(path)
    return size[::-1] if size is not None and upright and orientation_of(path.read_bytes()) in SWAPPING else size


def _of_jpeg(stream: BinaryIO) -> tuple[int, int] | None:
    """Walk the segments to the frame header."""
    while True:
        byte = stream.read(1)
        if byte != b"\xff":
            return None
        while byte == b"\xff":  # fill bytes
            byte = stream.read(1)
        if not byte or byte[0] == 0xDA:  # the scan begins without a frame
            return None
        if byte[0] in _BARE:
            continue
        header = stream.read(7)
        if len(header) < 7:
            return None
        length = int(struct.unpack(">H", header[:2])[0])
        if byte[0] in _FRAMES:
            height, width = struct.unpack(">HH", header[3:7])
            return int(width), int(height)
        stream.seek(length - 7, 1)
