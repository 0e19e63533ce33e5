"""What a released model gains on the one that it replaced. Run: python -m benchmarks.replaced NAME=REVISION [NAME=REVISION ...]

Both models are read from their folders, released/NAME as it is now and as it was at a revision of git, and scored by `pipelines.judging` on
the development split and on the validation persons: as they are, and at most 32, 64 and 128 px high. Needs COCO's persons and images here
(`farpose params --apply study_averaged`, `farpose acquire coco --from FOLDER`, `farpose run validate`). Writes results/study/released.json.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import report
from components.base.config import REPOSITORY
from components.base.files import write_json
from components.evaluate.significance import paired_bootstrap, read_outcome
from components.registry import lineage, package, released
from pipelines import judging

RECORD = REPOSITORY / "results" / "study" / "released.json"
CONDITIONS = ("h32", "h64", "h128")
SPLITS = ("dev", "val")


def at(revision: str, name: str, into: Path) -> Path:
    """The folder of a released model as it was at a revision, written below `into`."""
    place = (released.FOLDER / name).relative_to(REPOSITORY).as_posix()
    (into / name).mkdir(parents=True)
    for path in _git("ls-tree", "-r", "--name-only", revision, "--", place).decode().splitlines():
        (into / name / Path(path).name).write_bytes(_git("show", f"{revision}:{path}"))
    return into / name


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=REPOSITORY, check=True, capture_output=True).stdout


def rows_of(name: str, revision: str) -> list[dict[str, Any]]:
    """A row per split and condition: now minus before."""
    ground, rows = judging.here(), []
    with tempfile.TemporaryDirectory() as scratch:
        before = package.read(at(revision, name, Path(scratch) / "then"))
        models = {"before": before, "now": released.read(name)}
        for split in SPLITS:
            folder = Path(scratch) / split
            found = {key: judging.judge(model, ground, split, folder / key, CONDITIONS) for key, model in models.items()}
            for condition in ("", *CONDITIONS):
                end = condition and f"_gt_boxes_{condition}"
                number = f"AP{end or '_gt_boxes'}"
                difference = paired_bootstrap(*(read_outcome(folder / key, end) for key in ("now", "before")))
                rows.append(
                    {
                        "released": name,
                        "before": f"{before.variant.name} ({revision})",
                        "now": models["now"].variant.name,
                        "split": split,
                        "persons": found["now"]["persons"],
                        "number": number,
                        **{f"AP {key}": one[number] for key, one in found.items()},
                        "difference": difference.value,
                        "low": difference.low,
                        "high": difference.high,
                        "p": difference.p_value,
                    }
                )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=REVISION")
    asked = parser.parse_args(arguments).models
    torch.set_num_threads(1)
    rows = [row for name, _, revision in (one.partition("=") for one in asked) for row in rows_of(name, revision)]
    unit = "AP, fractions of 1, on crops as each model takes them; paired 95 % intervals over images, p not corrected"
    write_json(RECORD, report.record("replaced", rows, unit=unit, **{"data.md5": lineage.data_digest()}))
    for row in rows:
        ends = " to ".join(f"{100 * row[end]:+.1f}" for end in ("low", "high"))
        print(f"{row['released']} {row['split']} {row['number']}: {100 * row['AP now']:.1f}, {100 * row['difference']:+.1f} ({ends})")


if __name__ == "__main__":
    main()
