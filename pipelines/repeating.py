"""Make a recorded result again, and say whether it is the same."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.base.errors import FarposeError
from pipelines import paths, rebuild

if TYPE_CHECKING:
    from components.registry.verdict import Line


@dataclass(frozen=True)
class Report:
    """What came out.

    Attributes:
        said: what was made again, in words.
        lines: by stage, every number, and the weights of a training.
        around: what differs in the environment.
        folder: the worktree, if it was kept.
    """

    said: str
    lines: dict[str, list[Line]]
    around: list[Line]
    folder: Path | None

    @property
    def verdict(self) -> str:
        """The worst of all lines."""
        from components.registry import verdict

        return verdict.worst([line for lines in self.lines.values() for line in lines])


def reproduce(asked: str, tolerance: float, keep: bool, echo: Callable[[str], None], repository: Path = paths.REPOSITORY) -> Report:
    """Build a run's or a model's result again in a worktree and compare it.

    Args:
        asked: see `registry.recorded.find`.
        tolerance: relative, see `registry.verdict.numbers`.
        keep: leave the worktree.
        echo: receives what is done, line by line.
    Raises:
        FarposeError: it cannot be found or built; see there.
    """
    from components.registry import recorded as records
    from components.registry import verdict

    if not 0 <= tolerance < 1:
        raise FarposeError(f"a tolerance of {tolerance} is none", fix="give a relative difference from 0 to below 1, such as 0.01")
    recorded = records.find(asked, repository)
    edits = ", with edits that were not committed" if recorded.dirty else ""
    said = f"{recorded.said}, from commit {recorded.commit[:12]}{edits}"
    echo(said)
    with tempfile.TemporaryDirectory() as scratch, rebuild.worktree(recorded.commit, repository, keep) as folder:
        rebuild.restore(folder, recorded, records.kept(recorded, Path(scratch), repository))
        made = rebuild.again(folder, recorded, repository, echo)
    lines: dict[str, list[Line]] = {}
    around: dict[str, Line] = {}
    for before, now in zip(recorded.parts, made, strict=True):
        compared = verdict.numbers(before, now, tolerance) if before.numbers is not None else []
        if before.stage.startswith(f"{records.TRAIN}@"):
            compared.insert(0, verdict.weights(recorded.weights, now.weights))
        lines[before.stage] = compared
        around |= {line.name: line for line in verdict.around(before.tags or {}, now.tags or {})}
    return Report(said, lines, list(around.values()), folder if keep else None)
