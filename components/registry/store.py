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

from components.base import processes
from components.base.config import REPOSITORY
from components.base.errors import FarposeError
from components.registry import moved
from components.registry.secrets import without_secrets

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
CONNECT_S = 10  # whole seconds
LOCK_S = 60.0  # how long a locked database is tried again
_patience: ContextVar[float | None] = ContextVar("patience", default=None)  # in place of LOCK_S
DRIVERS = {"psycopg2": "make setup EXTRAS=postgres", "MySQLdb": "uv pip install mysqlclient"}  # what installs a module
ROOT = "MLFLOW_DEFAULT_ARTIFACT_ROOT"  # where a database's artifacts lie, such as s3://BUCKET/FOLDER; MLflow's own name for it
UNWILLING = ("error code 401", "error code 403", "password authentication failed", "does not exist", "out-of-date database schema")
EXPERIMENTS = (".dvc", "tmp", "exps")  # where DVC puts such copies
PID, STARTED, HOST = "farpose.pid", "farpose.pid_started", "farpose.host"


class Down(FarposeError):
    """The store does not answer now. What stages say waits until it does, see `components.registry.waiting`."""


def folder_of(repository: Path = REPOSITORY) -> Path:
    """`mlruns` of the repository; of the one that queued it for the copy in which DVC runs a queued experiment and then deletes."""
    parts = repository.parts
    for place in range(len(parts) - len(EXPERIMENTS)):
        if parts[place : place + len(EXPERIMENTS)] == EXPERIMENTS:
            return Path(*parts[:place], "mlruns")
    return repository / "mlruns"


def tracking_uri(repository: Path = REPOSITORY) -> str:
    """MLFLOW_TRACKING_URI if set, else that of the repository's own store."""
    return os.environ.get("MLFLOW_TRACKING_URI") or own_uri(repository)


def own_uri(repository: Path = REPOSITORY) -> str:
    """`mlflow.db` in `folder_of` the repository.

    Raises:
        FarposeError: no SQLite address can name that file.
    """
    return sqlite_address(folder_of(repository) / "mlflow.db", "MLFLOW_TRACKING_URI")


