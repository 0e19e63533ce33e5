"""Image files of every kind become 8-bit colours: the files are written here by hand, so that OpenCV does not test itself."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from components.base.errors import FarposeError
from components.datasets.validate_images import inspect_images
from components.degrade.images import read_image

GREY, COLOUR, PALETTE, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6  # PNG's colour types
RNG = np.random.default_rng(0)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(pixels: np.ndarray, colour_type: int, extra: bytes = b"", size: tuple[int, int] | None = None) -> bytes:
    """A PNG file of (H, W) or (H, W, C) samples, uint8 or uint16; bool: one bit each."""
    height, width = size or pixels.shape[:2]
    depth = 1 if pixels.dtype == bool else 8 * pixels.itemsize
    samples = pixels.reshape(len(pixels), -1)
    rows = [np.packbits(row).tobytes() if depth == 1 else row.astype(f">u{depth // 8}").tobytes() for row in samples]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def levels(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    """Random samples, the darkest and the brightest among them."""
    values = RNG.integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)
    values.flat[0], values.flat[-1] = 0, np.iinfo(dtype).max
    return values


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


G8, G16, C8, C16 = levels(9, 7), levels(9, 7, dtype=np.uint16), levels(9, 7, 3), levels(9, 7, 3, dtype=np.uint16)
BITS = RNG.random((9, 7)) < 0.5
A8, A16 = levels(9, 7, 1), levels(9, 7, 1, dtype=np.uint16)
COLOURS, INDEX = levels(16, 3), RNG.integers(0, 16, (9, 7), dtype=np.uint8)
TABLE, SEE_THROUGH = chunk(b"PLTE", COLOURS.tobytes()), chunk(b"tRNS", bytes(range(0, 160, 10)))
PNGS: dict[str, tuple[bytes, np.ndarray]] = {  # the file and its RGB
    "grey": (png(G8, GREY), grey(G8)),
    "one bit": (png(BITS, GREY), grey(BITS * np.uint8(255))),
    "grey, 16 bits": (png(G16, GREY), grey(G16 >> 8)),
    "colour": (png(C8, COLOUR), C8),
    "colour, 16 bits": (png(C16, COLOUR), C16 >> 8),
    "palette": (png(INDEX, PALETTE, TABLE), COLOURS[INDEX]),
    "palette, transparent": (png(INDEX, PALETTE, TABLE + SEE_THROUGH), COLOURS[INDEX]),
    "grey, transparent": (png(np.dstack([G8, A8]), GREY_ALPHA), grey(G8)),
    "colour, transparent": (png(np.dstack([C8, A8]), COLOUR_ALPHA), C8),
    "colour, 16 bits, transparent": (png(np.dstack([C16, A16]), COLOUR_ALPHA), C16 >> 8),
    "one pixel": (png(C8[:1, :1], COLOUR), C8[:1, :1]),
    "one grey pixel, 16 bits": (png(G16[-1:, -1:], GREY), np.full((1, 1, 3), 255)),
    "one row": (png(C8[:1], COLOUR), C8[:1]),
    "one column": (png(G8[:, :1], GREY), grey(G8[:, :1])),
    "bytes behind the end": (png(C8, COLOUR) + b"appended by a camera" * 9, C8),
}


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("name", PNGS)
def test_every_kind_of_png_becomes_8_bit_colours(tmp_path: Path, name: str, upright: bool) -> None:
    data, expected = PNGS[name]
    (tmp_path / "image.png").write_bytes(data)
    image = read_image(tmp_path / "image.png", upright)
    assert image.dtype == np.uint8 and np.array_equal(image[..., ::-1], expected)
    found = inspect_images(tmp_path, ["image.png"], threads=1).iloc[0]
    assert (found["file"], found["height"], found["width"]) == ("whole", *expected.shape[:2])


def rotated_jpeg(pixels: np.ndarray, orientation: int, order: str) -> bytes:
    """A JPEG whose EXIF segment has one entry, the orientation, in Intel's ("<") or Motorola's (">") byte order."""
    data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, 8)
    entry = struct.pack(order + "HHHIHH", 1, 0x0112, 3, 1, orientation, 0) + bytes(4)
    segment = b"Exif\0\0" + head + entry
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]


UPRIGHT = {  # how a viewer turns stored pixels, by EXIF orientation (Exif 2.3, section 4.6.4, tag 0x0112)
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image[::-1].swapaxes(0, 1),
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: image[:, ::-1].swapaxes(0, 1),
}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_counts_only_where_asked_for(tmp_path: Path, orientation: int, channels: int, order: str) -> None:
    pixels = cv2.GaussianBlur(RNG.integers(0, 256, (24, 40, channels), dtype=np.uint8), (0, 0), 3)
    path = tmp_path / "photo.jpg"
    path.write_bytes(rotated_jpeg(pixels, 1, order))
    stored = read_image(path)
    assert stored.shape == (24, 40, 3) and np.abs(stored - pixels.reshape(24, 40, channels).astype(int)).max() < 24
    path.write_bytes(rotated_jpeg(pixels, orientation, order))
    assert np.array_equal(read_image(path), stored)
    assert np.array_equal(read_image(path, upright=True), UPRIGHT[orientation](stored))


@pytest.mark.parametrize("extension", [".jpg", ".webp", ".bmp", ".tiff"])
def test_one_pixel_of_other_formats(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"pixel{extension}"
    path.write_bytes(cv2.imencode(extension, np.full((1, 1, 3), 77, np.uint8))[1].tobytes())
    assert read_image(path).tolist() == read_image(path, upright=True).tolist() == [[[77, 77, 77]]]


def test_an_image_too_large_for_opencv_is_named(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(png(C8, COLOUR, size=(50_000, 50_000)))
    with pytest.raises(FarposeError, match=r"huge\.png: image is larger than OpenCV decodes"):
        read_image(path)
    assert inspect_images(tmp_path, ["huge.png"], threads=1)["file"].tolist() == ["too large for OpenCV"]


def test_every_truncation_of_a_png_is_named(tmp_path: Path) -> None:
    data, path = PNGS["colour"][0], tmp_path / "cut.png"
    for length in range(1, len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(FarposeError, match=r"cut\.png: (image file is cut short|OpenCV cannot decode)"):
            read_image(path)
