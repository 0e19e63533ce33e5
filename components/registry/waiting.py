"""What runs say, kept in `mlruns/waiting/` until the store has it: a store that does not answer holds no stage up, nothing is lost,
and nothing is written twice.

A record is the folder of one run:

journal.jsonl   one request a line, in the order in which they were made; the first makes the run, the last ends it
files/          the artifacts
sent.json       MLflow's id of the run, and how much of the journal the store has

Any process may send a record: its owner at once, and where that fails a later stage, `farpose run`, `make serve` or `make ui`. Every
request may be repeated without harm: the run is found again by the tag `farpose.record`, numbers carry the time at which they were
measured, and parameters, tags and artifacts replace themselves.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.base.files import full_disk_named, write_json
from components.registry import store
from components.registry.secrets import without_secrets

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

FOLDER = "waiting"
STORE = "FARPOSE_STORE"  # name of the store that a server of ours serves: records wait for the store, not for the server's port
KEY = "farpose.record"  # tag of a run: its record's key
JOURNAL, SENT, FILES = "journal.jsonl", "sent.json", "files"
BATCH = 200  # numbers per request
PARAMS_PER_REQUEST = 100
REFUSED = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")
BUSY_S = 600.0  # how long another process may send the same record


class Unsent(Exception):
    """The store does not take a request; what it says, in one line."""


@dataclass(frozen=True)
class Record:
    """One run's folder."""

    folder: Path

    @property
    def key(self) -> str:
        return self.folder.name.partition("-")[2]

    @property
    def journal(self) -> Path:
        return self.folder / JOURNAL

    def add(self, request: str, **values: Any) -> None:
        """Append a request, such as `tags` with its values; a disk that is full leaves no half line.

        Raises:
            FarposeError: the disk is full.
        """
        line = json.dumps({"request": request, **values}).encode() + b"\n"
        with full_disk_named(self.journal), open(self.journal, "ab", buffering=0) as stream:
            whole = stream.tell()
            try:
                while line:
                    line = line[stream.write(line) :]
            except OSError:
                os.truncate(self.journal, whole)
                raise

    def keep(self, path: Path, folder: str | None) -> None:
        """Copy a file, or a folder's content, as artifacts for `folder` of the run's page."""
        kept = Path(FILES, uuid.uuid4().hex)
        (self.folder / kept).mkdir(parents=True)
        whole = path.is_dir()
        if whole:
            shutil.copytree(path, self.folder / kept, dirs_exist_ok=True)
        else:
            shutil.copyfile(path, self.folder / kept / path.name)
        self.add("artifacts", kept=str(kept), name=None if whole else path.name, folder=folder)

    def first(self) -> dict[str, Any]:
        """The request that makes the run; empty if it was never written whole."""
        return next((request for request, _ in self.requests(0)), {})

    def ended(self) -> bool:
        return any(request["request"] == "end" for request, _ in self.requests(0))

    def requests(self, start: int) -> Iterator[tuple[dict[str, Any], int]]:
        """Whole requests from a place of the journal on, each with the place behind it; numbers that follow each other are joined."""
        joined: tuple[dict[str, Any], int] | None = None
        with open(self.journal, "rb") as stream:
            stream.seek(start)
            while (line := stream.readline()).endswith(b"\n"):
                request, place = json.loads(line), stream.tell()
                if joined and request["request"] == "metrics" and len(joined[0]["values"]) + len(request["values"]) <= BATCH:
                    joined = {**joined[0], "values": joined[0]["values"] + request["values"]}, place
                    continue
                if joined:
                    yield joined
                joined = (request, place) if request["request"] == "metrics" else None
                if joined is None:
                    yield request, place
        if joined:
            yield joined

    def unsent(self) -> int:
        """How many numbers the store does not have yet."""
        if not self.journal.is_file():
            return 0
        return sum(len(request["values"]) for request, _ in self.requests(self.sent()[0]) if request["request"] == "metrics")

    def sent(self) -> tuple[int, str]:
        """How many bytes of the journal the store has, and the run's id; 0 and empty at first."""
        try:
            found = json.loads((self.folder / SENT).read_text())
        except FileNotFoundError:
            return 0, ""
        return found["bytes"], found["run_id"]


def folder_of(repository: Path) -> Path:
    return store.folder_of(repository) / FOLDER


def begin(repository: Path, name: str, tags: dict[str, str], parent: str = "") -> Record:
    """A new record for a run.

    Args:
        tags: those of `store.process_tags` among them, by which a record whose process is gone is ended.
        parent: key of the record under whose run this one is nested.
    """
    key = uuid.uuid4().hex
    record = Record(folder_of(repository) / f"{time.time_ns():020d}-{key}")
    record.folder.mkdir(parents=True)
    start = time.time_ns() // 1_000_000
    record.add("run", name=name, tags={**tags, KEY: key}, parent=parent, start=start, store=name_of_store(repository))
    return record


def records(repository: Path, every: bool = False) -> list[Record]:
    """The records that wait for the present store, oldest first; with `every`, also those for other stores."""
    found = [Record(journal.parent) for journal in sorted(folder_of(repository).glob(f"*/{JOURNAL}"))]
    name = name_of_store(repository)
    return [record for record in found if every or record.first().get("store", name) == name]


