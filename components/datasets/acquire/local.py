"""Files of a local folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from components.base.errors import FarposeError
from components.datasets.acquire.listing import CHECKSUM_LISTS, BrokenTransfer, Entry, Stream, parse_checksums, visible, wanted

CHUNK = 1 << 20


class LocalFolder:
    """A folder; links in it are followed. Files must match a MANIFEST.json or SHA256SUMS in it."""

    threads = 4

    def __init__(self, folder: Path) -> None:
        self.folder, self.left_out = folder, list[str]()

    def entries(self) -> list[Entry]:
        checksums = self._checksums()
        entries = [replace(entry, sha256=checksums.get(entry.path)) for entry in self._found()]
        for path in sorted(set(checksums) - {entry.path for entry in entries}):
            if wanted(path):
                raise FarposeError(f"{path} is on the list of checksums but missing", where=self.folder, fix="complete the folder")
        return entries

    def open(self, entry: Entry, offset: int) -> Stream:
        return Stream(offset, entry.size, self._chunks(entry, offset))

    def _chunks(self, entry: Entry, offset: int) -> Iterator[bytes]:
        try:
            with open(self.folder / entry.path, "rb") as stream:
                stream.seek(offset)
                while chunk := stream.read(CHUNK):
                    yield chunk
        except FileNotFoundError:
            raise FarposeError("the file vanished while the folder was copied", where=self.folder / entry.path) from None
        except PermissionError:
            raise FarposeError("no permission to read the file", where=self.folder / entry.path) from None
        except OSError as error:
            raise BrokenTransfer(str(error)) from error

    def _found(self) -> list[Entry]:
        entries, visited = [], set()
        self.left_out.clear()
        for folder, names, files in os.walk(self.folder, followlinks=True):
            real = os.path.realpath(folder)
            if real in visited:  # a link back up
                names.clear()
                continue
            visited.add(real)
            for name in files:
                path = Path(folder, name)
                relative = path.relative_to(self.folder).as_posix()
                if visible(relative) and not wanted(relative):
                    self.left_out.append(relative)
                elif wanted(relative) and path.is_file():
                    status = path.stat()
                    entries.append(Entry(relative, status.st_size, f"{status.st_size}-{status.st_mtime_ns}"))
        return sorted(entries, key=lambda entry: entry.path)

    def _checksums(self) -> dict[str, str]:
        for name in CHECKSUM_LISTS:
            path = self.folder / name
            if path.is_file():
                return {entry.path: entry.sha256 or "" for entry in parse_checksums(name, path.read_bytes(), path)}
        return {}
