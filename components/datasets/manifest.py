"""Manifests of raw data: SHA-256 of every file, in the format of `sha256sum -c`, kept in git while the data are not."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from components.base.errors import FarposeError
from components.base.fan_out import mapped
from components.base.files import atomic_file, sha256_of

PART_FILES = 16
NAMED = 5  # differences named in an error
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def digest_tree(root: Path) -> dict[str, str]:
    """SHA-256 of every file under `root` by its path relative to it, sorted. Hashing uses threads, or what `base.fan_out` says."""
    paths = _files(root)
    parts = (paths[start : start + PART_FILES] for start in range(0, len(paths), PART_FILES))
    hashed = mapped(partial(_digests, root), parts, min(8, (os.cpu_count() or 1) + 2))
    return dict(zip(paths, (digest for _, digests in hashed for digest in digests), strict=True))


def _digests(root: Path, paths: list[str]) -> list[str]:
    return [sha256_of(root / path) for path in paths]


def save_manifest(digests: Mapping[str, str], path: Path, where: object = None) -> None:
    """Write known digests, sorted by path.

    Raises:
        FarposeError: `digests` is empty, or a name holds a line break or a backslash (which `sha256sum` escapes).
    """
    if not digests:
        raise FarposeError("no files to list in a manifest", where=where)
    for name in digests:
        if re.search(r"[\n\r\\]", name):
            raise FarposeError(f"the file name {name!r} holds a line break or a backslash", where=where, fix="rename the file")
    with atomic_file(path) as temporary:
        temporary.write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items())))


def read_manifest(path: Path) -> dict[str, str]:
    """Path → SHA-256 of a manifest.

    Raises:
        FarposeError: the manifest is missing, or a line is not one of `sha256sum`'s.
    """
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        raise FarposeError("manifest not found", where=path, fix="restore it with `git checkout`, or run `farpose acquire`") from None
    digests = {}
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        if not match:
            raise FarposeError(f"not a line of `sha256sum`: {line[:80]!r}", where=f"{path}:{number}", fix="restore it with `git checkout`")
        digests[match[2]] = match[1]
    return digests


def check_manifest(root: Path, path: Path) -> None:
    """Compare the files under `root` with the manifest `path`.

    Raises:
        FarposeError: files are missing, changed, or not in the manifest; names the first five.
    """
    expected = read_manifest(path)
    restore = "restore with `git checkout data.dvc && dvc checkout data.dvc`"  # `dvc repro` would write changed data into data.dvc
    accept = f"accept new data with `farpose acquire {path.stem} --accept-changes`"
    if not root.is_dir():
        raise FarposeError("raw data not found", where=root, fix=f"{restore}, or fetch them with `farpose acquire {path.stem}`")
    present = set(_files(root))
    # Names are compared first, which avoids hashing 20 GB.
    if present == set(expected):
        different = differences(expected, digest_tree(root))
    else:
        different = differences(dict.fromkeys(expected, ""), dict.fromkeys(present, ""))
    if different:
        raise FarposeError(f"raw data differ from {path.name}: {summary(different)}", where=root, fix=f"{restore}, or {accept}")


def differences(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Differences between two trees of digests, such as "missing a.jpg": missing files, then unexpected ones, then changed ones."""
    missing = [f"missing {name}" for name in sorted(expected) if name not in found]
    unexpected = [f"unexpected {name}" for name in sorted(found) if name not in expected]
    changed = [f"changed {name}" for name in sorted(expected) if name in found and found[name] != expected[name]]
    return missing + unexpected + changed


def summary(different: list[str]) -> str:
    """The first few differences and the number of the others."""
    more = f" and {len(different) - NAMED} more" if len(different) > NAMED else ""
    return ", ".join(different[:NAMED]) + more


def _files(root: Path) -> list[str]:
    return sorted(
        os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/")
        for folder, _, names in os.walk(root, followlinks=True)
        for name in names
    )
