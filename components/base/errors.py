"""The exception that users see."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class FarposeError(Exception):
    """A problem that the user can act on: one line that names the place, the problem and the way out.

    Args:
        problem: what is wrong, as a full clause without a final stop.
        where: the file, row, key or variant in which it was found.
        fix: what the user can do about it, as an imperative clause.
    """

    def __init__(self, problem: str, *, where: object = None, fix: str | None = None) -> None:
        self.problem, self.where, self.fix = problem, where, fix
        place = f"{where}: " if where is not None else ""
        way_out = f" ({fix})" if fix else ""
        super().__init__(f"{place}{problem}{way_out}")

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickles, in which errors of other processes arrive."""
        return _again, (type(self), self.problem, self.where, self.fix)


def _again(kind: type[FarposeError], problem: str, where: object, fix: str | None) -> FarposeError:
    return kind(problem, where=where, fix=fix)


class DiskFull(FarposeError):
    """The disk is full."""


def unknown_name(kind: str, name: str, known: Iterable[str], *, where: object = None) -> FarposeError:
    """The error for a `name` that is not among the `known` ones; suggests the nearest spelling."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    fix = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known[:40])}"
    return FarposeError(f"unknown {kind} {name!r}", where=where, fix=fix)