def send_all(repository: Path, client: MlflowClient, experiment_id: str) -> int:
    """Send what earlier runs left, and end those whose process is gone; how many are whole now.

    Raises:
        Unsent: the store does not answer.
    """
    whole = 0
    for record in records(repository):
        first = record.first()
        if not first and time.time() - record.journal.stat().st_mtime > BUSY_S:  # killed before it wrote a line
            shutil.rmtree(record.folder, ignore_errors=True)
        if not first:
            continue
        if store.is_dead(first["tags"]) and not record.ended():
            _end(record)
        if record.ended():
            send(record, client, experiment_id)
            whole += 1
    for lock in folder_of(repository).glob("*.lock"):
        if not lock.with_suffix("").is_dir():
            lock.unlink(missing_ok=True)
    return whole


def send(record: Record, client: MlflowClient, experiment_id: str) -> str:
    """Send what the store does not have yet; the run's id. A record that is whole there is removed here.

    What the store refuses, because the run was deleted there or a value is none, is told and left out.

    Raises:
        Unsent: the store does not answer; the rest is sent another time.
    """
    from filelock import FileLock, Timeout

    lock = record.folder.with_name(f"{record.folder.name}.lock")
    try:
        with FileLock(lock, timeout=BUSY_S):
            if not record.journal.is_file():  # another process has sent it
                return run_of(record.key, client, experiment_id)
            run_id, ended = _send(record, client, experiment_id)
            if ended:
                shutil.rmtree(record.folder)
                lock.unlink(missing_ok=True)
            return run_id
    except Timeout as error:
        raise Unsent(f"another process has been sending it for {BUSY_S:.0f} s") from error


def run_of(key: str, client: MlflowClient, experiment_id: str) -> str:
    """The id of the run that a record made; empty if there is none. Of several, made when an answer was lost, one is kept."""
    runs = client.search_runs([experiment_id], f"tags.`{KEY}` = '{key}'")
    ids = sorted(run.info.run_id for run in runs)
    for more in ids[1:]:
        client.delete_run(more)
    return ids[0] if ids else ""


def _send(record: Record, client: MlflowClient, experiment_id: str) -> tuple[str, bool]:
    """The run's id, and whether the record is whole in the store."""
    done, run_id = record.sent()
    ended = False
    for request, place in record.requests(done):
        try:
            if request["request"] == "run":
                run_id = _make(record, request, client, experiment_id)
            else:
                _put(record, request, client, run_id)
        except Exception as error:  # each kind of store has errors of its own, and none may stop a stage
            said = without_secrets(" ".join(str(error).split()))[:300]
            if getattr(error, "error_code", None) not in REFUSED:
                raise Unsent(said) from error
            print(f"MLflow refuses {request['request']} of run {run_id}: {said}", file=sys.stderr)
        write_json(record.folder / SENT, {"bytes": place, "run_id": run_id})
        if "kept" in request:
            shutil.rmtree(record.folder / request["kept"], ignore_errors=True)
        ended = request["request"] == "end"
    return run_id, ended


def _make(record: Record, request: dict[str, Any], client: MlflowClient, experiment_id: str) -> str:
    """The run of a record, made if an earlier try did not."""
    tags = dict(request["tags"])
    if parent := _parent(record, request["parent"], client, experiment_id):
        tags["mlflow.parentRunId"] = parent
    if not run_of(record.key, client, experiment_id):
        client.create_run(experiment_id, start_time=request["start"], run_name=request["name"], tags=tags)
    return run_of(record.key, client, experiment_id)


def _parent(record: Record, key: str, client: MlflowClient, experiment_id: str) -> str:
    """The id of the run above; its own record is sent first. Empty if this store does not know it."""
    if not key:
        return ""
    waiting = next(record.folder.parent.glob(f"*-{key}"), None)
    return send(Record(waiting), client, experiment_id) if waiting else run_of(key, client, experiment_id)


def _put(record: Record, request: dict[str, Any], client: MlflowClient, run_id: str) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    kind, values = request["request"], request.get("values", [])
    if kind == "metrics":
        for start in range(0, len(values), BATCH):
            client.log_batch(run_id, metrics=[Metric(*value) for value in values[start : start + BATCH]])
    elif kind == "params":
        items = [Param(key, value) for key, value in values.items()]
        for start in range(0, len(items), PARAMS_PER_REQUEST):
            client.log_batch(run_id, params=items[start : start + PARAMS_PER_REQUEST])
    elif kind == "tags":
        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in values.items()])
    elif kind == "data":
        tags = [InputTag("mlflow.data.context", request["context"])] if request["context"] else []
        client.log_inputs(run_id, [DatasetInput(Dataset(**values), tags)])
    elif kind == "artifacts":
        kept = record.folder / request["kept"]
        if request["name"]:
            client.log_artifact(run_id, str(kept / request["name"]), request["folder"])
        else:
            client.log_artifacts(run_id, str(kept), request["folder"])
    elif kind == "end":
        client.set_terminated(run_id, status=request["status"], end_time=request["at"])


def _end(record: Record) -> None:
    """End the journal of a process that was killed, perhaps within a line."""
    whole = record.journal.read_bytes()
    with open(record.journal, "r+b") as stream:
        stream.truncate(whole.rfind(b"\n") + 1)
    record.add("end", status="KILLED", at=int(record.journal.stat().st_mtime * 1000))


def name_of_store(repository: Path) -> str:
    """The present store's address without a password, or what `STORE` calls it; empty for the one in the repository, which may be moved."""
    uri = store.tracking_uri(repository)
    if STORE in os.environ and uri.startswith("http"):
        return os.environ[STORE]
    return "" if uri == store.own_uri(repository) else store.shown(uri)
