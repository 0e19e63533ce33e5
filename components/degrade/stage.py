"""Write a shard: a data set's persons or whole images, degraded by one protocol at one input size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.base.files import atomic_directory, write_json
from components.degrade.contact_sheet import contact_sheet
from components.degrade.image_shards import plan_images
from components.degrade.params import DegradeParams, ShardSpec
from components.degrade.shard import TRAIN, Plan, Source, Writer
from components.degrade.shards import plan_crops
from components.pose.draw import write_png


def degrade(source: Source, spec: ShardSpec, params: DegradeParams, out: Path, progress: bool = True) -> dict[str, Any]:
    """Write the shard directory `out`, whole or not at all, and return the contents of shard.json.

    Args:
        progress: whether to show a bar per split.
    Raises:
        FarposeError: a split is missing or has no labelled person, a person's image has no row, or an image is missing,
            damaged or of a different size than in its table.
    """
    plan = plan_images(source, spec) if spec.images else plan_crops(source, spec)
    with atomic_directory(out) as folder:
        writer = Writer(spec, params, source.data_root, folder, progress, source.upright)
        writer.write(plan)
        if source.only is None:
            write_png(folder / "contact_sheet.png", contact_sheet(source, spec, params))
        about = writer.about(source.persons.skeleton, _counts(source, spec, plan))
        write_json(folder / "shard.json", about)
    return about


def _counts(source: Source, spec: ShardSpec, plan: Plan) -> dict[str, dict[str, Any]]:
    """Persons and images per split, and how training crops are stored."""
    counts: dict[str, dict[str, Any]] = {}
    for split in source.splits:
        labelled = source.labelled(split)
        images = len(plan.evaluated[split][0]) if spec.images and split != TRAIN else int(labelled.frame["image_id"].nunique())
        counts[split] = {"persons": len(labelled), "images": images}
    if TRAIN in counts:
        step = plan.regions.step
        counts[TRAIN] |= {"pixels": plan.regions.pixels, "native_density": int((step == 1).sum()), "reduced": int((step > 1).sum()),
                          "largest_step": round(float(step.max()), 4)}  # fmt: skip
    return counts
