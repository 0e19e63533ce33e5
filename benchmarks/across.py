"""Differences that are not between two rows of one table: across tables, heights and seeds, and from another network.

Run: python -m benchmarks.across EVALUATIONS ...

EVALUATIONS are the folders of evaluations by a variant's name: artifacts/evaluations of the clones that trained the study, those that
`benchmarks.study_rows` wrote, and artifacts/comparison/peers of the clone with the example `peers`. Writes results/study/differences.json.
A pair whose evaluations are not given keeps the row that it had.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.lowres_rows import evaluated, in_percent
from components.base.config import REPOSITORY
from components.base.files import read_json, write_json
from components.evaluate.headline import GT
from components.evaluate.significance import MATCHES, Outcome, paired_bootstrap, read_outcome

RECORD = REPOSITORY / "results" / "study" / "differences.json"
AS_THEY_ARE = "as they are"
UNIT = "AP in percent, paired 95 % intervals over images (and seeds); p is not corrected for many comparisons"


@dataclass(frozen=True)
class Side:
    """One side of a difference.

    Attributes:
        name: of its evaluations.
        seeds: how many trainings are taken together, which differ in the seed.
        said: what tells it from the other side, where both have one name; the folder given later is the second of that name.
    """

    name: str
    seeds: int = 1
    said: str = ""

    @property
    def label(self) -> str:
        told = self.said or (f"{self.seeds} seeds" if self.seeds > 1 else "")
        return f"{self.name}, {told}" if told else self.name

    def outcomes(self, folders: Mapping[str, Sequence[Path]], condition: str, later: bool) -> list[Outcome] | None:
        """One number per seed; None where an evaluation is missing."""
        names = [self.name, *(f"{self.name}_seed{seed}" for seed in range(1, self.seeds))]
        end = "" if condition == AS_THEY_ARE else f"_{GT}_{condition}"
        found = [[folder for folder in folders.get(name, ()) if (folder / MATCHES.format(end)).is_file()] for name in names]
        if any(len(each) <= later for each in found):
            return None
        return [read_outcome(each[later], end) for each in found]


X4, X2 = "dark_ranked_mobilenet_fpn_coco_64x48_x4", "dark_ranked_mobilenet_fpn_coco_128x96_x2"
DARK, LARGE = "dark_mobilenet_fpn_coco_64x48_x4", "dark_mobilenet_fpn_coco_256x192"
MIDDLE, DISTANCE = "dark_mobilenet_fpn_coco_128x96_x2", "dark_ranked_mobilenet_fpn_coco_128x96"
NANO = Side("ultralight_nano_simplepose")
PAIRS = [
    (Side(DARK, said="trained on a CPU"), Side(DARK, said="trained on an H100"), [AS_THEY_ARE]),
    (Side(LARGE), Side(f"{LARGE}_fp32", said="in single precision"), [AS_THEY_ARE]),
    (Side(MIDDLE), Side(DARK), [AS_THEY_ARE]),
    (Side(LARGE), Side(MIDDLE), [AS_THEY_ARE]),
    (Side(f"{DISTANCE}_distance"), Side(DISTANCE), [AS_THEY_ARE, "h128", "h64", "h32"]),
    (Side(f"{X4}_averaged"), NANO, ["h32", "h64"]),
    (Side(f"{X4}_averaged"), Side(DARK, seeds=3), [AS_THEY_ARE]),
    (Side(f"{X4}_averaged"), Side(X4, seeds=3), [AS_THEY_ARE]),
    (Side(f"{X2}_averaged"), Side(f"{X4}_averaged"), [AS_THEY_ARE, "h64", "h32"]),
    (Side(f"{X2}_averaged"), NANO, ["h32", "h64", "h128"]),
]


def rows(evaluations: Sequence[Path], pairs: Sequence[tuple[Side, Side, Sequence[str]]] = PAIRS) -> Iterator[dict[str, Any]]:
    """The difference of every pair under each of its conditions; nothing of a pair whose evaluations are missing."""
    folders = evaluated(evaluations)
    for first, second, conditions in pairs:
        for condition in conditions:
            sides = first.outcomes(folders, condition, False), second.outcomes(folders, condition, first.name == second.name)
            if sides[0] is None or sides[1] is None:
                continue
            told = {"first": first.label, "second": second.label, "condition": condition}
            yield told | in_percent(paired_bootstrap(*sides), digits=3)


def write(found: Sequence[dict[str, Any]], record: Path = RECORD) -> list[dict[str, Any]]:
    """Put rows over those of the same pair and condition; the file's rows then."""
    former = read_json(record)["rows"] if record.is_file() else []
    kept = {(row["first"], row["second"], row["condition"]): row for row in [*former, *found]}
    made = report.made_by("python -m benchmarks.across EVALUATIONS ...")
    write_json(record, {**made, "unit": UNIT, "rows": list(kept.values())})
    return list(kept.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluations", nargs="+", type=Path)
    for row in write(list(rows(parser.parse_args().evaluations))):
        numbers = f"{row['AP']:+.1f} ({row['low']:+.1f} to {row['high']:+.1f}), p = {row['p']:.3f}"
        print(f"{row['first']} − {row['second']}, {row['condition']}: {numbers}")


if __name__ == "__main__":
    main()
