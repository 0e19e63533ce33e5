"""Strict access to the records of a JSON annotation file: every error names the file and the record."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from components.base.errors import FarposeError

DAMAGED = "the file is damaged or not an annotation file; acquire it again"
CORRECT = "correct it in the file, or leave it out"


def load_annotation_file(path: Path) -> dict[str, Any]:
    """Read a `.json` or `.json.gz` file whose top level is an object.

    Raises:
        FarposeError: the file is missing, truncated, not JSON, or not an object.
    """
    value = load_annotations(path)
    if not isinstance(value, dict):
        raise FarposeError(f"expected a JSON object, got {_shortly(value)}", where=path, fix=DAMAGED)
    return value


def load_annotations(path: Path) -> Any:
    """Read a `.json` or `.json.gz` file.

    Raises:
        FarposeError: the file is missing, truncated or not JSON.
    """
    try:
        data = path.read_bytes()
        value = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    except (FileNotFoundError, IsADirectoryError):
        raise FarposeError("annotation file not found", where=path, fix="acquire the data, or name the file in params/data.yaml") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FarposeError(f"not valid JSON: {error}", where=path, fix=DAMAGED) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FarposeError(f"not a whole gzip file: {error}", where=path, fix=DAMAGED) from error
    return value


@dataclass(frozen=True)
class Records:
    """A list of JSON objects of one kind, such as the annotations of a COCO file.

    Attributes:
        file: named in errors.
        kind: "annotation", "image" or "category"; named in errors, followed by the record's id.
    """

    file: Path
    kind: str
    items: list[dict[str, Any]]

    @classmethod
    def of(cls, file: Path, value: dict[str, Any], key: str, kind: str) -> Records:
        """The list under `key` of a loaded annotation file.

        Raises:
            FarposeError: there is no such list, or it contains something other than objects.
        """
        items = value.get(key)
        if not isinstance(items, list):
            problem = f"the key {key!r} is missing" if key not in value else f"{key!r} is {_shortly(items)}, expected a list"
            raise FarposeError(problem, where=file, fix=DAMAGED)
        for i, item in enumerate(items):
            if not isinstance(item, dict):
                raise FarposeError(f"{key}[{i}] is {_shortly(item)}, expected an object", where=file, fix=DAMAGED)
        return cls(file, kind, items)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.items)

    def select(self, keep: np.ndarray) -> Records:
        """The records of a bool mask."""
        return Records(self.file, self.kind, [item for item, kept in zip(self.items, keep, strict=True) if kept])

    def error(self, index: int, problem: str, fix: str | None = None) -> FarposeError:
        """The error for record `index`; the way out is `CORRECT` where there is no other."""
        name = self.items[index].get("id", f"number {index} (no id)")
        return FarposeError(problem, where=f"{self.file}: {self.kind} {name}", fix=fix or CORRECT)

    def column(self, key: str, *kinds: type) -> list[Any]:
        """The value of `key` in every record; each must have exactly one of the types `kinds` (true is not an integer)."""
        try:
            values = [item[key] for item in self.items]
        except KeyError:
            raise self.error(next(i for i, item in enumerate(self.items) if key not in item), f"the key {key!r} is missing") from None
        if not set(map(type, values)) <= set(kinds):
            index = next(i for i, value in enumerate(values) if type(value) not in kinds)
            raise self.error(index, f"{key!r} is {_shortly(values[index])}, expected {_names(kinds)}")
        return values

    def integers(self, key: str, at_least: int | None = None) -> np.ndarray:
        """(N,) int64."""
        array = self._converted(key, self.column(key, int), lambda some: np.array(some, dtype=np.int64))
        return self._bounded(key, array, at_least)

    def numbers(self, key: str, at_least: float | None = None) -> np.ndarray:
        """(N,) float64, all finite."""
        return self._bounded(key, self._finite(key, self.column(key, int, float), ()), at_least)

    def matrix(self, key: str, width: int, meaning: str) -> np.ndarray:
        """(N, width) float64, all finite; `meaning` explains the width in errors."""
        values = self.column(key, list)
        if not set(map(len, values)) <= {width}:
            index = next(i for i, value in enumerate(values) if len(value) != width)
            raise self.error(index, f"{key!r} has {len(values[index])} numbers, expected {width} ({meaning})")
        if not set(map(type, chain.from_iterable(values))) <= {int, float}:
            index = next(i for i, value in enumerate(values) if not set(map(type, value)) <= {int, float})
            wrong = next(number for number in values[index] if type(number) not in (int, float))
            raise self.error(index, f"{key!r} holds {_shortly(wrong)}, expected numbers")
        return self._finite(key, values, (width,))

    def _bounded(self, key: str, array: np.ndarray, at_least: float | None) -> np.ndarray:
        if at_least is not None:
            self.refuse(array < at_least, lambda i: f"{key!r} is {array[i]:g}, expected at least {at_least:g}")
        return array

    def _finite(self, key: str, values: list[Any], shape: tuple[int, ...]) -> np.ndarray:
        array = self._converted(key, values, lambda some: np.array(some, dtype=np.float64).reshape(-1, *shape))
        finite = np.isfinite(array)
        if not finite.all():
            index = int(np.argwhere(~finite)[0][0])
            raise self.error(index, f"{key!r} holds {array[index][~finite[index]][0]:g}, expected finite numbers")
        return array

    def _converted(self, key: str, values: list[Any], convert: Callable[[list[Any]], np.ndarray]) -> np.ndarray:
        try:
            return convert(values)
        except OverflowError:
            for i, value in enumerate(values):
                try:
                    convert([value])
                except OverflowError:
                    raise self.error(i, f"{key!r} holds a number that is too large") from None
            raise

    def refuse(self, wrong: np.ndarray, problem: Callable[[int], str], fix: str | None = None) -> None:
        """Raise the error `problem(i)` for the first record whose entry in the (N,) bool mask `wrong` is set."""
        if wrong.any():
            index = int(np.flatnonzero(wrong)[0])
            raise self.error(index, problem(index), fix)


def _names(kinds: tuple[type, ...]) -> str:
    words = {int: "an integer", float: "a number", str: "a text", bool: "true or false", list: "a list"}
    return " or ".join(dict.fromkeys(words[kind] for kind in kinds))


def _shortly(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
