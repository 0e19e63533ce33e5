"""The ways of finding joints, one file each: one person in a crop, all persons of a whole image."""

from __future__ import annotations

from components.base.errors import unknown_name
from components.base.records import records
from components.evaluate.approach import Approach

__all__ = ["Approach", "approach"]


def approach(name: str) -> Approach:
    """The approach that a variant names, see `evaluate.approach.Approach`.

    Raises:
        FarposeError: unknown name.
    """
    known = records("components.approaches", "APPROACH", required=False)
    if name not in known:
        raise unknown_name("approach", name, known)
    found: Approach = known[name]
    return found
