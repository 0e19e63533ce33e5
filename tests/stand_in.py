"""A released model of whatever weights a test has; its ONNX file is none."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path

from components.degrade.params import DegradeParams, ShardSpec
from components.evaluate.params import EvaluateParams
from components.models.variant import Variant
from components.registry import package, released

FACTS = released.Facts(
    commit="c" * 40,
    data_md5="d" * 32,
    trained_sha256="t" * 64,
    start={"weights": "movenet_lightning", "SHA-256": "s" * 64, "licence": "Apache-2.0"},
    origin={"source": "coco", "licences": "CC BY 4.0"},
    recipe={},
    metrics={"AP_gt_boxes": 0.25},
    training={},
    versions={},
)


def release(folder: Path, variant: Variant, weights: Path, card: str = "# card") -> Path:
    """Write the folder that `farpose release` would, with the facts of `FACTS`."""
    preparation = {
        "shards": asdict(ShardSpec(variant.input_size)),
        "degrade": asdict(DegradeParams()),
        "evaluate": asdict(EvaluateParams()),
    }
    with tempfile.TemporaryDirectory() as scratch:
        files = {name: Path(scratch) / name for name in (package.WEIGHTS, released.ONNX)}
        package.halve(weights, variant, files[package.WEIGHTS])
        files[released.ONNX].write_bytes(b"a network")
        released.write(folder, variant, files, preparation, FACTS, card, "licences")
    return folder
