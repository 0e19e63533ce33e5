"""File names of annotation files → files of a folder, where they nearly match: other systems' paths, letters' case, Unicode forms."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

NAMED = 5  # files named in an error


def relative(name: str) -> str:
    """A file name as a relative path with forward slashes: of a web address its path, of an absolute path all but its root.

    Label Studio's `?d=PATH` is taken for the path. A name that leads upwards (`..`) stays as it is.
    """
    if "://" in name:
        parts = urlsplit(name)
        name = parse_qs(parts.query).get("d", [unquote(parts.path)])[0]
    elif re.match(r"/\S*\?d=", name):
        name = unquote(name.partition("?d=")[2])
    if re.match(r"[A-Za-z]:[\\/]", name) or ("\\" in name and "/" not in name):
        name = re.sub(r"^[A-Za-z]:", "", name).replace("\\", "/")
    return str(PurePosixPath(name.lstrip("/"))) if name.strip("/") else ""


@dataclass(frozen=True)
class Match:
    """Files found for names that no file has.

    Attributes:
        paths: name → the file's path, both relative to the data set's root.
        several: name → the files that it could be.
    """

    paths: dict[str, str]
    several: dict[str, list[str]]

    def said(self) -> str:
        """The ambiguous names, in words; empty if there are none."""
        some = [f"{name} could be {' or '.join(files[:3])}" for name, files in sorted(self.several.items())[:NAMED]]
        more = f" and {len(self.several) - NAMED} more" if len(self.several) > NAMED else ""
        return "; ".join(some) + more


def match(root: Path, folder: str, names: Iterable[str], taken: Iterable[str] = ()) -> Match:
    """Find the files that missing names mean.

    A name means the only file of `folder` with the same path, whose case, Unicode form or percent signs may differ; or else the only one
    that ends in the longest possible end of that path (`images/a.jpg` → `a.jpg` or `day1/images/a.jpg`).

    Args:
        root: the data set's root, which names and files are relative to.
        folder: of the images, inside the root.
        taken: files that other names have exactly; no further name means them.
    """
    every = sorted((root / folder).rglob("*")) if (root / folder).is_dir() else []
    files = [path.relative_to(root).as_posix() for path in every if path.is_file()]
    ends: dict[str, list[str]] = defaultdict(list)
    for path in files:
        parts = _key(path).split("/")
        for start in range(len(parts)):
            ends["/".join(parts[start:])].append(path)
    found: dict[str, str] = {}
    several: dict[str, list[str]] = {}
    for name in names:
        candidates = _candidates(name, folder, ends)
        if len(candidates) == 1:
            found[name] = candidates[0]
        elif candidates:
            several[name] = candidates
    used: dict[str, list[str]] = defaultdict(list)
    for name, path in found.items():
        used[path].append(name)
    for path in taken:
        if path in used:
            used[path].append(path)
    for path, claims in used.items():
        if len(claims) > 1:  # two images cannot be one file
            several |= {name: [path] for name in claims if name in found}
            for name in claims:
                found.pop(name, None)
    return Match(found, several)


def _candidates(name: str, folder: str, ends: dict[str, list[str]]) -> list[str]:
    for spelled in dict.fromkeys((name, unquote(name))):
        parts = _key(spelled).split("/")
        inside = parts[len(_key(folder).split("/")) :] if folder not in ("", ".") else parts
        exact = [path for path in ends.get("/".join(parts), []) if _key(path) == "/".join(parts)]
        if exact:
            return exact
        for start in range(len(inside)):
            if some := ends.get("/".join(inside[start:])):
                return some
    return []


def _key(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold()).replace(os.sep, "/").replace("\\", "/")
