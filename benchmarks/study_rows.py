"""Score what trainings on a bare GPU machine predicted, as rows of the study. Run: python -m benchmarks.study_rows FOLDER --commit SHA

    bash benchmarks/study.sh "study_sizes study_256x192"       # on the GPU machine, at commit SHA; FOLDER is what came back
    farpose params --apply study_sizes; farpose acquire coco --from FOLDER; farpose run degrade@direct_64x48     # and the other sizes

The networks' predictions of the validation persons (predictions*.tar) go through the evaluation of the pipeline, which neither predicts
again nor needs weights that are too large to travel. Writes FOLDER/evaluations/RUN, which `benchmarks.lowres compare` takes, and
results/lowres/RUN.json. A row that the study has of another training stays; its evaluation is written all the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import report
from benchmarks.lowres_rows import RUNS
from benchmarks.study_travel import ABOUT, PREDICTIONS, extract
from benchmarks.study_travel import RUNS as RECORD
from components.approaches.crops import Crops
from components.base.config import REPOSITORY
from components.base.files import read_json, sha256_of, write_json
from components.degrade.params import ShardSpec
from components.degrade.shards import EvalCrops
from components.evaluate.approach import EvaluationContext
from components.evaluate.predictions import Predictions
from components.evaluate.stage import evaluate
from components.models import costs, starts, zoo
from components.registry import lineage
from pipelines import counts, paths, settings
from pipelines.stages import evaluation_data

EVALUATIONS = "evaluations"
LISTS = "bash benchmarks/study.sh {example}"
SCORE = "python -m benchmarks.study_rows FOLDER --commit SHA"


class Returned(Crops):
    """One person in a crop, whose joints a network found elsewhere."""

    def __init__(self, predictions: Predictions) -> None:
        self.predictions = predictions

    def _joints(self, context: EvaluationContext, crops: EvalCrops, box_scores: np.ndarray | None = None) -> Predictions:
        if not np.array_equal(self.predictions.annotation_id, crops.annotation_id):
            raise SystemExit(f"{context.title}: the predictions are of other persons")
        return self.predictions


def read_predictions(path: Path) -> Predictions:
    """What `benchmarks.study` wrote."""
    with np.load(path) as columns:
        return Predictions(**{name: columns[name] for name in columns.files})


def score(told: dict[str, Any], predictions: Path, folder: Path) -> dict[str, Any]:
    """Evaluate a run's predictions into `folder`; its row of a comparison.

    Args:
        told: the run's JSON.
    Raises:
        SystemExit: the crops here are not those that the run was trained on.
    """
    variant = zoo.variant(told["variant"])
    shards = ShardSpec(variant.input_size).name
    files = read_json(paths.SHARDS / shards / ABOUT)["files"]
    if other := [name for name, digest in told["data"].items() if files[name]["sha256"] != digest]:
        raise SystemExit(f"{paths.SHARDS / shards}: not what {told['run']} was trained on: {', '.join(other)}")
    shown, built, params = Returned(read_predictions(predictions)), zoo.build(variant), settings.evaluation()
    provenance = {"variant": variant.name, "weights_sha256": told["model_sha256"], "data_md5": lineage.data_digest(), "shards": shards}
    data = evaluation_data(shown, variant, shards, params)
    metrics = evaluate(shown, EvaluationContext(built.model, built.codec, data, params, folder, provenance, "cpu", told["run"]))
    spent = counts.of_network(variant, built.model, counts.stored()) or costs.of_variant(variant)
    return {
        **metrics,
        "params_m": spent.params / 1e6,
        "gmacs": spent.macs / 1e9,
        "variant": told["run"],
        "group": zoo.group_of(variant),
        "seed": told["recipe"]["seed"],
        "recipe": told["recipe_kind"],
        "device": told["hardware"]["gpu"],
        "by_height": read_json(folder / "by_height.json"),
    }


def row_of(told: dict[str, Any], metrics: dict[str, Any], commit: str) -> dict[str, Any]:
    """The run's file in results/lowres, as `benchmarks.lowres` writes those of the pipeline."""
    shards = ShardSpec(zoo.variant(told["variant"]).input_size).name
    init = told["recipe"]["init"]
    return {
        "run": told["run"],
        "commands": [LISTS.format(example=told["example"]), SCORE],
        "commit": commit,
        "hardware": told["hardware"],
        "versions": told["versions"],
        "data": {"data.md5": lineage.data_digest(), "shards": shards, "shard.json.sha256": sha256_of(paths.SHARDS / shards / ABOUT)},
        "start": {"init": init, "sha256": starts.digest(init)},
        "recipe": told["recipe"],
        "weights.sha256": told["model_sha256"],
        "history": told["history"],
        "measured": {key: told[key] for key in ("train_seconds", "images_per_second", "memory_mib")},
        "scored": report.made_by(SCORE),
        "metrics": metrics,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what came back from the GPU machine")
    parser.add_argument("--commit", required=True, help="the commit that was trained, 40 digits")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for path in sorted(asked.folder.glob("predictions*.tar")):
        extract(path, asked.folder / "predictions")
    for name, told in read_json(asked.folder / RECORD).items():
        predictions, folder = asked.folder / "predictions" / name / PREDICTIONS, asked.folder / EVALUATIONS / name
        if not predictions.is_file() or (folder / "metrics.json").is_file():
            continue
        metrics = score(told, predictions, folder)
        row = RUNS / f"{name}.json"
        kept = row.is_file() and read_json(row)["weights.sha256"] != told["model_sha256"]
        if not kept:
            write_json(row, row_of(told, metrics, asked.commit))
        said = f"; {row.relative_to(REPOSITORY)} is of another training and stays" if kept else ""
        print(f"{name}: AP {100 * metrics['AP_gt_boxes']:.1f}{said}", flush=True)


if __name__ == "__main__":
    main()
