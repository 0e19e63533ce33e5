"""Fixtures every test may use. Nothing here reaches the internet."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from components.pose.persons import Persons

REPOSITORY = Path(__file__).resolve().parents[1]
LONGEST = ("test_pipeline.py", "test_contributing_dataset.py", "test_cli.py", "test_resume.py", "test_registry.py", "test_flow.py")


def pytest_configure() -> None:
    """A shell's background job ignores Ctrl-C, and so would all processes that the tests start and interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, so that no worker is left with one at the end (`make test` gives a file to one worker)."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def parity() -> Path:
    """Folder of reference tensors made with the authors' published code."""
    return _beside("parity", "FARPOSE_PARITY", "reference tensors")


@pytest.fixture(scope="session")
def cases() -> Path:
    """Folder of small inputs that once failed."""
    return _beside("cases", "FARPOSE_CASES", "small inputs")


def _beside(name: str, variable: str, what: str) -> Path:
    """The folder that the environment names, or that of this name in shared/ beside the repository."""
    folder = Path(os.environ.get(variable, REPOSITORY.parent / "shared" / name))
    if not folder.is_dir():
        pytest.skip(f"no {what} here; set {variable} to their folder")
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real annotated images."""
    value = os.environ.get("FARPOSE_DATA")
    if not value:
        pytest.skip("FARPOSE_DATA is unset: no real images to test on")
    return Path(value).resolve()


@pytest.fixture(autouse=True)
def no_store_of_another_test() -> None:
    """MLflow exports the store that was opened last, and the next test of the same process would find it there."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> tuple[Persons, Path]:
    """A table of small persons, and the folder of their images."""
    from tests.tiny_people import tiny_people

    root = tmp_path_factory.mktemp("people")
    return tiny_people(root), root


@pytest.fixture(scope="session")
def empty_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables of MLflow's store without a run; they take seconds to make."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("tables") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path
