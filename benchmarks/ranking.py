"""What a person's score is worth: AP of the same joints under several scores. Run: python -m benchmarks.ranking VARIANT [VARIANT ...]

Joints and their maxima come from trained variants of DARK in this clone (`farpose run`). The exponent of `components/codecs/dark_ranked.py`
is chosen on the development split; on the validation persons the published score and ours are compared once, with paired intervals. Needs
the shard `direct_64x48`; writes results/study/ranking.json.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks import report
from components.base.config import REPOSITORY
from components.base.files import sha256_of, write_json
from components.codecs.codec import CropCodec, as_crop_codec
from components.codecs.dark_ranked import PRESENCE
from components.datasets.fetch import PERSONS_FILE
from components.degrade.shards import EvalCrops
from components.evaluate import oks
from components.evaluate.matching import Matches
from components.evaluate.params import EvaluateParams
from components.evaluate.predict import predict
from components.evaluate.predictions import Predictions
from components.evaluate.rescoring import finish
from components.evaluate.significance import paired_bootstrap
from components.models import zoo
from components.pose.persons import Persons
from components.registry import lineage
from pipelines import paths, settings, stages

RECORD = REPOSITORY / "results" / "study" / "ranking.json"
PUBLISHED, EVERY = 0.2, (0.0, 0.05, 0.1, 0.2, 0.3)  # joints below do not count
EXPONENTS = (0.25, 0.5, 1.0, 1.5, 2.0)
SPLITS = ("dev", "val")


def weighted(maxima: np.ndarray, exponent: float) -> np.ndarray:
    """(N,) mean of (N, K) maxima, each weighted with its power."""
    quality = maxima.clip(0, 1)
    return (quality ** (1 + exponent)).sum(1) / (quality**exponent).sum(1).clip(1e-12)


def matched(persons: Persons, found: Predictions, low: float, params: EvaluateParams, codec: CropCodec) -> Matches:
    """As the stage `evaluate` does it, with joints below `low` left out of a person's score."""
    return oks.match(persons, *finish(found, replace(params, in_vis_threshold=low), persons.skeleton.sigmas, codec))


def ap(matches: Matches) -> float:
    return round(100 * oks.summarise(matches)["AP"], 2)


def row_of(name: str, shards: str) -> dict[str, Any]:
    """All scores of one variant on the development split, the two that are compared on the validation persons too."""
    variant = zoo.variant(name)
    weights = paths.MODELS / name / "model.safetensors"
    built = stages.trained(variant, weights)
    params, everyone = settings.evaluation(), Persons.read(paths.PERSONS / PERSONS_FILE)
    row: dict[str, Any] = {"weights.sha256": sha256_of(weights)}
    for split in SPLITS:
        persons = everyone.split(split)
        crops = EvalCrops.open(paths.SHARDS / shards, variant.convention, split)
        codec = as_crop_codec(built.codec)
        found = replace(predict(built.model, codec, crops, batch_size=64), ranking=None)
        maxima = found.keypoint_scores
        lows, powers = (EVERY, EXPONENTS) if split == "dev" else ((PUBLISHED,), (PRESENCE,))
        usual = {low: matched(persons, found, low, params, codec) for low in lows}
        ranked = {power: np.broadcast_to(weighted(maxima, power)[:, None], maxima.shape) for power in powers}
        heavier = {power: matched(persons, replace(found, ranking=one), 0, params, codec) for power, one in ranked.items()}
        published, ours = usual[PUBLISHED], heavier[PRESENCE]
        difference = paired_bootstrap(ours, published)
        row[split] = {
            "persons": len(crops),
            "published": ap(published),
            "ours": ap(ours),
            "difference": [round(100 * end, 2) for end in (difference.value, difference.low, difference.high)],
            "p": difference.p_value,
        }
        if split == "dev":
            row[split]["mean of maxima above"] = {str(low): ap(scored) for low, scored in usual.items()}
            row[split]["weighted by the power"] = {str(power): ap(scored) for power, scored in heavier.items()}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="+")
    parser.add_argument("--shards", default="direct_64x48")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = {name: row_of(name, asked.shards) for name in asked.variants}
    write_json(RECORD, {
        **report.made_by(f"python -m benchmarks.ranking {' '.join(asked.variants)}"),
        "data.md5": lineage.data_digest(),
        "unit": "AP, %; differences with their paired 95 % interval over images",
        "rows": rows,
    })  # fmt: skip
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
