"""Whether a result that was made again is the same: number by number, its weights, and what differs around it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from components.registry.recorded import TRAIN, Part
from components.train.output import MEASURED

SAME, NEAR, DIFFERENT = "same bits", "within tolerance", "different"
ORDER = (SAME, NEAR, DIFFERENT)
NOT_COMPARED = (*MEASURED, "seconds", "system/")  # beginnings of names: measured by a clock, or by MLflow of the machine
AROUND = ("version.", "machine.")  # tags that say in what environment a run was made


@dataclass(frozen=True)
class Line:
    """One thing that is compared: what was recorded and what came out now; None for what is not there."""

    name: str
    recorded: float | str | None
    now: float | str | None
    verdict: str


def numbers(before: Part, now: Part, tolerance: float) -> list[Line]:
    """Every metric of a stage's run, in the order of their names.

    A training's run also shows what the registered model was scored with; what training itself does not write is left out.

    Args:
        tolerance: relative difference up to which a number counts as within tolerance; whole numbers (counts) must be equal.
    """
    recorded, made = before.numbers or {}, now.numbers or {}
    names = made.keys() if before.stage.startswith(f"{TRAIN}@") else recorded.keys() | made.keys()
    compared = sorted(name for name in names if not name.startswith(NOT_COMPARED))
    return [Line(name, recorded.get(name), made.get(name), _verdict(recorded.get(name), made.get(name), tolerance)) for name in compared]


def weights(recorded: str, now: str) -> Line:
    """The SHA-256 of a model's weights."""
    return Line("weights (SHA-256)", recorded, now, SAME if recorded == now else DIFFERENT)


def around(before: Mapping[str, str], now: Mapping[str, str]) -> list[Line]:
    """Versions, processor, GPU, operating system and threads that differ; only what was recorded can differ."""
    names = sorted(name for name in before.keys() | now.keys() if name.startswith(AROUND))
    if not any(name.startswith(AROUND[1]) for name in before):  # older runs did not say
        names = [name for name in names if name.startswith(AROUND[0])]
    differ = [name for name in names if before.get(name) != now.get(name)]
    return [Line(name.partition(".")[2], before.get(name), now.get(name), DIFFERENT) for name in differ]


def worst(lines: list[Line]) -> str:
    """The verdict on all of them."""
    return max((line.verdict for line in lines), key=ORDER.index, default=SAME)


def _verdict(recorded: float | None, now: float | None, tolerance: float) -> str:
    if recorded is None or now is None:
        return DIFFERENT
    if recorded == now or (math.isnan(recorded) and math.isnan(now)):
        return SAME
    whole = recorded.is_integer() and now.is_integer()
    return NEAR if not whole and math.isclose(recorded, now, rel_tol=tolerance) else DIFFERENT
