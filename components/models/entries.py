"""Entries of variant files, as written and in full.

An entry may extend another one and override some of its keys (`like:`); `_paper` holds what all printed rows of a file share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.base.config import load_yaml
from components.base.errors import FarposeError, unknown_name

LIKE, SHARED = "like", "_paper"
PRINTED = ("paper", "reprints")  # rows of tables
SAME_ROW = (LIKE, "tag", "train", "baseline", "exceptions", *PRINTED)  # what an entry may say and still be the other's row


@dataclass(frozen=True)
class Entry:
    """One mapping of a variant file.

    Attributes:
        path: the file.
        name: its key there; one that starts with `_` is a fragment, which only entries of the same file may extend.
        written: what the file says.
    """

    path: Path
    name: str
    written: dict[str, Any]

    @property
    def where(self) -> str:
        """Place named in errors."""
        return f"{self.path}: {self.name}"


def read(folder: str | Path) -> dict[str, Entry]:
    """Every variant's entry in a folder's YAML files, by name, with the entries that `like` names filled in.

    Raises:
        FarposeError: a file is wrong, an entry is not a mapping, two share a name, there is no YAML file, or `like` names
            nothing that is there or leads back to its own entry.
    """
    files = sorted(Path(folder).glob("*.yaml"))
    if not files:
        raise FarposeError("no variant files (*.yaml)", where=folder)
    entries: dict[str, Entry] = {}
    fragments: dict[Path, dict[str, Entry]] = {}
    for path in files:
        table = load_yaml(path)
        for name, written in table.items():
            into = fragments.setdefault(path, {}) if name.startswith("_") else entries
            if name in into:
                raise FarposeError(f"variant {name!r} is already in {into[name].path.name}", where=path, fix="keep one of them")
            into[name] = _entry(path, name, _printed(written, table.get(SHARED, {})))
    known = {path: entries | fragments.get(path, {}) for path in files}
    return {name: Entry(entry.path, name, _full(entry, known, ())) for name, entry in entries.items()}


def merged(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `overrides` on top; nested mappings are merged key by key."""
    result = dict(base)
    for key, value in overrides.items():
        nested = isinstance(value, dict) and isinstance(base.get(key), dict)
        result[key] = merged(base[key], value) if nested else value
    return result


def _printed(written: object, shared: Mapping[str, Any]) -> object:
    """The entry with its `paper` and every one of its `reprints` completed by what the file's rows share."""
    if not isinstance(written, dict):
        return written
    filled = dict(written)
    if isinstance(written.get("paper"), dict):
        filled["paper"] = {**shared, **written["paper"]}
    if isinstance(written.get("reprints"), list):
        filled["reprints"] = [{**shared, **row} if isinstance(row, dict) else row for row in written["reprints"]]
    return filled


def _entry(path: Path, name: str, written: object) -> Entry:
    entry = Entry(path, name, written if isinstance(written, dict) else {})
    if not isinstance(written, dict):
        raise FarposeError(f"expected a mapping, got {written!r}", where=entry.where)
    return entry


def _full(entry: Entry, known: Mapping[Path, Mapping[str, Entry]], trail: tuple[str, ...]) -> dict[str, Any]:
    """The full entry, without `like`.

    A printed row (`paper`) belongs to its entry. It is taken from another variant only where nothing but `SAME_ROW` differs.
    """
    if LIKE not in entry.written:
        return entry.written
    other, where = entry.written[LIKE], f"{entry.where}.{LIKE}"
    if not isinstance(other, str):
        raise FarposeError(f"expected a variant's name, got {other!r}", where=where)
    if other in (*trail, entry.name):
        steps = " → ".join((*trail, entry.name, other))
        raise FarposeError(f"leads back to itself: {steps}", where=where, fix="write one of these entries in full")
    if other not in known[entry.path]:
        raise unknown_name("variant", other, known[entry.path], where=where)
    base = _full(known[entry.path][other], known, (*trail, entry.name))
    if not other.startswith("_") and any(key not in SAME_ROW for key in entry.written):
        base = {key: value for key, value in base.items() if key not in PRINTED}
    return merged(base, {key: value for key, value in entry.written.items() if key != LIKE})
