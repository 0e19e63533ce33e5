"""All checks that need no training, for every variant by its approach."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from components.approaches import approach
from components.evaluate.approach import Check
from components.evaluate.verify import truth_scores_one
from components.models.variant import Variant
from components.pose.persons import Persons


def verify(persons: Persons, variants: Iterable[Variant], shards: Mapping[str, tuple[str, Any]] | None = None) -> list[Check]:
    """Run all checks.

    Args:
        persons: the rows of the split that is scored, crowd regions included.
        variants: their geometry and codecs are checked.
        shards: evaluation inputs to compare with the table, by name: (the approach that opened them, the inputs).
    """
    checks = [truth_scores_one(persons)]
    for variant in variants:
        checks += approach(variant.approach).checks(variant, persons)
    return checks + [approach(kind).follows(name, inputs, persons) for name, (kind, inputs) in (shards or {}).items()]
