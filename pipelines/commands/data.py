"""`acquire`: raw data into data/, owned by DVC. `convert`: its annotations in COCO's form."""

from __future__ import annotations

import argparse

from components.base.errors import FarposeError, unknown_name
from pipelines import ingesting, paths, settings


def acquire(options: argparse.Namespace) -> None:
    """Fill data/SOURCE, write its manifest, and add data/ to DVC."""
    ingesting.collect(options.source, options.origin, options.endpoint, options.accept_changes)
    print(f"data.dvc is up to date; next: {ingesting.next_step(options.source, settings.data().source)}")


def convert(options: argparse.Namespace) -> None:
    """Write a data set's annotations in another form."""
    from components.datasets.convert import to_coco

    sources = settings.data().sources
    if options.name not in sources:
        raise unknown_name("source", options.name, sources, where="params/data.yaml")
    if options.output.resolve().is_relative_to(paths.DATA.resolve()):
        raise FarposeError(
            "data/ is raw input, which `farpose acquire` alone fills", where=options.output, fix="give a folder outside of it"
        )
    source, root = sources[options.name], paths.DATA / options.name
    if not root.is_dir():
        raise FarposeError("its files are not there", where=root, fix=f"farpose acquire {options.name} --from PATH|URL|s3://…")
    for split, written in to_coco(options.name, source, root, options.output).items():
        categories = ", ".join(map(str, written.category_ids))
        print(f"{split}: {written.persons:,} persons (category {categories}) in {written.images:,} images: {written.path}")
    print(f"file names are relative to each split's `images` in data/{options.name}; coordinates are of the {source.orientation} pixels")
