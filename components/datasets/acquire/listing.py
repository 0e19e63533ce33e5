"""The files that a place offers, with sizes and, where known, checksums."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol

from components.base.errors import FarposeError

# What OpenCV decodes and `pose.pictures` judges.
IMAGES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif")
KINDS = (*IMAGES, ".json", ".json.gz", ".xml", ".mat", ".h5", ".hdf5", ".txt", ".yaml", ".yml", ".md")
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
CHECKSUM_LISTS = ("MANIFEST.json", "SHA256SUMS")


@dataclass(frozen=True)
class Entry:
    """A file that a place offers.

    Attributes:
        path: relative, with forward slashes.
        size: bytes, if known before the transfer.
        tag: changes whenever the file changes (ETag, time of modification, checksum); empty if unknown.
        sha256: hexadecimal, if the place states it.
    """

    path: str
    size: int | None = None
    tag: str = ""
    sha256: str | None = None


@dataclass(frozen=True)
class Stream:
    """Bytes in transfer, from offset `start` of a file of `total` bytes (if known)."""

    start: int
    total: int | None
    chunks: Iterator[bytes]


class BrokenTransfer(Exception):
    """The transfer stopped for a reason that may be temporary, so it is tried again."""


class Place(Protocol):
    """A source of files."""

    threads: int  # transfers at the same time
    left_out: list[str]  # visible files of other kinds, once `entries` was called

    def entries(self) -> list[Entry]:
        """All offered files of a known kind. Raises FarposeError if the place cannot be listed."""

    def open(self, entry: Entry, offset: int) -> Stream:
        """Bytes from `offset` on, or from 0 if the place cannot resume. Raises BrokenTransfer or FarposeError."""


def wanted(path: str) -> bool:
    """Whether a file is of a known kind (image, annotation or note) and neither hidden nor a checksum list."""
    return path.lower().endswith(KINDS) and visible(path)


def visible(path: str) -> bool:
    """Whether a file is one that a person put there: neither hidden nor a checksum list."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(path).parts)
    return not hidden and path not in CHECKSUM_LISTS


def kinds_of(paths: Iterable[str]) -> str:
    """Files by their endings, in words: "3 .heic (a.heic, b.heic, c.heic), 1 .mp4 (film.mp4)"."""
    groups: dict[str, list[str]] = {}
    for path in sorted(paths):
        groups.setdefault(PurePosixPath(path).suffix.lower() or "without ending", []).append(path)
    return ", ".join(f"{len(some)} {kind} ({', '.join(some[:3])}{', ...' * (len(some) > 3)})" for kind, some in sorted(groups.items()))


def is_archive(name: str) -> bool:
    return name.lower().endswith(ARCHIVES)


def safe_path(path: str, where: object) -> str:
    """`path`, if it stays inside the folder that it is relative to.

    Raises:
        FarposeError: the path is absolute, contains `..`, or is empty or unprintable.
    """
    parts = PurePosixPath(path).parts
    outside = path.startswith("/") or ".." in parts or "\\" in path or re.match(r"[A-Za-z]:", path)
    if outside or not parts or any(ord(character) < 32 for character in path):
        raise FarposeError(f"unsafe file name {path!r}", where=where, fix="do not use data from this place")
    return str(PurePosixPath(*parts))


def parse_checksums(name: str, content: bytes, where: object) -> list[Entry]:
    """Entries of a MANIFEST.json ({path: sha256}, or {"files": [{"path" or "file", "sha256", "bytes" or "size"}]}) or a SHA256SUMS.

    Raises:
        FarposeError: the list is malformed or names an unsafe path.
    """
    try:
        rows = _json_rows(json.loads(content)) if name.endswith(".json") else _sum_rows(content.decode())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FarposeError(f"not a list of checksums: {error}", where=where, fix="write it with `sha256sum`") from error
    entries = []
    for path, digest, size in rows:
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise FarposeError(f"{path}: {digest!r} is not a SHA-256", where=where, fix="write the list with `sha256sum`")
        entries.append(Entry(safe_path(path.removeprefix("./"), where), size, digest, digest))
    return entries


def _json_rows(value: Any) -> list[tuple[str, str, int | None]]:
    files = value.get("files", value) if isinstance(value, dict) else value
    if isinstance(files, dict):
        return [(path, digest.lower(), None) for path, digest in files.items()]
    rows = []
    for row in files:
        size = row.get("bytes", row.get("size"))
        rows.append((row["path"] if "path" in row else row["file"], row["sha256"].lower(), None if size is None else int(size)))
    return rows


def _sum_rows(text: str) -> list[tuple[str, str, int | None]]:
    rows: list[tuple[str, str, int | None]] = []
    for line in text.splitlines():
        if line.strip():
            digest, path = line.split(maxsplit=1)
            rows.append((path.removeprefix("*"), digest.lower(), None))
    return rows