def sqlite_address(path: Path, variable: str) -> str:
    """SQLAlchemy takes a path as it is, unquoted, but for what follows a `?`: the file would lie outside of the clone.

    Args:
        variable: of the environment, that names another place.
    """
    if "?" in str(path):
        fix = f"move the clone to a path without one, or name another place with {variable}"
        raise FarposeError("a database in a path with a question mark cannot be opened", where=path, fix=fix)
    return f"sqlite:///{path}"


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
        Down: the store does not answer.
        FarposeError: what a person must mend: a damaged store, one of another version, a driver that is missing.
    """
    import logging

    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    for noisy in ("mlflow", "alembic"):  # a line for each table they make, and warnings about conda
        logging.getLogger(noisy).setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs what it raises
    uri = tracking_uri(repository)
    patient = _patience.get()
    deadline = time.monotonic() + (LOCK_S if patient is None else patient)
    while True:
        try:
            _connect(uri)
            return _open(uri, folder_of(repository))
        except (MlflowException, SQLAlchemyError, OSError) as error:
            if LOCKED not in str(error) or time.monotonic() > deadline:
                raise _explained(error, uri, folder_of(repository)) from error
        except ModuleNotFoundError as error:  # SQLAlchemy asks for the module of a dialect
            if uri.startswith("sqlite:"):
                raise
            fix = f"`{DRIVERS.get(str(error.name), f'uv pip install {error.name}')}`, or unset MLFLOW_TRACKING_URI"
            raise FarposeError(f"no MLflow store: the driver {error.name} is missing", where=shown(uri), fix=fix) from error
        time.sleep(1.0)


def _connect(uri: str) -> None:
    """One connection to a database server: MLflow itself tries for 100 s when it is gone, or refuses the password.

    Raises:
        SQLAlchemyError: in the driver's words.
        ModuleNotFoundError: the driver is missing.
    """
    from sqlalchemy import NullPool, create_engine
    from sqlalchemy.engine import make_url

    if uri.startswith(("sqlite:", "http:", "https:")):
        return
    timeout = {"connect_timeout": CONNECT_S} if make_url(uri).get_backend_name() in ("postgresql", "mysql") else {}
    create_engine(uri, poolclass=NullPool, connect_args=timeout).connect().close()


def _open(uri: str, folder: Path) -> tuple[MlflowClient, str]:
    import mlflow
    from filelock import FileLock
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from mlflow.tracking import MlflowClient

    folder.mkdir(exist_ok=True)
    with FileLock(folder / ".store.lock"):  # stages that start together would each make the tables
        mlflow.set_tracking_uri(uri)
        artifacts = None if uri.startswith(("http:", "https:")) else os.environ.get(ROOT) or (folder / "artifacts").as_uri()
        if artifacts and uri.startswith(
            "sqlite:"
        ):  # MLflow writes this place into SQL as text, without it the working directory, where quotes may be
            SqlAlchemyStore(uri, artifacts)
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            experiment_id = client.create_experiment(EXPERIMENT, artifact_location=artifacts, tags=EXPERIMENT_TAGS)
        else:
            experiment_id = experiment.experiment_id
            if uri == f"sqlite:///{folder / 'mlflow.db'}":
                moved.follow(folder / "mlflow.db", experiment.artifact_location, folder / "artifacts")
        close_crashed(client, experiment_id)
    return client, experiment_id


def _explained(error: Exception, uri: str, folder: Path) -> FarposeError:
    """The way out of what a store says when it does not open."""
    said, kind = without_secrets(" ".join(re.split(r"\[SQL:|\(Background on", str(error))[0].split())), FarposeError
    if (isinstance(error, OSError) and error.filename) or any(sign in said for sign in READ_ONLY):
        problem, fix = "it cannot be written", f"make {folder} and all in it writable"
    elif not uri.startswith("sqlite:"):
        problem, fix = said[:300], "start it, set MLFLOW_TRACKING_URI to a store that answers, or unset it"
        kind = FarposeError if any(sign in said for sign in UNWILLING) else Down
    elif LOCKED in said:
        problem, fix = "another process keeps the database locked", f"wait for it or end it; `fuser {folder}/mlflow.db` names it"
        kind = Down
    elif any(sign in said for sign in DAMAGED):
        problem = "the database is damaged"
        fix = "put a backup in its place, or move it away: `farpose run` then makes a new one and registers the models again"
    else:
        problem, fix = said[:300], "see mlruns/README.md"
    return kind(f"no MLflow store: {problem}", where=shown(uri), fix=fix)


def shown(uri: str) -> str:
    """The address without a name and password in it."""
    return without_secrets(uri)


def close_crashed(client: MlflowClient, experiment_id: str) -> list[str]:
    """Close as KILLED the runs of this host that are still RUNNING while their process is gone; their ids."""
    query = f"attributes.status = 'RUNNING' and tags.`{HOST}` = '{socket.gethostname()}'"
    runs = client.search_runs([experiment_id], query)
    dead = [run.info.run_id for run in runs if is_dead(run.data.tags)]
    for run_id in dead:
        client.set_terminated(run_id, status="KILLED")
    return dead


def process_tags() -> dict[str, str]:
    """Tags by which a later process sees whether the process that owns a run still runs."""
    pid, _, started = processes.this_process().partition(":")
    return {PID: pid, STARTED: started, HOST: socket.gethostname()}


def is_dead(tags: dict[str, str]) -> bool:
    """Whether a run's `process_tags` name a process of this host that is gone."""
    return tags.get(HOST) == socket.gethostname() and processes.living(f"{tags.get(PID)}:{tags.get(STARTED)}") is None
