"""The number that a data set's tables lead with, and those that its benchmark reports beside it.

MPII's is PCKh at half of the head's size; every other data set's is AP over OKS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.evaluate.headline import headline


@dataclass(frozen=True)
class Number:
    """A number of an evaluation.

    Attributes:
        name: in its metrics, without the boxes that were given.
        label: in tables and sentences.
    """

    name: str
    label: str


AP, PCKH = Number("AP", "AP"), Number("PCKh_50", "PCKh@0.5")
OF_EVALUATOR = {"pckh": PCKH}  # of all others AP
BESIDE = (
    Number("PCKh_10", "PCKh@0.1"),
    *(Number(f"AP_{level}", f"AP {level}") for level in ("easy", "medium", "hard")),
    *(Number(f"AP_{part}", f"AP {part.replace('hand', ' hand')}") for part in ("body", "foot", "face", "lefthand", "righthand")),
)


def leads(evaluator: str) -> Number:
    """The number that counts for a data set of this evaluator."""
    return OF_EVALUATOR.get(evaluator, AP)


def leading(metrics: Mapping[str, Any]) -> Number:
    """The number that counts. Raises what `headline` does."""
    return PCKH if metrics.get(f"{PCKH.name}_{headline(metrics)}") is not None else AP


def leading_key(metrics: Mapping[str, Any]) -> str:
    """Its key in the metrics, which ends in the boxes that were given. Raises what `headline` does."""
    return f"{leading(metrics).name}_{headline(metrics)}"


def leading_value(metrics: Mapping[str, Any]) -> float:
    """A fraction of 1. Raises what `headline` does."""
    return float(metrics[leading_key(metrics)])


def leading_interval(metrics: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """The ends of its 95 % interval. Raises what `headline` does."""
    key = leading_key(metrics)
    return metrics.get(f"{key}_low"), metrics.get(f"{key}_high")


def label_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """What several evaluations lead with."""
    return " or ".join(dict.fromkeys(leading(row).label for row in rows))


def beside(metrics: Mapping[str, Any]) -> dict[str, float]:
    """What the benchmark reports besides, by label, fractions of 1. Raises what `headline` does."""
    suffix = headline(metrics)
    found = {number.label: metrics.get(f"{number.name}_{suffix}") for number in BESIDE}
    return {label: float(value) for label, value in found.items() if value is not None}
