"""Weights that Farpose starts from or uses, made by others or for this purpose: where each file comes from, in `params/weights.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from components.base.config import PARAMS, REPOSITORY, load_yaml, parse
from components.base.errors import FarposeError, unknown_name
from components.base.files import sha256_of

FILE = PARAMS / "weights.yaml"
Use = Literal["start", "detector"]


@dataclass(frozen=True)
class Source:
    """What was published.

    Attributes:
        package: name in its registry; `version`: of the package; `file`: the file in it that holds the values.
        sha256: of that file.
        get: the command that fetches the package.
    """

    package: str
    version: str
    file: str
    sha256: str
    get: str


@dataclass(frozen=True)
class Weights:
    """One entry of params/weights.yaml; every key is described there.

    Attributes:
        use: "start": `init: NAME` of a recipe; "detector": finds persons for `predict`.
        path: of our file, relative to the repository.
        sha256: of our file.
        backbone: the backbone that a start fits; a detector has none.
    """

    use: Use
    path: str
    sha256: str
    source: Source
    licence: str
    licence_source: str
    trained_on: str
    changed: str
    backbone: str | None = None

    def __post_init__(self) -> None:
        if (self.use == "start") != (self.backbone is not None):
            raise ValueError("a start names the backbone that it fits, nothing else does")

    @property
    def file(self) -> Path:
        return REPOSITORY / self.path

    @property
    def shipped(self) -> bool:
        """Whether our file comes with a clone."""
        return self.path.startswith("released/")


def load(use: Use | None = None, path: str | Path | None = None) -> dict[str, Weights]:
    """All entries by name, or those of one use.

    Args:
        path: the file to read instead of params/weights.yaml.
    Raises:
        FarposeError: the file is missing, or an entry is wrong.
    """
    path = path or FILE
    entries = {name: parse(Weights, entry, f"{path}: {name}") for name, entry in load_yaml(path).items()}
    return {name: entry for name, entry in entries.items() if use in (None, entry.use)}


def verified(name: str, use: Use | None = None) -> Path:
    """The file of that entry, once its SHA-256 is seen to be the entry's.

    Raises:
        FarposeError: unknown name, no file, or a file of other bytes (shows both digests).
    """
    entries = load(use)
    if name not in entries:
        raise unknown_name(use or "entry", name, entries, where=FILE)
    missing = problem(name, entries[name])
    if missing:
        raise missing
    return entries[name].file


def problem(name: str, entry: Weights) -> FarposeError | None:
    """Why the entry's file cannot be used: it is not there, or not the named one. None where all is well."""
    if not entry.file.is_file():
        return FarposeError(f"the weights of {name} are not there: {entry.path}", fix=fetching(name, entry))
    found = sha256_of(entry.file)
    if found == entry.sha256:
        return None
    other = f"not the file that params/weights.yaml names: its SHA-256 is {found}, that of {name} {entry.sha256}"
    return FarposeError(other, where=entry.path, fix=f"{fetching(name, entry)}; or write the other digest there if you mean this file")


def fetching(name: str, entry: Weights) -> str:
    """How a user gets our file of an entry, as an imperative clause."""
    if entry.shipped:
        return f"`git checkout {entry.path}` brings it back"
    return f"`{entry.source.get}` fetches the package, `farpose import-weights {name} FILE` makes our file of it"
