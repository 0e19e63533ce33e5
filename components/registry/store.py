"""Where MLflow's runs and models are stored: an embedded SQLite store, or the server that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import os
import socket
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
PID, STARTED, HOST = "farpose.pid", "farpose.pid_started", "farpose.host"


def tracking_uri(repository: Path = REPOSITORY) -> str:
    """MLFLOW_TRACKING_URI if set, else `mlruns/mlflow.db` of the repository."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{repository / 'mlruns' / 'mlflow.db'}"


def exists(repository: Path = REPOSITORY) -> bool:
    """Whether somebody made or named a store; reading from one that nobody made would make it."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI")) or (repository / "mlruns" / "mlflow.db").is_file()


def open_store(repository: Path = REPOSITORY) -> tuple[MlflowClient, str]:
    """A client and the id of experiment `farpose`, which is made on first use; runs that a crash left open are closed.

    Raises:
        FarposeError: the store does not answer or is of another version.
    """
    import logging

    import mlflow
    from filelock import FileLock
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    for noisy in ("mlflow", "alembic"):  # a line for each table they make, and warnings about conda
        logging.getLogger(noisy).setLevel(logging.ERROR)
    uri = tracking_uri(repository)
    local = uri.startswith("sqlite:")
    folder = repository / "mlruns"
    try:
        folder.mkdir(exist_ok=True)
        with FileLock(folder / ".store.lock"):  # stages that start together would each make the tables
            mlflow.set_tracking_uri(uri)
            client = MlflowClient(uri)
            experiment = client.get_experiment_by_name(EXPERIMENT)
            if experiment is None:
                artifacts = (folder / "artifacts").as_uri() if local else None
                experiment_id = client.create_experiment(EXPERIMENT, artifact_location=artifacts, tags=EXPERIMENT_TAGS)
            else:
                experiment_id = experiment.experiment_id
            close_crashed(client, experiment_id)
    except (MlflowException, OSError) as error:
        fix = "set MLFLOW_TRACKING_URI to a store that answers" if not local else "see mlruns/README.md"
        raise FarposeError(f"no MLflow store: {' '.join(str(error).split())[:300]}", where=uri, fix=fix) from error
    return client, experiment_id


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
