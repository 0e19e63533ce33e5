"""Clones in folders with signs that addresses, shells and SQL take for their own: stores stay inside, or one line says that they cannot."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from components.base.errors import FarposeError
from components.registry import released, store
from tests.repositories import assert_one_line, copy_of_this, module, python
from tests.test_serving import PROXIES, Clone

NAMES = ["%2e%2e", "both ' and \""]
ALL = "100% a%20b #1 ü&'\"$(touch x);b=c@d+e :x \\n [a]"  # all at once
FLOW = "from pipelines import servers; servers.own_prefect(); from pipelines import flows; print(flows.run(verify=False))"
DOCTOR = "from pipelines.commands import doctor; print(*doctor._stores())"  # the whole command waits for torch
ARTIFACT = """
from pipelines import environment
from components.registry import tracking
from components.registry.store import open_store
with tracking.run("one") as run:
    run.artifact("middle.py", "folder")
client, _ = open_store()
print(open(client.download_artifacts(run.run_id, "folder/middle.py", "mlruns")).read() == open("middle.py").read())
"""


def databases(folder: Path) -> list[str]:
    """Every SQLite file under a folder, whatever its name."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 15]
    return sorted(path.relative_to(folder).as_posix() for path in files if path.open("rb").read(15) == b"SQLite format 3")


@pytest.mark.parametrize("name", [*NAMES, ALL])
def test_a_store_its_artifacts_and_models_stay_in_the_clone(name, tmp_path, monkeypatch):
    clone = tmp_path / "around" / name
    clone.mkdir(parents=True)
    monkeypatch.chdir(clone)  # MLflow takes its default place from the working directory
    client, experiment = store.open_store(clone)
    run = client.create_run(experiment).info.run_id
    (clone / "note.txt").write_text("kept")
    client.log_artifact(run, "note.txt", "folder")
    assert [found.path for found in client.list_artifacts(run, "folder")] == ["folder/note.txt"]
    (clone / "got").mkdir()
    assert Path(client.download_artifacts(run, "folder/note.txt", str(clone / "got"))).read_text() == "kept"
    client.create_registered_model("model")
    client.create_model_version("model", f"runs:/{run}/folder", run)
    assert store.open_store(clone)[0].get_model_version("model", "1").run_id == run
    assert databases(tmp_path) == [f"around/{name}/mlruns/mlflow.db"]
    assert [path.name for path in (tmp_path / "around").iterdir()] == [name]
    assert len(list(clone.glob("mlruns/artifacts/**/note.txt"))) == 1


def test_a_question_mark_is_refused_before_a_database_lies_elsewhere(tmp_path, monkeypatch):
    clone = tmp_path / "a?b"
    clone.mkdir()
    with pytest.raises(FarposeError, match=r"a\?b/mlruns/mlflow\.db: .*question mark.*move the clone.*MLFLOW_TRACKING_URI"):
        store.open_store(clone)
    assert list(tmp_path.rglob("*")) == [clone]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")  # the way out
    assert store.tracking_uri(clone) == f"sqlite:///{tmp_path}/other.db"


@pytest.mark.slow
def test_servers_flow_artifacts_and_models_in_a_path_with_every_sign(tmp_path):
    clone = Clone(tmp_path / "around" / ALL)
    try:
        said = clone.make()
        pages = [word for word in said.split() if word.startswith("http://")]
        assert len(pages) == 4 and all(clone.session.get(page, timeout=30).status_code == 200 for page in pages)
        through_the_server = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{clone.ports['MLFLOW_PORT']}"}
        for variables in ({}, through_the_server):
            done = python(clone.folder, ARTIFACT, **variables)
            assert done.stdout.endswith("True\n"), done.stdout + done.stderr
        done = python(clone.folder, FLOW, **PROXIES)  # on the server of `make serve`
        assert done.returncode == 0 and (clone.folder / "last.txt").is_file(), done.stdout + done.stderr
        assert f"version 1 of {released.read('pose_64x48').variant.name}" in done.stdout
    finally:
        clone.make("stop")
    shutil.rmtree(clone.folder / "mlruns" / "prefect")
    done = python(clone.folder, FLOW, **PROXIES)  # on a server of its own
    assert done.returncode == 0 and "outcome='unchanged'" in done.stdout, done.stdout + done.stderr
    mlruns = f"around/{ALL}/mlruns"
    assert [path for path in databases(tmp_path) if "/.dvc/" not in path] == [f"{mlruns}/mlflow.db", f"{mlruns}/prefect/prefect.db"]
    assert [path.name for path in (tmp_path / "around").iterdir()] == [ALL] and not list(tmp_path.rglob("x"))


@pytest.mark.slow
def test_commands_in_a_clone_with_a_question_mark_say_one_line(tmp_path):
    clone = copy_of_this(tmp_path / "a?b")
    for command in (("pipelines.cli", "run"), ("pipelines.serving",), ("pipelines.servers",)):
        assert_one_line(module(clone, *command), "question mark", "move the clone")
    told = python(clone, DOCTOR)
    assert "question mark" in told.stdout, told.stderr
    assert databases(tmp_path) == []
