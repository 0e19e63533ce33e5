"""Transfer files from a place into a folder: in parallel, resumable and checked. Each file appears whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.base.errors import FarposeError
from components.base.files import full_disk_named, sha256_of
from components.datasets.acquire.listing import BrokenTransfer, Entry, Place

ATTEMPTS = 6  # in a row without a byte of progress
FIRST_PAUSE_S = 0.5  # doubled after each attempt


class Ledger:
    """List of transferred files, one JSON line each, from which an interrupted transfer continues. A new origin starts a new list."""

    def __init__(self, path: Path, origin: str) -> None:
        self.path, self._lock = path, threading.Lock()
        origin = re.sub(r"://[^\s/]*@", "://", origin)  # a password in the address is not kept
        self.files: dict[str, dict[str, Any]] = {}
        lines = path.read_text().splitlines() if path.exists() else []
        self.continues = bool(lines) and lines[0] == json.dumps({"origin": origin})
        if self.continues:
            for line in lines[1:]:
                try:
                    record = json.loads(line)
                except json.JSONDecodeError:  # a killed run's last line
                    continue
                self.files[record["path"]] = record
        path.parent.mkdir(parents=True, exist_ok=True)
        # Rewritten, not appended to: the last line may be half a line.
        text = [json.dumps({"origin": origin})] + [json.dumps(record) for record in self.files.values()]
        path.write_text("\n".join(text) + "\n")

    def has(self, entry: Entry, target: Path) -> bool:
        """Whether exactly this version of the file has arrived and still has its full length."""
        record = self.files.get(entry.path)
        known = record is not None and record["tag"] == entry.tag and entry.size in (None, record["size"])
        return record is not None and known and target.is_file() and target.stat().st_size == record["size"]

    def add(self, entry: Entry, size: int, sha256: str) -> None:
        record = {"path": entry.path, "size": size, "tag": entry.tag, "sha256": sha256}
        with self._lock, open(self.path, "a") as stream:
            self.files[entry.path] = record
            stream.write(json.dumps(record) + "\n")


@dataclass
class Transfer:
    """One transfer of all entries of a place.

    Attributes:
        place: the source of the files.
        folder: their destination.
        ledger: the files that have arrived.
        expected: path → required SHA-256, where known.
        reuse: folder of an earlier acquisition; files with the expected checksum are linked from it.
    """

    place: Place
    folder: Path
    ledger: Ledger
    expected: Mapping[str, str]
    reuse: Path | None = None
    progress: bool = True
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _bar: Any = None

    def run(self, entries: list[Entry]) -> None:
        """Fetch missing files; afterwards the folder contains exactly the entries.

        Raises:
            FarposeError: a file is truncated or has another checksum than expected, or the place stays unreachable. Complete
                files stay, and the next run continues from them.
        """
        from tqdm import tqdm

        self.folder.mkdir(parents=True, exist_ok=True)
        missing = [entry for entry in entries if not self.ledger.has(entry, self.folder / entry.path)]
        total = sum(entry.size for entry in missing if entry.size is not None)
        disabled = not self.progress
        with tqdm(total=total or None, unit="B", unit_scale=True, desc=f"{len(missing)} files", disable=disabled) as self._bar:
            pool = ThreadPoolExecutor(self.place.threads)
            try:
                for done in as_completed([pool.submit(self._fetch, entry) for entry in missing]):
                    done.result()
            finally:  # also after an error or Ctrl-C: other transfers stop at their next chunk
                self._stop.set()
                pool.shutdown(cancel_futures=True)
        self._sweep({entry.path for entry in entries})

    def _fetch(self, entry: Entry, again: bool = True) -> None:
        if self._stop.is_set():
            return None
        target = self.folder / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if self._reused(entry, target):
            return None
        # The version is part of the name, so a partial file is continued only with bytes of its own version.
        version = hashlib.sha256(f"{entry.tag}|{entry.size}".encode()).hexdigest()[:12]
        part = target.with_name(f"{target.name}.{version}.part")
        if not entry.tag:
            part.unlink(missing_ok=True)
        resumed = part.exists()
        with full_disk_named(target):
            digest = self._download(entry, part)
        wanted = self.expected.get(entry.path, entry.sha256)
        if wanted and digest != wanted:
            part.unlink()
            if resumed or again:  # the partial file may be damaged, or the line
                return self._fetch(entry, again=False)
            raise FarposeError(
                f"SHA-256 is {digest[:12]}…, expected {wanted[:12]}…: truncated or tampered with",
                where=entry.path,
                fix="nothing was replaced; get the file from a trusted place, or accept it with --accept-changes if the change is intended",
            )
        size = part.stat().st_size
        os.replace(part, target)
        self.ledger.add(entry, size, digest)
        return None

    def _reused(self, entry: Entry, target: Path) -> bool:
        wanted = self.expected.get(entry.path, entry.sha256)
        old = self.reuse / entry.path if self.reuse else None
        if not wanted or old is None or not old.is_file() or entry.size not in (None, old.stat().st_size) or sha256_of(old) != wanted:
            return False
        target.unlink(missing_ok=True)
        try:
            os.link(old, target)
        except OSError:  # a file system without hard links
            shutil.copyfile(old, target)
        self.ledger.add(entry, old.stat().st_size, wanted)
        self._advance(old.stat().st_size)
        return True

    def _download(self, entry: Entry, part: Path) -> str:
        """Complete `part`; returns its SHA-256."""
        failures, reason, broken = 0, "", None
        while failures < ATTEMPTS:
            if failures:
                self._stop.wait(FIRST_PAUSE_S * 2 ** (failures - 1))
            offset = part.stat().st_size if part.exists() else 0
            try:
                total = self._receive(entry, part, offset)
            except BrokenTransfer as error:
                total, reason, broken = -1, str(error), error
            length = part.stat().st_size if part.exists() else 0
            if total is None or length == total:
                return sha256_of(part)
            if total >= 0:
                reason = f"got {length} of {total} bytes"
            if total >= 0 and length > total:  # the partial file belongs to another file
                part.unlink()
            failures = 1 if length > offset else failures + 1
        fix = "what has arrived is kept; run the same command again to continue"
        raise FarposeError(f"truncated, {ATTEMPTS} attempts without progress ({reason})", where=entry.path, fix=fix) from broken

    def _receive(self, entry: Entry, part: Path, offset: int) -> int | None:
        """Append received bytes to `part`; returns the file's full length, None if unknown."""
        if entry.size is not None and offset == entry.size and offset > 0:
            return entry.size
        stream = self.place.open(entry, offset)
        with open(part, "r+b" if part.exists() else "wb") as file:
            file.truncate(stream.start)
            file.seek(stream.start)
            for chunk in stream.chunks:
                if self._stop.is_set():
                    raise FarposeError("stopped", where=entry.path)
                file.write(chunk)
                self._advance(len(chunk))
        return entry.size if entry.size is not None else stream.total

    def _advance(self, count: int) -> None:
        with self._lock:
            self._bar.update(count)

    def _sweep(self, listed: set[str]) -> None:
        for path in [path for path in self.folder.rglob("*") if path.is_file()]:
            if path.relative_to(self.folder).as_posix() not in listed:
                path.unlink()
