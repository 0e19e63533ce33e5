"""`verify`: the checks that need no training."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.base.errors import FarposeError
from pipelines import paths, settings, terminal

if TYPE_CHECKING:
    from components.models.variant import Variant
    from components.pose.persons import Persons

STYLES = {"ok": "", "look": "yellow", "FAILED": "bold red"}
SAMPLE_IMAGES = 40  # synthetic images, drawn when there is no persons table yet


def verify(options: argparse.Namespace) -> None:
    """Print every check with what it measured.

    Raises:
        FarposeError: a check failed.
    """
    from components.approaches.verify import verify as run_checks
    from components.models import zoo

    pipeline = settings.load()
    variants = [zoo.variant(name) for name in pipeline.variants]
    checks = run_checks(_persons(), variants, {} if options.without_crops else _shards(pipeline, variants))
    width = max(len(check.name) for check in checks)
    for check in checks:
        mark = "FAILED" if not check.passed else "look" if check.warning else "ok"
        terminal.listed([(f"{mark:6}  {check.name:{width}}  ", check.detail)], width + 10, STYLES[mark])
    failed = [check.name for check in checks if not check.passed]
    if failed:
        raise FarposeError(f"{len(failed)} of {len(checks)} checks failed: {'; '.join(failed)}", where="verify", fix="see the lines above")
    print(f"all {len(checks)} checks passed")


def _persons() -> Persons:
    """The scored split of the persons table, or a few synthetic people while there is none."""
    from components.datasets.reader import read_split
    from components.datasets.synthetic.coco import write_synthetic
    from components.datasets.synthetic.params import SyntheticParams
    from components.pose.persons import Persons

    table = paths.PERSONS / "persons.parquet"
    if table.is_file():
        return Persons.read(table).split(settings.evaluation().split)
    print(f"no persons table yet: checked on {SAMPLE_IMAGES} synthetic images")
    source = settings.data().sources["synthetic"]
    with tempfile.TemporaryDirectory() as scratch:
        write_synthetic(Path(scratch), SyntheticParams(train_images=1, val_images=SAMPLE_IMAGES), progress=False, workers=1)
        return read_split("synthetic", source, Path(scratch), "val").persons


def _shards(pipeline: settings.Pipeline, variants: list[Variant]) -> dict[str, tuple[str, Any]]:
    """The existing evaluation inputs, once per set of shards and label of the approach, with the approach that opens them."""
    from components.approaches import approach

    split, found = settings.evaluation().split, {}
    for variant in variants:
        shards, shown = pipeline.shards_of(variant.name), approach(variant.approach)
        label = shown.label(shards, variant)
        if label not in found and (paths.SHARDS / shards).is_dir():
            found[label] = shown.name, shown.inputs(paths.SHARDS / shards, variant, split=split)
    return dict(sorted(found.items()))
