"""What a comparison needs of each evaluated variant: its metrics, its name and seed group, and its per-image outcome."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from components.base.errors import FarposeError, unknown_name
from components.base.files import read_json
from components.evaluate.headline import GT
from components.evaluate.peers import score_results
from components.evaluate.resampling import Outcome
from components.evaluate.scoring import Truth
from components.evaluate.significance import MATCHES, read_outcome
from components.models import zoo
from components.pose.images import IMAGES_FILE, read_images
from components.pose.persons import Persons
from pipelines import paths, settings

PEERS = "peers"  # in the comparison's folder: the peers' evaluations


def row(name: str) -> dict[str, Any]:
    """The comparison's row of a variant of the pipeline; see `components.evaluate.compare.compare`."""
    training = read_json(paths.RESULTS / "train" / f"{name}.json")
    evaluation = read_json(paths.RESULTS / "evaluate" / f"{name}.json")
    return {
        **evaluation,
        **identity(name),
        "device": training["device"],
        "by_height": read_json(paths.EVALUATIONS / name / "by_height.json"),
    }


def peer_rows(pipeline: settings.Pipeline, out: Path) -> tuple[list[dict[str, Any]], dict[str, Path]]:
    """The comparison's rows of the pipeline's peers, each scored into a folder of its name in `out`, and these folders.

    Raises:
        FarposeError: what `components.evaluate.peers.score_results` raises.
    """
    rows, folders = [], {name: out / name for name in pipeline.peers}
    if not folders:
        return [], {}
    params = settings.evaluation()
    truth = truth_of(paths.PERSONS, params.split)
    for name, peer in pipeline.peers.items():
        files = {condition: paths.DATA / file for condition, file in peer.conditions.items()}
        note = f"predictions of {peer.label}, licence: {peer.licence}"
        score_results(paths.DATA / peer.file, truth, params, folders[name], name, note, files)
        rows.append(_read(folders[name], {"variant": name})[0] | {"by_height": read_json(folders[name] / "by_height.json")})
    return rows, folders


def truth_of(folder: Path, split: str) -> Truth:
    """What a split's predictions are scored against.

    Args:
        folder: of persons.parquet and images.parquet.
    Raises:
        FarposeError: the tables are missing or damaged, or have no such split.
    """
    persons, images = Persons.read(folder / "persons.parquet").split(split), read_images(folder / IMAGES_FILE)
    return Truth(persons, images.loc[images["split"] == split, "image_id"].to_numpy(), settings.data().files.evaluator)


def identity(name: str) -> dict[str, Any]:
    """Name, seed group, recipe and the conditions of the paper's number."""
    variant, pipeline = zoo.variant(name), settings.load()
    found = {"variant": name, "group": group_of(name), "seed": variant.train.get("seed"), "recipe": pipeline.recipe_of(name)}
    return found | ({"paper_note": variant.paper.conditions} if variant.paper.conditions else {})


def group_of(name: str) -> str:
    """The name of a variant's group of seeds; in the pipeline, of those on the same shards."""
    pipeline = settings.load()
    if name not in pipeline.variants:
        return zoo.group_of(zoo.variant(name))
    shards = pipeline.shards_of(name)
    return zoo.group_of(zoo.variant(name), [zoo.variant(other) for other in pipeline.variants if pipeline.shards_of(other) == shards])


def matches(names: Iterable[str], peers: Mapping[str, Path] | None = None) -> dict[str, Outcome]:
    """What the leading numbers are made of, per image, of evaluated variants of the pipeline, and of peers.

    Args:
        peers: name → folder that it was scored into.
    Raises:
        FarposeError: an evaluation has none.
    """
    folders = {name: paths.EVALUATIONS / name for name in names} | dict(peers or {})
    return {name: read_outcome(folder) for name, folder in folders.items()}


def condition_matches(conditions: Iterable[str], names: Iterable[str], peers: Mapping[str, Path]) -> dict[str, dict[str, Outcome]]:
    """By condition and name, the same of those that were scored under it."""
    folders = {name: paths.EVALUATIONS / name for name in names} | dict(peers)
    found: dict[str, dict[str, Outcome]] = {}
    for one in conditions:
        end = f"_{GT}_{one}"
        found[one] = {name: read_outcome(folder, end) for name, folder in folders.items() if (folder / MATCHES.format(end)).is_file()}
    return found


def evaluated(name: str) -> list[tuple[dict[str, Any], Outcome]]:
    """Metrics of what a user names: a variant, the name of a group of seeds, a peer, or an evaluation's folder.

    Raises:
        FarposeError: nothing of this name is evaluated.
    """
    folder = Path(name)
    if (folder / "metrics.json").is_file():
        return [_read(folder, {"variant": name})]
    others = (paths.COMPARISON / PEERS / name, paths.SCRATCH / name / "evaluation")
    given = next((other for other in others if (other / "metrics.json").is_file()), None)
    if given and (name in settings.load().peers or name not in zoo.load_variants()):
        return [_read(given, {"variant": name})]
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


def _read(folder: Path, more: dict[str, Any]) -> tuple[dict[str, Any], Outcome]:
    return {**read_json(folder / "metrics.json"), **more}, read_outcome(folder)
