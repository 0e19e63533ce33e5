"""The EXIF orientation of an image file: how viewers turn the stored pixels (Exif 2.3, section 4.6.4, tag 0x0112)."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

import numpy as np

STORED = 1  # the orientation that turns nothing
TAG, SHORT, LONG = 0x0112, 3, 4
SWAPPING = (5, 6, 7, 8)  # orientations that exchange width and height
# AVIF has no such tag but two transforms: quarter turns against the clock, and then a mirror (0: top and bottom, 1: left and right).
_OF_TRANSFORMS = {
    (0, 1): 2,
    (2, None): 3,
    (0, 0): 4,
    (1, 0): 5,
    (3, None): 6,
    (3, 0): 7,
    (1, None): 8,
    (2, 0): 2,
    (2, 1): 4,
    (1, 1): 7,
    (3, 1): 5,
}


def orientation_of(data: bytes) -> int:
    """The orientation (1 to 8) of a JPEG, PNG, WebP or AVIF file; 1 where it states none or an invalid one.

    TIFF's orientation is not among them: OpenCV turns these files in any case, so their pixels as read are upright.
    """
    if data[4:12] in (b"ftypavif", b"ftypavis", b"ftypmif1"):
        return _of_avif(data)
    for block in _exif_blocks(data):
        found = _of_exif(block)
        if found is not None:
            return found
    return STORED


def turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, ...) stored pixels as a viewer shows them; swapped sides for the orientations 5 to 8."""
    if orientation in SWAPPING:
        image = image.swapaxes(0, 1)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return np.ascontiguousarray(image[rows, columns])


def _exif_blocks(data: bytes) -> Iterator[bytes]:
    """EXIF blocks, each in TIFF's form."""
    if data[:2] == b"\xff\xd8":
        yield from (segment[6:] for code, segment in _jpeg_segments(data) if code == 0xE1 and segment[:6] == b"Exif\0\0")
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        yield from (block for kind, block in _chunks(data, 8, ">I4s", 4) if kind == b"eXIf")
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        yield from (block.removeprefix(b"Exif\0\0") for kind, block in _chunks(data, 12, "<4sI", 0) if kind == b"EXIF")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Codes and contents of the segments before the first scan."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        if data[at + 1] == 0xFF:  # a fill byte
            at += 1
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        yield data[at + 1], data[at + 4 : at + 2 + length]
        at += 2 + length


def _chunks(data: bytes, at: int, form: str, checksum: int) -> Iterator[tuple[bytes, bytes]]:
    """Names and contents of PNG's and RIFF's chunks."""
    while at + 8 <= len(data):
        first, second = struct.unpack_from(form, data, at)
        kind, length = (first, second) if isinstance(first, bytes) else (second, first)
        yield kind, data[at + 8 : at + 8 + length]
        at += 8 + length + checksum + (0 if checksum else length % 2)  # RIFF pads to even lengths


def _of_exif(block: bytes) -> int | None:
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", block, entry)
            if tag == TAG and kind in (SHORT, LONG):
                (value,) = struct.unpack_from(order + ("H" if kind == SHORT else "I"), block, entry + 8)
                return int(value) if 1 <= value <= 8 else STORED
    except struct.error:  # cut short
        return None
    return None


def _of_avif(data: bytes) -> int:
    turn = re.search(rb"\0\0\0\x09irot(.)", data, re.DOTALL)
    mirror = re.search(rb"\0\0\0\x09imir(.)", data, re.DOTALL)
    return _OF_TRANSFORMS.get((turn[1][0] & 3 if turn else 0, mirror[1][0] & 1 if mirror else None), STORED)
