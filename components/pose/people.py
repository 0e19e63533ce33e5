"""Names that annotation files and detectors give to the class of persons."""

from __future__ import annotations

import re

PEOPLE = ("person", "persons", "people", "human", "humans", "pedestrian", "pedestrians")


def compact(name: str) -> str:
    """A name's small letters and digits alone, so that case, spaces, hyphens and underscores do not count."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def is_people(name: str) -> bool:
    """Whether a class's name plainly means persons."""
    return compact(name) in PEOPLE
