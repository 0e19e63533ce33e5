"""Files that are either whole or absent: write to a temporary name, then rename."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.base.errors import DiskFull, FarposeError


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`. On success it replaces `path`; on any error `path` stays as it was.

    Raises:
        FarposeError: the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with full_disk_named(path):
            yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Yield a temporary directory next to `path`. On success it replaces `path`; on any error `path` stays as it was.

    Raises:
        FarposeError: the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    temporary.chmod(0o755)
    try:
        with full_disk_named(path):
            yield temporary
        if path.exists():
            retired = temporary.with_suffix(".old")
            os.replace(path, retired)
            os.replace(temporary, path)
            shutil.rmtree(retired)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Turn the error of a full disk into a FarposeError that names `path` and the free space."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(path.parent).free / 2**20
        raise DiskFull(
            "the disk is full",
            where=path,
            fix=f"{free:.0f} MiB are free in {path.parent}; free some space and run the same command again",
        ) from error


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all. NaN and infinity are refused (they are not JSON)."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    with atomic_file(path) as temporary:
        temporary.write_text(text)


def read_json(path: str | Path) -> Any:
    """Read a JSON file; one whose name ends in .gz is gzipped.

    Raises:
        FarposeError: the file is missing, no whole gzip file or is not JSON; names the file, line and column.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        return json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)
    except FileNotFoundError:
        raise FarposeError("file not found", where=path) from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FarposeError(f"not a whole gzip file: {error}", where=path, fix="the file is damaged; fetch it again") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FarposeError(f"not valid JSON: {error}", where=path, fix="the file is damaged; fetch or write it again") from error


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def size_in_words(count: int) -> str:
    """Bytes with the unit that suits them: `9 bytes`, `412 kB`, `2.4 MB`, `18.9 GB`."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.0f} kB" if count >= 1000 else f"{count} bytes"


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON-serialisable value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
