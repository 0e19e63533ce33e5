"""Whether an image file is whole, and its pixels: one verdict for validate, degrade, evaluate and predict."""

from __future__ import annotations

import re

import cv2
import numpy as np

from components.pose import decoder
from components.pose.orientation import orientation_of, turned

# Leading bytes of the formats that are read, which distinguish a damaged image from a file of another kind.
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF", b"II*\x00", b"MM\x00*", b"GIF8")
EMPTY, CUT, DAMAGED, TOO_LARGE, OTHER = "empty", "cut short", "damaged", "too large for OpenCV", "not an image"
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
PADDING = 2  # bytes before the end of a JPEG that encoders are known to add, whatever they are
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])", re.DOTALL)  # not stuffed bytes, restarts and fill bytes
_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]+)")


class Unreadable(ValueError):
    """An image file that is not whole.

    Attributes:
        kind: `EMPTY`, `CUT`, `DAMAGED`, `TOO_LARGE` or `OTHER`.
        said: the decoder's words, or "".
    """

    def __init__(self, kind: str, said: str = "") -> None:
        super().__init__(f"{kind} ({said})" if said else kind)
        self.kind, self.said = kind, said


def pixels(data: bytes, upright: bool = False) -> np.ndarray:
    """(H, W, 3) uint8 BGR pixels of a whole image file.

    Grey levels and palettes become colours, 16 bits become the upper 8, and transparency is dropped. Bytes behind the image's end do not
    count: cameras append videos and second pictures. TIFF files are upright in any case.

    Args:
        upright: turn the image by its EXIF orientation, as viewers do. False: pixels as stored.
    Raises:
        Unreadable: the file is empty, lacks its end, is damaged (a JPEG that decodes with "corrupt data" too), too large or not an image.
    """
    if not data:
        raise Unreadable(EMPTY)
    end, scans = _jpeg_end(data) if data[:2] == b"\xff\xd8" else (len(data), 0)
    if end is None or (data[:4] == b"\x89PNG" and b"IEND\xae\x42\x60\x82" not in data):
        raise Unreadable(CUT)
    try:
        image, said = decoder.decode(data)
    except cv2.error:  # it refuses more than 2^30 px
        raise Unreadable(TOO_LARGE) from None
    if image is None:
        ours = data.startswith(SIGNATURES) or data[4:12] in (b"ftypavif", b"ftypavis")
        raise Unreadable(DAMAGED if ours else OTHER, next(iter(said.splitlines()), "")[:160] if ours else "")
    for line in said.splitlines():
        if _is_damage(line, data, end, scans):
            raise Unreadable(DAMAGED, line.strip()[:160])
    return turned(image, orientation_of(data)) if upright else image


def _jpeg_end(data: bytes) -> tuple[int | None, int]:
    """Where a JPEG's end marker stands, None if it lacks one, and the number of its scans.

    Segments are stepped over by their lengths, so that an embedded thumbnail's markers do not count (ITU T.81, annex B).
    """
    at, scans = 2, 0
    while found := _MARKER.search(data, at):
        code = found[1][0]
        if code == END_OF_IMAGE:
            return found.start(), scans
        scans += code == START_OF_SCAN
        at = found.end() + max(int.from_bytes(data[found.end() : found.end() + 2], "big"), 2)
    return None, scans


def _is_damage(line: str, data: bytes, end: int, scans: int) -> bool:
    """Whether a line of libjpeg or OpenCV says that pixels are wrong; others are about colour profiles and version numbers."""
    if line.startswith("[ERROR"):
        return True
    if extraneous := _EXTRANEOUS.search(line):
        count, marker = int(extraneous[1]), int(extraneous[2], 16)
        if marker == END_OF_IMAGE:  # of one value: padding
            return count > PADDING and len(set(data[max(end - count, 0) : end])) > 1
        return scans > 1 or marker not in (START_OF_SCAN, *range(0xC0, 0xCF), 0xDB, *range(0xE0, 0xFF))  # between headers
    return line.startswith(("Corrupt JPEG data", "Premature end of JPEG", "Inconsistent progression")) and "ICC" not in line
