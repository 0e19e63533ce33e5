"""The ways of finding joints: one person in a crop, all persons of a whole image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from components.base.errors import unknown_name
from components.base.records import records

if TYPE_CHECKING:
    from components.evaluate.approach import Approach
    from components.evaluate.feed import FeedRecord

PACKAGE = "components.approaches"


def approach(name: str) -> Approach:
    """The approach that a variant names.

    Raises:
        FarposeError: unknown name.
    """
    found: Approach = _record("APPROACH", name)
    return found


def feed(name: str) -> FeedRecord:
    """How the approach that a variant names feeds training.

    Raises:
        FarposeError: unknown name.
    """
    found: FeedRecord = _record("FEED", name)
    return found


def _record(attribute: str, name: str) -> Any:
    known = records(PACKAGE, attribute, required=False)
    if name not in known:
        raise unknown_name("approach", name, known)
    return known[name]
