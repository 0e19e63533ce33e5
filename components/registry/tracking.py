"""Runs: each stage owns one, nested under the pipeline's. No result depends on what is written here."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.base.config import REPOSITORY
from components.registry import lineage, snapshot, store

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

PIPELINE_RUN = "FARPOSE_PIPELINE_RUN"  # MLflow id of the run that a stage's run is nested under
PREFECT_RUN = "FARPOSE_PREFECT_RUN"  # Prefect's id of the flow run, kept as a tag
PIPELINE = "pipeline"  # kind of that run
NAME = "mlflow.runName"  # MLflow's tag of a run's name
NOTE = "mlflow.note.content"  # MLflow's tag of a run's description
BATCH = 200  # metrics per request
FLUSH_S = 10.0
LONGEST_DIGEST = 36
LONGEST_PARAM, PARAMS_PER_REQUEST = 500, 100


class Run:
    """An open MLflow run."""

    def __init__(self, client: MlflowClient, run_id: str, experiment_id: str = "") -> None:
        self.client, self.run_id, self.experiment_id = client, run_id, experiment_id

    def params(self, values: Mapping[str, Any]) -> None:
        """Nested parameters, stored as `a.b.c`."""
        from mlflow.entities import Param

        items = [Param(key_name(key), value[:LONGEST_PARAM]) for key, value in lineage.flat(dict(values)).items()]
        for start in range(0, len(items), PARAMS_PER_REQUEST):
            self.client.log_batch(self.run_id, params=items[start : start + PARAMS_PER_REQUEST])

    def metrics(self, values: Mapping[str, Any], step: int = 0) -> None:
        """The numbers among `values` (nested ones as `a.b.c`); everything else is skipped."""
        items = measured(values, step)
        for start in range(0, len(items), BATCH):
            self.client.log_batch(self.run_id, metrics=items[start : start + BATCH])

    def tags(self, values: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(self.run_id, tags=[RunTag(key_name(key), str(value)[:5000]) for key, value in values.items()])

    def note(self, text: str) -> None:
        """Markdown that heads the run's page."""
        self.tags({NOTE: text})

    def used_data(self, digest: str) -> None:
        """Name the raw data as the run's input; nothing if there is no digest."""
        from mlflow.entities import Dataset, DatasetInput

        if digest:
            dataset = Dataset(name="data", digest=digest[:LONGEST_DIGEST], source_type="dvc", source="data.dvc")
            self.client.log_inputs(self.run_id, [DatasetInput(dataset)])

    def artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Copy a file, or a whole folder, to the run's page."""
        path = Path(path)
        log = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
        log(self.run_id, str(path), folder)

    def made_of(self, repository: Path = REPOSITORY) -> None:
        """Keep what the run is made of, see `components.registry.snapshot`."""
        with tempfile.TemporaryDirectory() as scratch:
            snapshot.write(Path(scratch), repository)
            self.artifact(scratch, snapshot.FOLDER)

    def tracker(self) -> MlflowTracker:
        """A tracker for training, see `components.train.tracker`."""
        return MlflowTracker(self)


class MlflowTracker:
    """Sends training's numbers in batches, so that a step never waits for the store.

    A store that fails does not stop a training: unsent numbers are sent again with the next batch.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._waiting: list[Metric] = []
        self._sent = time.monotonic()

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Record `values` of one step or epoch."""
        self._waiting += measured(values, step)
        if len(self._waiting) >= BATCH or time.monotonic() - self._sent > FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Send what is waiting."""
        from mlflow.exceptions import MlflowException

        self._sent = time.monotonic()
        try:
            while self._waiting:
                self.run.client.log_batch(self.run.run_id, metrics=self._waiting[:BATCH])
                del self._waiting[:BATCH]
        except MlflowException as error:
            print(f"MLflow does not answer, {len(self._waiting)} numbers wait: {str(error)[:200]}", file=sys.stderr)


@contextmanager
def run(
    name: str, *, params: Mapping[str, Any] | None = None, tags: Mapping[str, str] | None = None, repository: Path = REPOSITORY
) -> Iterator[Run]:
    """A run that is FINISHED when the block ends, FAILED (or KILLED, when interrupted) when it raises.

    Args:
        name: the run's name, for a stage its DVC address, such as `train@NAME`.
        params: nested parameters of the stage.
    """
    client, experiment_id = store.open_store(repository)
    found = {**lineage.tags(name, repository), **store.process_tags(), **(tags or {}), **_parents(client)}
    opened = Run(client, client.create_run(experiment_id, run_name=name, tags=found).info.run_id, experiment_id)
    opened.used_data(lineage.data_digest(repository))
    status = "FAILED"
    try:
        opened.params(params or {})
        opened.made_of(repository)
        yield opened
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    except Exception as error:
        opened.tags({"error": str(error), NOTE: f"Failed: {error}"})
        raise
    finally:
        client.set_terminated(opened.run_id, status=status)


@contextmanager
def pipeline_run(prefect_run: str = "", repository: Path = REPOSITORY, name: str = PIPELINE) -> Iterator[tuple[Run, dict[str, str]]]:
    """The run that the stages' runs are nested under, and the environment variables that pass it to the stages.

    Args:
        name: what is about to be done; the tag `NAME` changes it to what was.
    """
    tags = {"kind": PIPELINE} | ({"prefect.flow_run_id": prefect_run} if prefect_run else {})
    with run(name, tags=tags, repository=repository) as opened:
        yield opened, {PIPELINE_RUN: opened.run_id, PREFECT_RUN: prefect_run}
        opened.made_of(repository)  # of all that its stages did


def children(opened: Run) -> dict[str, str]:
    """Names and ids of the runs inside a run; of several of one name the newest. Empty if the store does not answer."""
    from mlflow.exceptions import MlflowException

    query = f"tags.mlflow.parentRunId = '{opened.run_id}'"
    try:
        found = opened.client.search_runs([opened.experiment_id], query, order_by=["attributes.start_time ASC"])
    except MlflowException:
        return {}
    return {run.info.run_name: run.info.run_id for run in found}


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a nested mapping as `a.b.c` → float. Truth values count as numbers, texts and lists do not."""
    return {key: float(value) for key, value in lineage.nested(values).items() if isinstance(value, int | float)}


def measured(values: Mapping[str, Any], step: int = 0, model_id: str | None = None) -> list[Metric]:
    """The `numbers` of a nested mapping as MLflow's metrics, measured now."""
    from mlflow.entities import Metric

    now = time.time_ns() // 1_000_000
    return [Metric(key_name(key), value, now, step, model_id=model_id) for key, value in numbers(values).items()]


def key_name(name: str) -> str:
    """`name` with the characters that MLflow refuses in keys replaced: train@NAME → train NAME."""
    kept = "".join(c if c.isalnum() or c in "_-. /" else " " for c in name)
    return " ".join(kept.split())


def _parents(client: MlflowClient) -> dict[str, str]:
    """Tags that nest a run under the pipeline's; none if that run is not in this store."""
    from mlflow.exceptions import MlflowException

    found = {"prefect.flow_run_id": os.environ[PREFECT_RUN]} if os.environ.get(PREFECT_RUN) else {}
    parent = os.environ.get(PIPELINE_RUN)
    if not parent:
        return found
    try:
        client.get_run(parent)
    except MlflowException:
        return found
    return {**found, "mlflow.parentRunId": parent}
