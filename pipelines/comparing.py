"""What a comparison needs of each evaluated variant: its metrics, its name and seed group, and its per-image matches."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from components.base.errors import FarposeError, unknown_name
from components.base.files import read_json
from components.evaluate.matching import Matches
from components.evaluate.significance import read_matches
from components.models import zoo
from pipelines import paths, settings

MATCHES = "matches.npz"  # in an evaluation's folder, with its metrics.json


def row(name: str) -> dict[str, Any]:
    """The comparison's row of a variant of the pipeline; see `components.evaluate.compare.compare`."""
    training = read_json(paths.RESULTS / "train" / f"{name}.json")
    evaluation = read_json(paths.RESULTS / "evaluate" / f"{name}.json")
    return {
        **evaluation,
        **identity(name),
        "images_per_s": training["images_per_second"],
        "training_s": training["train_seconds"],
        "device": training["device"],
        "by_height": read_json(paths.EVALUATIONS / name / "by_height.json"),
    }


def identity(name: str) -> dict[str, Any]:
    """Name, seed group, recipe and the conditions of the paper's number."""
    variant, pipeline = zoo.variant(name), settings.load()
    found = {"variant": name, "group": group_of(name), "seed": variant.train.get("seed"), "recipe": pipeline.recipe_of(name)}
    return found | ({"paper_note": variant.paper.conditions} if variant.paper.conditions else {})


def group_of(name: str) -> str:
    """The name of a variant's group of seeds."""
    return zoo.group_of(zoo.variant(name))


def matches(names: Iterable[str]) -> dict[str, Matches]:
    """Per-image matches of evaluated variants of the pipeline.

    Raises:
        FarposeError: an evaluation has none.
    """
    return {name: read_matches(paths.EVALUATIONS / name / MATCHES) for name in names}


def evaluated(name: str) -> list[tuple[dict[str, Any], Matches]]:
    """Metrics and matches of what a user names: a variant, the name of a group of seeds, or an evaluation's folder.

    Raises:
        FarposeError: nothing of this name is evaluated.
    """
    folder = Path(name)
    if (folder / "metrics.json").is_file():
        return [_read(folder, {"variant": name})]
    planned = list(settings.load().variants)
    members = [other for other in planned if name in (other, group_of(other))]
    folders = {other: paths.EVALUATIONS / other for other in members} or {name: paths.SCRATCH / name / "evaluation"}
    missing = [other for other, where in folders.items() if not (where / "metrics.json").is_file()]
    if missing and not members and name not in zoo.load_variants():
        raise unknown_name("variant", name, planned, where="params/pipeline.yaml")
    if missing:
        fix = (
            f"`farpose run evaluate@{missing[0]}`"
            if members
            else f"`farpose evaluate {name} --shards SHARDS`, or name an evaluation's folder"
        )
        raise FarposeError("not evaluated yet", where=missing[0], fix=fix)
    return [_read(where, identity(other)) for other, where in folders.items()]


def _read(folder: Path, more: dict[str, Any]) -> tuple[dict[str, Any], Matches]:
    return {**read_json(folder / "metrics.json"), **more}, read_matches(folder / MATCHES)
