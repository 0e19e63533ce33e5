"""Names that annotation files and detectors give to the class of persons."""

from __future__ import annotations

PEOPLE = ("person", "persons", "people", "human", "humans", "pedestrian", "pedestrians")


def compact(name: str) -> str:
    """A name's small letters and digits alone, of any script, so that case, spaces, hyphens and underscores do not count."""
    return "".join(character for character in name.casefold() if character.isalnum())


def is_people(name: str) -> bool:
    """Whether a class's name plainly means persons."""
    return compact(name) in PEOPLE
