"""New raw data: collected beside the old ones, read and checked there, and put in their place only if every check passes."""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from components.base.config import PARAMS, load_yaml, parse
from components.base.errors import FarposeError, unknown_name
from components.base.files import size_in_words
from pipelines import paths, settings

if TYPE_CHECKING:
    from components.datasets.acquire import Acquired

INGESTED = paths.SCRATCH / "ingested"  # tables and verdict of data that came last, by source


def ingest(source: str, place: str | None = None, endpoint: str | None = None) -> Acquired:
    """Bring the newest data of a source into data/, if they are valid, and add data/ to DVC.

    Args:
        source: one of `data.sources`.
        place: folder, archive, address or s3:// prefix; None: the source's `origin`.
        endpoint: S3 endpoint other than Amazon's.
    Raises:
        FarposeError: no such source, no place is known, or what collecting, reading and checking raise. The data that were there,
            and what DVC knows of them, are untouched.
    """
    sources = settings.data().sources
    if source not in sources:
        raise unknown_name("source", source, sources, where="params/data.yaml: data.sources")

    def check(folder: Path) -> None:
        print(f"{source}: the new data are collected; they are checked before they replace anything", flush=True)
        _check(source, folder)

    return collect(source, place or sources[source].origin, endpoint, accept_changes=True, check=check)


def collect(
    source: str, place: str | None, endpoint: str | None, accept_changes: bool, check: Callable[[Path], None] | None = None
) -> Acquired:
    """Fill data/SOURCE, write its manifest, add data/ to DVC, and print what came; see `components.datasets.acquire`."""
    from components.datasets.acquire import acquire
    from components.datasets.acquire.listing import IMAGES, kinds_of
    from components.datasets.synthetic import SyntheticParams
    from pipelines import graph

    graph.opened().close()  # before the work is done: DVC takes the data at the end
    params = parse(SyntheticParams, load_yaml(PARAMS / "data.yaml").get("synthetic", {}), "params/data.yaml: synthetic")
    sources = settings.data().sources
    got = acquire(
        source,
        place,
        paths.DATA,
        sources,
        endpoint=endpoint,
        accept_changes=accept_changes,
        synthetic=params,
        progress=sys.stderr.isatty(),
        check=check,
    )
    print(f"{source}: {got.files} files, {size_in_words(got.size_bytes)} in data/{source}")
    print(f"licence, as data/README.md records it: {sources[source].licence}")
    if got.left_out:
        print(f"left out, of no kind that is read (images: {', '.join(IMAGES)}): {kinds_of(got.left_out)}")
    _add_to_dvc()
    return got


def next_step(acquired: str, used: str) -> str:
    """What follows: stages read the data set in use, which need not be the one that was acquired."""
    return "farpose run" if acquired == used else f"`source: {acquired}` in params/data.yaml, where {used} is in use, then farpose run"


def _check(source: str, folder: Path) -> None:
    """What the stages fetch and validate would say of a folder.

    Raises:
        FarposeError: what they raise; names the page with all checks.
    """
    from components.datasets.fetch import fetch
    from components.datasets.validate import validate

    params = dataclasses.replace(settings.data(), source=source)
    persons = INGESTED / source / "persons"
    print(fetch(params, folder, persons, None).table(), flush=True)
    print(validate(persons, folder, params, INGESTED / source / "validation").table(), flush=True)


def _listed(source: str) -> str | None:
    """The manifest of a source; None before its first data."""
    manifest = paths.MANIFESTS / f"{source}.sha256"
    return manifest.read_text() if manifest.is_file() else None


def _add_to_dvc() -> None:
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "add", "--quiet", "data"]
    done = subprocess.run(command, cwd=paths.REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = " ".join(done.stderr.split()).removeprefix("ERROR: ")
        raise FarposeError(f"DVC could not take the data: {said}", where=paths.DATA, fix="`python -m dvc add data` shows more")


def main(arguments: list[str]) -> int:
    """Exit code of `python -m pipelines.ingesting SOURCE [--from PLACE] [--endpoint URL]`, which the flows run and watch."""
    from pipelines.cli import report

    parser = argparse.ArgumentParser(prog="pipelines.ingesting")
    parser.add_argument("source")
    parser.add_argument("--from", dest="place")
    parser.add_argument("--endpoint")
    options = parser.parse_args(arguments)
    before = _listed(options.source)
    try:
        ingest(options.source, options.place, options.endpoint)
    except Exception as error:
        return report(error)
    print("the data are those that were there" if _listed(options.source) == before else "data.dvc and the manifest are new: commit both")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
