"""Runs: each stage owns one, nested under the pipeline's. No result depends on what is written here, and no stage waits for it."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.base.config import REPOSITORY
from components.registry import lineage, snapshot, store, units, waiting
from components.registry.secrets import without_secrets

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

PIPELINE_RUN = "FARPOSE_PIPELINE_RUN"  # key of the record of the run that a stage's run is nested under
PREFECT_RUN = "FARPOSE_PREFECT_RUN"  # Prefect's id of the flow run, kept as a tag
PIPELINE = "pipeline"  # kind of that run, and its name unless it is given one
NAME = "mlflow.runName"  # MLflow's tag of a run's name
NOTE = "mlflow.note.content"  # MLflow's tag of a run's description
BATCH = waiting.BATCH  # numbers that wait before they are sent
FLUSH_S = 10.0
RETRY_S, LONGEST_RETRY_S = 30.0, 600.0  # between two tries of a store that does not answer; doubled after each
WATCHED, WATCH_S = ("degrade", "train", "evaluate"), 10.0  # kinds of runs that record the machine's load, and how often
LONGEST_DIGEST = 36
LONGEST_PARAM, LONGEST_TAG = 500, 5000


class Run:
    """An MLflow run: whatever is said of it is kept first, and sent at once if the store answers."""

    def __init__(self, record: waiting.Record, repository: Path, opened: tuple[MlflowClient, str] | None = None) -> None:
        """
        Args:
            opened: the store, None if it does not answer.
        """
        self.record, self.repository = record, repository
        self._store, self._run_id = opened, ""
        self._next_try, self._pause = time.monotonic() + (0.0 if opened else RETRY_S), RETRY_S
        self._told = opened is None  # once is enough until the store answers again
        self._lock = threading.RLock()

    @property
    def client(self) -> MlflowClient:
        """
        Raises:
            Down: the store does not answer.
        """
        return self._open()[0]

    @property
    def run_id(self) -> str:
        """MLflow's id, once everything is sent.

        Raises:
            Down: the store does not answer.
        """
        if not self._run_id and (said := self.send()):
            raise store.Down(
                f"MLflow does not answer: {said}", where=store.shown(store.tracking_uri(self.repository)), fix="start it, and run it again"
            )
        return self._run_id

    @property
    def experiment_id(self) -> str:
        """
        Raises:
            Down: the store does not answer.
        """
        return self._open()[1]

    @property
    def answers(self) -> bool:
        """Whether the store has the run and all that was said of it; `run_id` and `client` then raise nothing."""
        return not self.send()

    def params(self, values: Mapping[str, Any]) -> None:
        """Nested parameters, stored as `a.b.c`."""
        self._say("params", values={key_name(key): value[:LONGEST_PARAM] for key, value in lineage.flat(dict(values)).items()})

    def metrics(self, values: Mapping[str, Any], step: int = 0) -> None:
        """The numbers among `values` (nested ones as `a.b.c`); everything else is skipped."""
        self._say("metrics", values=timed(values, step))

    def tags(self, values: Mapping[str, str]) -> None:
        self._say("tags", values={key_name(key): str(value)[:LONGEST_TAG] for key, value in values.items()})

    def note(self, text: str) -> None:
        """Markdown that heads the run's page."""
        self.tags({NOTE: text})

    def used_data(self, digest: str) -> None:
        """Name the raw data as the run's input; nothing if there is no digest."""
        if digest:
            self._used("data", digest, "data.dvc")

    def used_shards(self, name: str, digest: str, context: str) -> None:
        """Name shards as the run's input.

        Args:
            digest: SHA-256 of shard.json, which holds those of the pixels.
            context: what they are used for, `training` or `evaluation`.
        """
        self._used(name, digest, f"artifacts/shards/{name}", context)

    def artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Copy a file, or a whole folder, to the run's page."""
        with self._lock:
            self.record.keep(Path(path), folder)
        self._try()

    def made_of(self) -> None:
        """Keep what the run is made of, see `components.registry.snapshot`."""
        with tempfile.TemporaryDirectory() as scratch:
            snapshot.write(Path(scratch), self.repository)
            self.artifact(scratch, snapshot.FOLDER)

    def tracker(self) -> MlflowTracker:
        """A tracker for training, see `components.train.tracker`."""
        return MlflowTracker(self)

    def end(self, status: str) -> None:
        """Close the run: FINISHED, FAILED or KILLED."""
        with self._lock:
            self.record.add("end", status=status, at=time.time_ns() // 1_000_000)
        self._next_try = 0.0
        self._try()

    def keep(self, values: list[list[Any]]) -> None:
        """Numbers as `timed` gives them, to be sent later."""
        with self._lock:
            self.record.add("metrics", values=values)

    def send(self) -> str:
        """Send what waits; what the store says if it does not answer, else nothing."""
        with self._lock:
            try:
                client, experiment_id = self._open()
                self._run_id = waiting.send(self.record, client, experiment_id)
            except (store.Down, waiting.Unsent) as error:
                self._next_try, self._pause = time.monotonic() + self._pause, min(2 * self._pause, LONGEST_RETRY_S)
                return str(error)
            self._pause, self._told = RETRY_S, False
            return ""

    def _say(self, request: str, **values: Any) -> None:
        with self._lock:
            self.record.add(request, **values)
        self._try()

    def _used(self, name: str, digest: str, source: str, context: str = "") -> None:
        dataset = {"name": name, "digest": digest[:LONGEST_DIGEST], "source_type": "dvc", "source": source}
        self._say("data", values=dataset, context=context)

    def _try(self) -> None:
        if time.monotonic() >= self._next_try and (said := self.send()) and not self._told:
            self._told = True
            tell(said, self.repository)

    def _open(self) -> tuple[MlflowClient, str]:
        if self._store is None:
            self._store = store.open_store(self.repository)
        return self._store


class MlflowTracker:
    """Keeps training's numbers and sends them in batches, so that a step never waits for the store."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._waiting = 0
        self._sent = time.monotonic()
        self._names: dict[str, None] = {}

    def described(self) -> str:
        """What the numbers mean, as Markdown."""
        return units.described(self._names)

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Record `values` of one step or epoch."""
        named = units.named(values)
        self._names |= dict.fromkeys(named)
        kept = timed(named, step)
        self.run.keep(kept)
        self._waiting += len(kept)
        if self._waiting >= BATCH or time.monotonic() - self._sent > FLUSH_S:
            self._sent, self._waiting = time.monotonic(), 0
            self.run._try()

    def flush(self) -> None:
        """Send what is waiting."""
        self._sent, self._waiting = time.monotonic(), 0
        if said := self.run.send():
            print(f"MLflow does not answer, {self.run.record.unsent()} numbers wait: {said[:200]}", file=sys.stderr)


def tell(said: str, repository: Path = REPOSITORY) -> None:
    """Say that the store does not answer, and where records wait."""
    kept = waiting.folder_of(repository)
    print(f"MLflow does not answer; the record waits in {kept} and is sent by the next stage or run ({said[:160]} …)", file=sys.stderr)


def ready(repository: Path = REPOSITORY) -> tuple[MlflowClient, str] | None:
    """Open the store and send what waits for it. One that does not answer is told, and stops nothing: None.

    Raises:
        FarposeError: what a person must mend first.
    """
    try:
        opened = store.open_store(repository)
        waiting.send_all(repository, *opened)
        return opened
    except (store.Down, waiting.Unsent) as error:
        tell(str(error), repository)
        return None


@contextmanager
def run(
    name: str, *, params: Mapping[str, Any] | None = None, tags: Mapping[str, str] | None = None, repository: Path = REPOSITORY
) -> Iterator[Run]:
    """A run that is FINISHED when the block ends, FAILED (or KILLED, when interrupted) when it raises.

    Args:
        name: the run's name, for a stage its DVC address, such as `train@NAME`.
        params: nested parameters of the stage.
    Raises:
        FarposeError: what a person must mend in the store; one that does not answer stops nothing.
    """
    opened_store = ready(repository)
    flow = {"prefect.flow_run_id": os.environ[PREFECT_RUN]} if os.environ.get(PREFECT_RUN) else {}
    found = {**lineage.tags(name, repository), **store.process_tags(), **(tags or {}), **flow}
    opened = Run(waiting.begin(repository, name, found, os.environ.get(PIPELINE_RUN, "")), repository, opened_store)
    status = "FAILED"
    try:
        opened.used_data(lineage.data_digest(repository))
        opened.params(params or {})
        opened.made_of()
        with _watch(opened) if found.get("kind") in WATCHED else nullcontext():
            yield opened
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    except Exception as error:
        said = without_secrets(str(error))
        opened.tags({"error": said, NOTE: f"Failed: {said}"})
        raise
    finally:
        opened.end(status)


@contextmanager
def pipeline_run(prefect_run: str = "", repository: Path = REPOSITORY, name: str = PIPELINE) -> Iterator[tuple[Run, dict[str, str]]]:
    """The run that the stages' runs are nested under, and the environment variables that pass it to the stages.

    Args:
        name: what is about to be done; the tag `NAME` changes it to what was.
    """
    tags = {"prefect.flow_run_id": prefect_run} if prefect_run else {}
    with run(name, tags={"kind": PIPELINE, **tags}, repository=repository) as opened:
        yield opened, {PIPELINE_RUN: opened.record.key, PREFECT_RUN: prefect_run}
        opened.made_of()  # of all that its stages did


@contextmanager
def _watch(opened: Run) -> Iterator[None]:
    """Keep the machine's load every `WATCH_S` under the names that MLflow's page of system metrics shows; none of shorter stages."""
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    monitors: list[BaseMetricsMonitor] = [CPUMonitor(), NetworkMonitor()]
    with suppress(ImportError, RuntimeError):  # no GPU, or none that NVIDIA's library tells of
        monitors.append(GPUMonitor())
    ended = threading.Event()

    def watch() -> None:
        step = 0
        while not ended.wait(WATCH_S):
            for monitor in monitors:
                monitor.collect_metrics()
                opened.keep(timed({f"system/{key}": value for key, value in monitor.aggregate_metrics().items()}, step))
                monitor.clear_metrics()
            step += 1

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def children(opened: Run) -> dict[str, str]:
    """Names and ids of the runs inside a run; of several of one name the newest. Empty if the store does not answer."""
    from mlflow.exceptions import MlflowException

    if not opened.answers:
        return {}
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

    return [Metric(key, number, at, of_step, model_id=model_id) for key, number, at, of_step in timed(values, step)]


def timed(values: Mapping[str, Any], step: int = 0) -> list[list[Any]]:
    """The `numbers` of a nested mapping as key, value, time in ms and step, measured now."""
    now = time.time_ns() // 1_000_000
    return [[key_name(key), value, now, step] for key, value in numbers(values).items()]


def key_name(name: str) -> str:
    """`name` with the characters that MLflow refuses in keys replaced: train@NAME → train NAME."""
    kept = "".join(c if c.isalnum() or c in "_-. /" else " " for c in name)
    return " ".join(kept.split())
