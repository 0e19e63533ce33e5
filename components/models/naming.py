"""Our parameter names in the authors' words. Inside the parts they are equal; only the parts' own names differ."""

from __future__ import annotations

from collections.abc import Mapping


def renamed(key: str, prefixes: Mapping[str, str]) -> str:
    """`key` with the first of these prefixes that it starts with replaced; unchanged where it starts with none.

    Args:
        prefixes: our prefix → the authors' prefix; where one contains another, the longer one comes first.
    """
    for ours, theirs in prefixes.items():
        if key.startswith(ours):
            return theirs + key.removeprefix(ours)
    return key
