"""Rows of the study with a detector's boxes, and on a second data set. Run: python -m benchmarks.elsewhere MODELS ...

    farpose params --apply study_small; farpose acquire coco --from FOLDER; farpose run fetch      # a clone with the study's persons
    farpose acquire lspet_as_coco --from FOLDER
    python -m benchmarks.elsewhere FOLDER/artifacts/models ...      # of the clones that trained the rows

COCO's validation images are reduced one and four times, the shipped detector finds persons in them, and crops are cut from the same reduced
images: the whole chain at low resolution. Leeds Sports Poses' validation persons are scored with annotated boxes, by the 12 joints that
COCO labels too. Writes results/study/elsewhere.json row by row; a row that is there is not scored again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks import report
from benchmarks.lowres_rows import GROUPS, RUNS
from components.base.config import REPOSITORY
from components.base.files import read_json, sha256_of, write_json
from components.degrade.params import ShardSpec
from components.evaluate.significance import Outcome, holm, paired_bootstrap, read_outcome
from components.models import zoo
from components.registry import lineage
from components.registry.package import Package
from pipelines import judging, paths, settings

RECORD = REPOSITORY / "results" / "study" / "elsewhere.json"
SCORED = paths.SCRATCH / "elsewhere"
LEEDS, REDUCTIONS = "lspet_as_coco", (1, 4)
COLUMNS = {  # data set, end of the name of the file with the outcome of every detection, what the column says
    "detector_x1": ("coco", "_detector_boxes_x1", "boxes found in the images"),
    "detector_x4": ("coco", "_detector_boxes_x4", "in images reduced 4 times"),
    "leeds": (LEEDS, "", "Leeds, annotated boxes"),
}


def packaged(name: str, weights: Path, shards: str) -> Package:
    """A trained variant with the preparation of its crops, as a registered model has it."""
    variant = zoo.variant(name)
    spec = ShardSpec(variant.input_size, shards.rsplit("_", 1)[0])
    return Package(weights.parent, variant, spec, settings.degrade(), settings.evaluation())


def is_of(weights: Path, trained: str) -> bool:
    """Whether a file holds the weights of this digest, or their half precision, as `benchmarks.study adopt` writes what a GPU trained."""
    summary = weights.with_name("summary.json")
    return trained in (sha256_of(weights), read_json(summary).get("trained_sha256") if summary.is_file() else None)


def scored(name: str, weights: Path, shards: str, grounds: dict[str, judging.Ground]) -> dict[str, Any]:
    """AP in every column of one row; the evaluations stay in the scratch folder."""
    model = packaged(name, weights, shards)
    found: dict[str, Any] = {"weights.sha256": sha256_of(weights), "shards": shards}
    for dataset, ground in grounds.items():
        metrics = judging.judge(model, ground, "val", SCORED / dataset / name, detector_reductions=REDUCTIONS if dataset == "coco" else ())
        found[dataset] = {key: value for key, value in metrics.items() if isinstance(value, float | int)}
    return found


def compared(rows: dict[str, Any]) -> dict[str, Any]:
    """Of every column: the paired difference to its best row, with its 95 % interval and Holm's correction."""
    found, names = {}, list(rows)
    for column, (dataset, end, _) in COLUMNS.items():
        outcomes: dict[str, Outcome] = {name: read_outcome(SCORED / dataset / name, end) for name in names}
        best = max(names, key=lambda name: _ap(rows[name], column))
        others = [name for name in names if name != best]
        pairs = {name: paired_bootstrap(outcomes[name], outcomes[best]) for name in others}
        corrected = dict(zip(others, holm([pairs[name].p_value for name in others]), strict=True))
        ends = {name: {"difference": pair.value, "low": pair.low, "high": pair.high} for name, pair in pairs.items()}
        found[column] = {"best": best, "others": {name: {**ends[name], "p_holm": corrected[name]} for name in others}}
    return found


def table(record: dict[str, Any], group: str) -> str:
    """The rows of one group in Markdown, the best at low resolution first; ≈: not told apart from the column's best."""
    differences = record["differences"][group]
    rows = {name: record["rows"][name] for column in differences.values() for name in (column["best"], *column["others"])}
    lines = [f"| method | {' | '.join(title for _, _, title in COLUMNS.values())} |", "|---|" + "---:|" * len(COLUMNS)]
    for name in sorted(rows, key=lambda name: -_ap(rows[name], "detector_x4")):
        cells = []
        for column in COLUMNS:
            other = differences[column]["others"].get(name)
            apart = "" if other is None or other["p_holm"] < 0.05 else " ≈"
            low, high = (100 * _ap(rows[name], column, end) for end in ("_low", "_high"))
            cells.append(f"{100 * _ap(rows[name], column):.1f} ({low:.1f}–{high:.1f}){apart}")
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _ap(row: dict[str, Any], column: str, which: str = "") -> float:
    dataset, end, _ = COLUMNS[column]
    return float(row[dataset][f"AP{end or '_gt_boxes'}{which}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, help="artifacts/models of each clone")
    parser.add_argument("--start", default="movenet_lightning", help="rows with this start")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    grounds = {"coco": judging.here(), LEEDS: judging.on(LEEDS)}
    rows: dict[str, Any] = read_json(RECORD)["rows"] if RECORD.is_file() else {}
    runs = [read_json(path) for path in sorted(RUNS.glob("*.json"))]
    for run in runs:
        name, folders = run["run"], [folder / run["run"] for folder in asked.models]
        weights = next((folder / "model.safetensors" for folder in folders if (folder / "model.safetensors").is_file()), None)
        wanted = run["start"]["init"] == asked.start and not run["recipe"]["seed"]
        if not wanted or weights is None or name in rows:
            continue
        if not is_of(weights, run["weights.sha256"]):
            raise SystemExit(f"{weights} is not what {name}'s record names")
        rows[name] = {"start": asked.start, **scored(name, weights, run["data"]["shards"], grounds)}
        record = {
            **report.made_by("python -m benchmarks.elsewhere FOLDER/artifacts/models ..."),
            "data.md5": lineage.data_digest(),
            "rows": rows,
        }
        write_json(RECORD, record)
    tables = {key: {run["run"]: rows[run["run"]] for run in group.of(runs) if run["run"] in rows} for key, group in GROUPS.items()}
    differences = {key: compared(members) for key, members in tables.items() if members}
    write_json(RECORD, read_json(RECORD) | {"differences": differences})
    print(json.dumps(differences, indent=2))


if __name__ == "__main__":
    main()
