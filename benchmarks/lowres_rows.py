"""The study's rows: where their files lie, and which of them stand in one table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.base.config import REPOSITORY
from components.evaluate.headline import headline
from components.evaluate.significance import MATCHES, Difference
from pipelines import comparing

RUNS = REPOSITORY / "results" / "lowres"
RANDOM = "he"
BASELINE = "baseline"  # of a row's file: how far it is from its variant's baseline


@dataclass(frozen=True)
class Group:
    """Rows of one table: those of a start and a size of the crops.

    Attributes:
        start: `init` of their recipes.
        size: as it stands in their names.
        figure: beginning of the names of the figures.
        small: networks of the size that a CPU trains from random weights, or the published ones, which have a budget of their own.
    """

    start: str
    size: str
    figure: str
    small: bool = True

    def of(self, runs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Its rows with the first seed, in the order given."""
        return [run for run in runs if self._holds(run) and not run["recipe"]["seed"]]

    def seeds(self, runs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Its rows that differ from another one in the seed alone, and that one."""
        mine = [run for run in runs if self._holds(run)]
        groups = {comparing.group_of(run["run"]) for run in mine if run["recipe"]["seed"]}
        return [run for run in mine if comparing.group_of(run["run"]) in groups]

    def _holds(self, run: dict[str, Any]) -> bool:
        small = self.start != RANDOM or "_tiny_" in run["run"]
        sized = re.search(rf"_{self.size}(_|$)", run["run"]) is not None
        return bool(run["start"]["init"] == self.start) and sized and small == self.small


def evaluated(folders: Iterable[Path]) -> dict[str, list[Path]]:
    """The evaluations in folders of them, by a variant's name, in the order given."""
    found: dict[str, list[Path]] = {}
    for folder in folders:
        for path in sorted(folder.glob(f"*/{MATCHES.format('')}")):
            found.setdefault(path.parent.name, []).append(path.parent)
    return found


def in_percent(found: Difference, digits: int) -> dict[str, float]:
    """A difference in AP with its paired 95 % interval, in percent, and p, which is not corrected for many comparisons."""
    numbers = {"AP": found.value, "low": found.low, "high": found.high}
    return {name: round(100 * number, digits) for name, number in numbers.items()} | {"p": round(found.p_value, 4)}


def value_of(metrics: Mapping[str, Any], name: str, end: str = "") -> float | None:
    """A number of an evaluation, with annotated boxes or, of a bottom-up method, without any; None where it has none.

    Args:
        name: such as AP, AP50 or mean_OKS.
        end: such as _low.
    """
    value = metrics.get(f"{name}_{headline(metrics)}{end}")
    return None if value is None else float(value)


GROUPS = {
    "movenet_lightning": Group("movenet_lightning", "64x48", "study"),
    "he": Group(RANDOM, "64x48", "study_random"),
    "he, published": Group(RANDOM, "64x48", "study_published", small=False),
    "he, 128x96": Group(RANDOM, "128x96", "study_random_128x96"),
    "he, 256x192": Group(RANDOM, "256x192", "study_random_256x192"),
    "movenet_lightning, 128x96": Group("movenet_lightning", "128x96", "study_128x96"),
    "movenet_lightning, 256x192": Group("movenet_lightning", "256x192", "study_256x192"),
    "movenet_lightning, bottom-up": Group("movenet_lightning", "256", "study_bottom_up"),
}
