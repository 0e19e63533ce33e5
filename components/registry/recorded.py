"""What the store knows of a result that somebody wants to see again: its runs, its numbers, and what it was made of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.base.config import REPOSITORY
from components.base.errors import FarposeError
from components.registry import promotion, snapshot, store
from components.registry.register import WEIGHTS_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

RUN_ID = re.compile(r"[0-9a-f]{6,32}")  # an id, or its beginning
STAGE = "dvc.stage"
TRAIN, EVALUATE, PIPELINE = "train", "evaluate", "pipeline"
COMPARED = (TRAIN, EVALUATE, "fetch", "validate", "degrade")  # kinds of runs; `compare` and `report` rest on all models
DIRTY = "-dirty"
DONE = "FINISHED"


@dataclass(frozen=True)
class Part:
    """One stage of a result, and the run that recorded it.

    Attributes:
        stage: its address in dvc.yaml, such as `train@NAME`.
        run_id: empty where the stage was not run when the result was made, such as a training that came from a remote.
        numbers: the run's metrics, each its last value.
        tags: the run's.
        device: such as "cpu" or "cuda:0"; empty if the stage has none.
    """

    stage: str
    run_id: str = ""
    numbers: Mapping[str, float] | None = None
    tags: Mapping[str, str] | None = None
    device: str = ""

    @property
    def weights(self) -> str:
        """SHA-256 of the weights that it made or scored; empty if it has none."""
        return (self.tags or {}).get(WEIGHTS_TAG, "")


@dataclass(frozen=True)
class Recorded:
    """A result: what it was made of, and the stages that made it, in order.

    Attributes:
        said: what it is, in words.
        run_id: the run whose commit, parameters and lock are meant.
        commit: 40 digits; `dirty`: whether files differed from it.
        data_md5: DVC's digest of `data/`.
        weights: SHA-256 of the model's weights; empty if it is no model's.
    """

    said: str
    run_id: str
    commit: str
    dirty: bool
    data_md5: str
    weights: str
    parts: tuple[Part, ...]


def find(asked: str, repository: Path = REPOSITORY) -> Recorded:
    """What a user names: a run of a stage by its id or its beginning, or a model as NAME, NAME@ALIAS or NAME@VERSION.

    Raises:
        FarposeError: no or several such runs, no such model, or a run that is no stage's, failed, or names no commit.
    """
    client, experiment_id = store.open_store(repository)
    if RUN_ID.fullmatch(asked):
        return _of_run(_run(asked, client, experiment_id, repository), client, experiment_id)
    version = promotion.find(asked, repository)
    weights, said = version.tags.get(WEIGHTS_TAG, ""), promotion.label(version)
    if "released" in version.tags:
        fix = f"released/{version.tags['released']}/README.md says how it is made again"
        raise FarposeError(f"{said} came with the clone: no run of this store made it", where=asked, fix=fix)
    runs = _runs(client, experiment_id, f"tags.`{WEIGHTS_TAG}` = '{weights}' and tags.variant = '{version.name}'")
    base = _newest(runs, EVALUATE) or _newest(runs, TRAIN)
    if base is None:
        fix = "set MLFLOW_TRACKING_URI to the store of the clone that made it"
        raise FarposeError(f"no run of this store trained or evaluated {said}", where=store.tracking_uri(repository), fix=fix)
    return _recorded(base, runs, said)


def _of_run(run: Run, client: MlflowClient, experiment_id: str) -> Recorded:
    tags = run.data.tags
    kind, name, run_id = tags.get("kind", ""), run.info.run_name, run.info.run_id
    if kind == PIPELINE or name == PIPELINE:
        inside = _runs(client, experiment_id, f"tags.`mlflow.parentRunId` = '{run_id}'")
        fix = f"name one of them: {', '.join(f'{one.info.run_id[:8]} ({one.info.run_name})' for one in inside) or 'it ran none'}"
        raise FarposeError(f"run {run_id[:8]} is of a whole pipeline, its numbers are in its stages' runs", where=name, fix=fix)
    if STAGE not in tags or kind not in COMPARED:
        fix = f"name a model as NAME or NAME@VERSION, or a run of {', '.join(COMPARED)}"
        raise FarposeError(f"run {run_id[:8]} has no numbers of its own", where=name, fix=fix)
    if run.info.status != DONE:
        raise FarposeError(f"run {run_id[:8]} is {run.info.status}: it has no result", where=name, fix="name a run that finished")
    if kind not in (TRAIN, EVALUATE) or WEIGHTS_TAG not in tags:
        return _recorded(run, [], f"{name}, run {run_id[:8]}")
    query = f"tags.`{WEIGHTS_TAG}` = '{tags[WEIGHTS_TAG]}' and tags.variant = '{tags['variant']}'"
    return _recorded(run, _runs(client, experiment_id, query), f"{name}, run {run_id[:8]}")


def _recorded(base: Run, runs: list[Run], said: str) -> Recorded:
    """
    Args:
        base: whose commit is checked out.
        runs: all that trained or scored the same weights.
    """
    tags = base.data.tags
    commit = tags.get("git.commit", "")
    if not commit:
        fix = "it was made outside of git; nothing names its code"
        raise FarposeError(f"run {base.info.run_id[:8]} names no commit", where=base.info.run_name, fix=fix)
    if tags["kind"] == TRAIN:
        later = [run for run in runs if run.data.tags.get("git.commit") == commit and run.info.start_time >= base.info.start_time]
        scored = next((run for run in later if run.data.tags["kind"] == EVALUATE and run.info.status == DONE), None)
        parts = [_part(base), *([_part(scored)] if scored else [])]
    elif tags["kind"] == EVALUATE:
        trained = _newest(runs, TRAIN)
        parts = [_part(trained) if trained else Part(f"{TRAIN}@{tags['variant']}"), _part(base)]
    else:
        parts = [_part(base)]
    plain = commit.removesuffix(DIRTY)
    return Recorded(said, base.info.run_id, plain, plain != commit, tags.get("data.md5", ""), tags.get(WEIGHTS_TAG, ""), tuple(parts))


def kept(recorded: Recorded, folder: Path, repository: Path = REPOSITORY) -> Path | None:
    """The files that the run keeps of what it was made of (`registry.snapshot`), copied below `folder`; None if it keeps none."""
    from mlflow.exceptions import MlflowException

    client, _ = store.open_store(repository)
    try:
        if not client.list_artifacts(recorded.run_id, snapshot.FOLDER):
            return None
        return Path(client.download_artifacts(recorded.run_id, snapshot.FOLDER, str(folder)))
    except (MlflowException, OSError) as error:
        fix = "bring the store's artifacts too (mlruns/artifacts, or the server's)"
        raise FarposeError(
            f"what run {recorded.run_id[:8]} was made of is not there", where=store.tracking_uri(repository), fix=fix
        ) from error


def rebuilt(stage: str, folder: Path) -> Part:
    """What a stage recorded in the store of the worktree in which it was run again.

    Raises:
        FarposeError: nothing.
    """
    from mlflow.tracking import MlflowClient

    client = MlflowClient(store.own_uri(folder))
    experiment = client.get_experiment_by_name(store.EXPERIMENT)
    runs = _runs(client, experiment.experiment_id, f"tags.`{STAGE}` = '{stage}'") if experiment else []
    run = next((run for run in reversed(runs) if run.info.status == DONE), None)
    if run is None:
        raise FarposeError("it left no record", where=f"stage {stage}, made again", fix="read what it said above")
    return _part(run)


def _part(run: Run) -> Part:
    data = run.data
    return Part(data.tags[STAGE], run.info.run_id, dict(data.metrics), dict(data.tags), data.params.get("device", ""))


def _run(asked: str, client: MlflowClient, experiment_id: str, repository: Path) -> Run:
    """The one run whose id begins so."""
    found = client.search_runs([experiment_id], f"attributes.run_id LIKE '{asked}%'", max_results=3)
    if len(found) == 1:
        return found[0]
    where = store.tracking_uri(repository)
    if not found:
        fix = "`make ui` shows the runs with their ids; MLFLOW_TRACKING_URI names another store"
        raise FarposeError(f"no run begins with {asked!r}", where=where, fix=fix)
    fix = f"give more digits: {', '.join(run.info.run_id[:12] for run in found)}"
    raise FarposeError(f"several runs begin with {asked!r}", where=where, fix=fix)


def _runs(client: MlflowClient, experiment_id: str, query: str) -> list[Run]:
    """By start, the oldest first."""
    return list(client.search_runs([experiment_id], query, order_by=["attributes.start_time ASC"]))


def _newest(runs: list[Run], kind: str) -> Run | None:
    return next((run for run in reversed(runs) if run.data.tags.get("kind") == kind and run.info.status == DONE), None)
