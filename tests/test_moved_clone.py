"""A clone that was moved: the pages of `make ui` show its pictures and models from the new place."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.faults import wait_until
from tests.mlflow_server import free_port, run_with_picture
from tests.repositories import PYTHON, toy_on_copy, variables

pytestmark = [pytest.mark.slow, pytest.mark.operation, pytest.mark.timeout(1800)]
PICTURE = b"\x89PNG" + bytes(range(256))


@contextmanager
def pages(folder: Path) -> Iterator[str]:
    """`make ui` of a clone until the block ends; the address of MLflow."""
    ports = {"MLFLOW_PORT": str(free_port()), "PREFECT_PORT": str(free_port())}
    log = folder.parent / "ui.txt"
    with open(log, "w") as stream:
        process = subprocess.Popen(
            [PYTHON, "-m", "pipelines.servers"], cwd=folder, env=variables() | ports, stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        wait_until(lambda: "Ctrl-C stops both" in log.read_text() or process.poll() is not None, "the servers of `make ui`", 600)
        assert process.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{ports['MLFLOW_PORT']}"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(120)


def shown(address: str, run_id: str) -> list[bytes]:
    """The picture as the page of the run asks for it, and as that of the registered model's version does."""
    asked = {
        "get-artifact": {"path": "picture.png", "run_uuid": run_id},
        "model-versions/get-artifact": {"path": "picture.png", "name": "x", "version": "1"},
    }
    return [requests.get(f"{address}/{page}", params, timeout=120).content for page, params in asked.items()]


def test_the_pages_show_pictures_and_models_after_the_clone_was_moved(tmp_path, empty_tables):
    before, after = toy_on_copy(tmp_path / "a clone"), tmp_path / "new place" / "clone"
    (before / "mlruns" / "mlflow.db").write_bytes(empty_tables.read_bytes())
    run_id = run_with_picture(before, tmp_path / "model", PICTURE)
    after.parent.mkdir()
    os.rename(before, after)
    with pages(after) as address:
        assert shown(address, run_id) == [PICTURE, PICTURE]
