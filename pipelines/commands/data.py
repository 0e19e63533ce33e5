"""`acquire`: raw data into data/, owned by DVC. `convert`: its annotations in COCO's form."""

from __future__ import annotations

import argparse
import subprocess
import sys

from components.base.config import PARAMS, load_yaml, parse
from components.base.errors import FarposeError, unknown_name
from components.base.files import size_in_words
from pipelines import graph, paths, settings


def acquire(options: argparse.Namespace) -> None:
    """Fill data/SOURCE, write its manifest, and add data/ to DVC."""
    from components.datasets.acquire import acquire as collect
    from components.datasets.acquire.listing import IMAGES, kinds_of
    from components.datasets.synthetic import SyntheticParams

    graph.opened().close()  # before the work is done: DVC takes the data at the end
    params = parse(SyntheticParams, load_yaml(PARAMS / "data.yaml").get("synthetic", {}), "params/data.yaml: synthetic")
    sources = settings.data().sources
    got = collect(
        options.source,
        options.origin,
        paths.DATA,
        sources,
        endpoint=options.endpoint,
        accept_changes=options.accept_changes,
        synthetic=params,
        progress=sys.stderr.isatty(),
    )
    print(f"{options.source}: {got.files} files, {size_in_words(got.size_bytes)} in data/{options.source}")
    print(f"licence, as data/README.md records it: {sources[options.source].licence}")
    if got.left_out:
        print(f"left out, of no kind that is read (images: {', '.join(IMAGES)}): {kinds_of(got.left_out)}")
    _add_to_dvc()
    print(f"data.dvc is up to date; next: {_next_step(options.source, settings.data().source)}")


def _next_step(acquired: str, used: str) -> str:
    """What follows: stages read the data set in use, which need not be the one that was acquired."""
    return "farpose run" if acquired == used else f"`source: {acquired}` in params/data.yaml, where {used} is in use, then farpose run"


def _add_to_dvc() -> None:
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "add", "--quiet", "data"]
    done = subprocess.run(command, cwd=paths.REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = " ".join(done.stderr.split()).removeprefix("ERROR: ")
        raise FarposeError(f"DVC could not take the data: {said}", where=paths.DATA, fix="`python -m dvc add data` shows more")


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
