"""Where MLflow's runs and models are stored: an embedded SQLite store, or the server that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from components.base.config import REPOSITORY
from components.base.errors import FarposeError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

EXPERIMENT = "farpose"
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # opens MLflow's page for training, not the one for language models
    "mlflow.note.content": "One run per pipeline, with one run per DVC stage inside. Models are registered under their variant's name.",
}
LOCKED = "database is locked"  # in SQLite's words, as those below
DAMAGED = ("file is not a database", "malformed", "file is encrypted")
READ_ONLY = ("readonly database", "unable to open database file")
LOCK_S = 60.0  # how long a locked database is tried again
_patience = ContextVar("patience", default=LOCK_S)
DRIVERS = {"psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}  # packages by their modules
EXPERIMENTS = (".dvc", "tmp", "exps")  # where DVC puts such copies
PID, STARTED, HOST = "farpose.pid", "farpose.pid_started", "farpose.host"


def folder_of(repository: Path = REPOSITORY) -> Path:
    """`mlruns` of the repository; of the one that queued it for the copy in which DVC runs a queued experiment and then deletes."""
    parts = repository.parts
    for place in range(len(parts) - len(EXPERIMENTS)):
        if parts[place : place + len(EXPERIMENTS)] == EXPERIMENTS:
            return Path(*parts[:place], "mlruns")
    return repository / "mlruns"


def tracking_uri(repository: Path = REPOSITORY) -> str:
    """MLFLOW_TRACKING_URI if set, else `mlflow.db` in `folder_of` the repository."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder_of(repository) / 'mlflow.db'}"


def exists(repository: Path = REPOSITORY) -> bool:
    """Whether somebody made or named a store; reading from one that nobody made would make it."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI")) or (folder_of(repository) / "mlflow.db").is_file()


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Meanwhile a locked database is tried again for so long."""
    before = _patience.set(seconds)
    try:
        yield
    finally:
        _patience.reset(before)


def open_store(repository: Path = REPOSITORY) -> tuple[MlflowClient, str]:
    """A client and the id of experiment `farpose`, which is made on first use; runs that a crash left open are closed.

    Raises:
        FarposeError: the store does not answer or is of another version.
    """
    import logging

    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    for noisy in ("mlflow", "alembic"):  # a line for each table they make, and warnings about conda
        logging.getLogger(noisy).setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs what it raises
    uri = tracking_uri(repository)
    deadline = time.monotonic() + _patience.get()
    while True:
        try:
            return _open(uri, folder_of(repository))
        except (MlflowException, SQLAlchemyError, OSError) as error:
            if LOCKED not in str(error) or time.monotonic() > deadline:
                raise _explained(error, uri, folder_of(repository)) from error
        except ModuleNotFoundError as error:  # SQLAlchemy asks for the module of a dialect
            if uri.startswith("sqlite:"):
                raise
            fix = f"`uv pip install {DRIVERS.get(str(error.name), error.name)}` in .venv, or unset MLFLOW_TRACKING_URI"
            raise FarposeError(f"no MLflow store: the driver {error.name} is missing", where=_shown(uri), fix=fix) from error
        time.sleep(1.0)


def _open(uri: str, folder: Path) -> tuple[MlflowClient, str]:
    import mlflow
    from filelock import FileLock
    from mlflow.tracking import MlflowClient

    folder.mkdir(exist_ok=True)
    with FileLock(folder / ".store.lock"):  # stages that start together would each make the tables
        mlflow.set_tracking_uri(uri)
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            artifacts = (folder / "artifacts").as_uri() if uri.startswith("sqlite:") else None
            experiment_id = client.create_experiment(EXPERIMENT, artifact_location=artifacts, tags=EXPERIMENT_TAGS)
        else:
            experiment_id = experiment.experiment_id
        close_crashed(client, experiment_id)
    return client, experiment_id


def _explained(error: Exception, uri: str, folder: Path) -> FarposeError:
    """The way out of what a store says when it does not open."""
    said = " ".join(str(error).split("[SQL:")[0].split())
    if not uri.startswith("sqlite:") and not isinstance(error, OSError):
        problem, fix = said[:300], "set MLFLOW_TRACKING_URI to a store that answers, or unset it"
    elif LOCKED in said:
        problem, fix = "another process keeps the database locked", f"wait for it or end it; `fuser {folder}/mlflow.db` names it"
    elif any(sign in said for sign in DAMAGED):
        problem = "the database is damaged"
        fix = "put a backup in its place, or move it away: `farpose run` then makes a new one and registers the models again"
    elif isinstance(error, OSError) or any(sign in said for sign in READ_ONLY):
        problem, fix = "it cannot be written", f"make {folder} and all in it writable"
    else:
        problem, fix = said[:300], "see mlruns/README.md"
    return FarposeError(f"no MLflow store: {problem}", where=_shown(uri), fix=fix)


def _shown(uri: str) -> str:
    """The address without a name and password in it."""
    return re.sub(r"//[^/@]*@", "//", uri)


def close_crashed(client: MlflowClient, experiment_id: str) -> list[str]:
    """Close as KILLED the runs of this host that are still RUNNING while their process is gone; their ids."""
    query = f"attributes.status = 'RUNNING' and tags.`{HOST}` = '{socket.gethostname()}'"
    runs = client.search_runs([experiment_id], query)
    dead = [run.info.run_id for run in runs if not _alive(run.data.tags)]
    for run_id in dead:
        client.set_terminated(run_id, status="KILLED")
    return dead


def process_tags() -> dict[str, str]:
    """Tags by which a later process sees whether the process that owns a run still runs."""
    import psutil

    return {PID: str(os.getpid()), STARTED: f"{psutil.Process().create_time():.2f}", HOST: socket.gethostname()}


def _alive(tags: dict[str, str]) -> bool:
    import psutil

    try:
        started = psutil.Process(int(tags[PID])).create_time()
    except (psutil.NoSuchProcess, KeyError, ValueError):
        return False
    return abs(started - float(tags.get(STARTED, started))) < 1.0  # not another process under a number used again
