"""`release`: a trained variant as a model that comes with a clone."""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path

from components.base.config import load_yaml
from components.base.errors import FarposeError, unknown_name
from pipelines import choosing, paths, releases, settings


def release(options: argparse.Namespace) -> None:
    """Write the folder and print its files; write nothing if the model cannot be vouched for."""
    from components.models import zoo
    from components.registry import released

    variant = zoo.variant(options.variant)
    if not re.fullmatch(r"\w+", options.name):
        raise FarposeError(f"--as takes letters, digits and underscores, got {options.name!r}", fix=f"such as {paths.RELEASED.name}")
    trained = options.origin or choosing.weights_of(variant.name).parent
    making = releases.Making(options.name, variant.name, trained, _shards(options), options.commit, _example(options))
    folder = options.output or released.FOLDER / options.name
    with tempfile.TemporaryDirectory() as scratch:
        said = releases.make(making, folder, Path(scratch), options.evaluation)
    for path in sorted(folder.iterdir()):
        print(f"{paths.shown(path)}  {path.stat().st_size / 1e6:.2f} MB")
    print(said)


def _shards(options: argparse.Namespace) -> str:
    pipeline = settings.load()
    shards: str = options.shards or pipeline.shards_of(options.variant)
    if shards not in pipeline.shards or not (paths.SHARDS / shards / "shard.json").is_file():
        made = [name for name in pipeline.shards if (paths.SHARDS / name / "shard.json").is_file()]
        raise unknown_name("shards", shards, made, where=paths.SHARDS)
    return shards


def _example(options: argparse.Namespace) -> str | None:
    """The example, which must train the variant."""
    if options.example is None:
        return None
    path = paths.EXAMPLES / options.example / "pipeline.yaml"
    if options.variant not in (load_yaml(path).get("variants") or {}):
        raise FarposeError(f"does not train {options.variant}", where=path, fix="name another example, or none")
    return str(options.example)
