"""Unpack untrusted archives: only plain files of known kinds, inside the folder and of limited size."""

from __future__ import annotations

import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from components.base.errors import FarposeError
from components.base.files import atomic_directory
from components.datasets.acquire.listing import safe_path, visible, wanted

# Photographs hardly compress and JSON compresses 5 to 30 times, so an archive that grows more than this is malicious.
MAX_GROWTH, ALWAYS_ALLOWED_BYTES = 60, 64 << 20
CHUNK = 1 << 20


def unpack(archive: Path, folder: Path, progress: bool = True) -> list[str]:
    """Unpack a .zip, .tar, .tar.gz or .tgz into `folder`, which appears whole or not at all.

    A single enclosing folder is removed. Files of unknown kinds and hidden files are left out.

    Returns:
        The visible files of unknown kinds.

    Raises:
        FarposeError: the archive is damaged; a name is absolute, leads out of the folder or occurs twice; a member is a link,
            a device or encrypted; the contents exceed the disk or the allowed growth.
    """
    from tqdm import tqdm

    members = _zip_members if archive.name.lower().endswith(".zip") else _tar_members
    left_out: list[str] = []
    with atomic_directory(folder) as temporary:
        budget = _Budget(archive, temporary)
        for path, stream in tqdm(members(archive, left_out), desc=f"unpacking {archive.name}", unit="file", disable=not progress):
            target = temporary / path
            if target.exists():
                raise FarposeError(f"{path} occurs twice", where=archive, fix="do not use this archive")
            target.parent.mkdir(parents=True, exist_ok=True)
            with _damage_named(archive, path), open(target, "wb") as file:
                while chunk := stream.read(CHUNK):
                    budget.spend(len(chunk))
                    file.write(chunk)
        _lift_single_folder(temporary)
    return left_out


class _Budget:
    """Bytes that may still be unpacked, counted during unpacking, because an archive's own figures may be wrong."""

    def __init__(self, archive: Path, folder: Path) -> None:
        self.archive = archive
        self.free = shutil.disk_usage(folder).free
        self.honest = archive.stat().st_size * MAX_GROWTH + ALWAYS_ALLOWED_BYTES

    def spend(self, count: int) -> None:
        self.free, self.honest = self.free - count, self.honest - count
        if self.honest < 0:
            problem = f"the contents are more than {MAX_GROWTH} times as large as the archive"
            raise FarposeError(problem, where=self.archive, fix="do not use this archive, or unpack it yourself and give the folder")
        if self.free < 0:
            raise FarposeError("the contents do not fit on the disk", where=self.archive, fix="free some space and run again")


def _zip_members(archive: Path, left_out: list[str]) -> Iterator[tuple[str, IO[bytes]]]:
    with _damage_named(archive), zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            path = safe_path(member.filename, archive)
            mode = member.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused(archive, path, "is a link or a device")
            if member.flag_bits & 1:
                raise _refused(archive, path, "is encrypted")
            if not member.is_dir() and not wanted(path) and visible(path):
                left_out.append(path)
            elif not member.is_dir() and wanted(path):
                with opened.open(member) as stream:
                    yield path, stream


def _tar_members(archive: Path, left_out: list[str]) -> Iterator[tuple[str, IO[bytes]]]:
    with _damage_named(archive), tarfile.open(archive) as opened:
        for member in opened:
            if member.name in (".", "./"):
                continue
            path = safe_path(member.name, archive)
            if not (member.isreg() or member.isdir()):
                raise _refused(archive, path, "is a link or a device")
            if member.isreg() and not wanted(path) and visible(path):
                left_out.append(path)
            stream: Any = opened.extractfile(member) if member.isreg() and wanted(path) else None
            if stream is not None:
                yield path, stream


def _refused(archive: Path, path: str, what: str) -> FarposeError:
    return FarposeError(f"{path} {what}", where=archive, fix="do not use this archive, or unpack it yourself and give the folder")


@contextmanager
def _damage_named(archive: Path, path: str = "") -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's problem, not the archive's
            raise
        inside = f" at {path}" if path else ""
        raise FarposeError(f"the archive is damaged or truncated{inside}: {error}", where=archive, fix="get it again") from error


def _lift_single_folder(folder: Path) -> None:
    """coco/annotations/… → annotations/…"""
    inside = list(folder.iterdir())
    if len(inside) == 1 and inside[0].is_dir() and any(path.is_dir() for path in inside[0].iterdir()):
        wrapper = inside[0].rename(folder / ".wrapper")
        for path in list(wrapper.iterdir()):
            path.rename(folder / path.name)
        wrapper.rmdir()
