"""`verify`: the checks that need no training."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from components.base.errors import FarposeError
from pipelines import paths, settings
from pipelines.stages import SCORED

if TYPE_CHECKING:
    from components.degrade.image_shards import EvalImages
    from components.degrade.shards import EvalCrops
    from components.models.variant import Variant
    from components.pose.persons import Persons

SAMPLE_IMAGES = 40  # of synthetic people, drawn when there is no persons table yet


def verify(options: argparse.Namespace) -> int:
    """Print every check with what it measured; exit code 1 if one failed."""
    from components.evaluate.verify import verify as run_checks
    from components.models import zoo

    pipeline = settings.load()
    variants = [zoo.variant(name) for name in pipeline.variants]
    top_down, bottom_up = ([variant for variant in variants if variant.bottom_up == kind] for kind in (False, True))
    persons, crops = _persons(), {} if options.without_crops else _crops(pipeline, top_down)
    checks = run_checks(persons, top_down, crops)
    if bottom_up:
        from components.evaluate.verify_images import verify_images

        checks += verify_images(persons, bottom_up, {} if options.without_crops else _images(pipeline, bottom_up))
    width = max(len(check.name) for check in checks)
    for check in checks:
        mark = "FAILED" if not check.passed else "look" if check.warning else "ok"
        print(f"{mark:6}  {check.name:{width}}  {check.detail}")
    failed = [check.name for check in checks if not check.passed]
    if failed:
        raise FarposeError(f"{len(failed)} of {len(checks)} checks failed: {'; '.join(failed)}", where="verify", fix="see the lines above")
    print(f"all {len(checks)} checks passed")
    return 0


def _persons() -> Persons:
    """The scored split of the persons table, or a few synthetic people while there is none."""
    from components.datasets.reader import read_split
    from components.datasets.synthetic.coco import write_synthetic
    from components.datasets.synthetic.params import SyntheticParams
    from components.pose.persons import Persons

    table = paths.PERSONS / "persons.parquet"
    if table.is_file():
        return Persons.read(table).split(SCORED)
    print(f"no persons table yet: checked on {SAMPLE_IMAGES} synthetic images")
    source = settings.data().sources["synthetic"]
    with tempfile.TemporaryDirectory() as scratch:
        write_synthetic(Path(scratch), SyntheticParams(train_images=1, val_images=SAMPLE_IMAGES), progress=False, workers=1)
        return read_split("synthetic", source, Path(scratch), SCORED).persons


def _crops(pipeline: settings.Pipeline, variants: list[Variant]) -> dict[str, EvalCrops]:
    """The validation crops that are there, one of each set of shards and crop convention."""
    from components.degrade.shards import EvalCrops

    wanted = {(pipeline.shards_of(variant.name), variant.convention) for variant in variants}
    made = [(name, convention) for name, convention in sorted(wanted) if (paths.SHARDS / name).is_dir()]
    return {f"{name}, {convention}": EvalCrops.open(paths.SHARDS / name, convention) for name, convention in made}


def _images(pipeline: settings.Pipeline, variants: list[Variant]) -> dict[str, EvalImages]:
    """The validation images that are there, of each set of shards."""
    from components.degrade.image_shards import EvalImages

    names = sorted({pipeline.shards_of(variant.name) for variant in variants})
    return {name: EvalImages.open(paths.SHARDS / name) for name in names if (paths.SHARDS / name).is_dir()}
