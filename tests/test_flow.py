"""The driver of single stages, and the Prefect flow over DVC's graph, on a toy graph."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from pathlib import Path

import pytest
import yaml

from components.base.errors import FarposeError
from pipelines import graph, pages
from pipelines.driver import Driver
from tests.repositories import PYTHON, REPOSITORY, copy_of_this, dvc, git, processes_of, toy_repository


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return toy_repository(tmp_path / "toy")


def stage(repository: Path, name: str) -> graph.Stage:
    return next(stage for stage in graph.load(repository) if stage.name == name)


def driver(repository: Path, timeout_s: float = 60.0) -> tuple[Driver, list[str]]:
    lines: list[str] = []
    return Driver(repository, timeout_s, lines.append, max_parallel=2), lines


@pytest.mark.parametrize("which", ["toy", "this"])
def test_edges_are_those_that_dvc_draws(which, tmp_path):
    repository = toy_repository(tmp_path / "r") if which == "toy" else copy_of_this(tmp_path / "r")
    drawn = dvc(repository, "dag", "--dot").stdout
    edges = {(b, a) for a, b in re.findall(r'"([^"]+)" -> "([^"]+)"', drawn)}
    stages = graph.load(repository)
    assert {(stage.name, needed) for stage in stages for needed in stage.after} == edges
    order = [stage.name for stage in stages]
    assert all(order.index(needed) < order.index(stage.name) for stage in stages for needed in stage.after)


def test_a_part_of_the_graph_holds_what_it_needs(toy):
    stages = graph.load(toy)
    assert [stage.name for stage in graph.select(stages, ["middle@y"])] == ["first", "middle@y"]
    assert [stage.name for stage in graph.select(stages, ["middle"])] == ["first", "middle@x", "middle@y"]
    with pytest.raises(FarposeError, match=r"no stage 'midle'.*known: first"):
        graph.select(stages, ["midle"])


def test_a_broken_graph_is_one_line(toy):
    (toy / "dvc.yaml").write_text("stages: {a: {cmd: 1, outs: [")
    with pytest.raises(FarposeError, match=r"^dvc\.yaml: .*"):
        graph.load(toy)


def test_dvc_decides_run_skip_or_restore(toy):
    work, _ = driver(toy)
    assert [work.reproduce(stage(toy, name)).outcome for name in ("first", "middle@x", "middle@x")] == ["ran", "ran", "unchanged"]
    made = (toy / "middle-x.txt").read_text()
    (toy / "mode-x.txt").write_text("other\n")
    assert work.reproduce(stage(toy, "middle@x")).outcome == "ran"
    (toy / "mode-x.txt").write_text("work\n")
    assert work.reproduce(stage(toy, "middle@x")).outcome == "restored"
    assert (toy / "middle-x.txt").read_text() == made
    assert work.reproduce(stage(toy, "middle@x"), force=True).outcome == "ran"


def test_a_flow_that_leaves_something_to_do_says_so(toy):
    from pipelines import reproduction

    work, _ = driver(toy)
    for one in graph.load(toy):
        work.reproduce(one)
    reproduction._require_clean(work)
    (toy / "mode-x.txt").write_text("other\n")
    with pytest.raises(FarposeError, match="DVC still sees changes in middle@x"):
        reproduction._require_clean(work)


@pytest.mark.parametrize("given", [None, "7"])
def test_stages_side_by_side_share_the_cores(toy, monkeypatch, given):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)  # a user's own choice stays
    (toy / "threads.py").write_text("import os\nprint(os.environ['OMP_NUM_THREADS'])\n")
    assert driver(toy)[0].command("threads", ["threads"]) == [given or "4"]


def test_a_failed_stage_says_why_and_leaves_the_earlier_outputs(toy):
    work, lines = driver(toy)
    for name in ("first", "middle@x"):
        work.reproduce(stage(toy, name))
    before = {path: (toy / path).read_bytes() for path in ("middle-x.txt", "metric-x.json", "first.txt")}
    (toy / "mode-x.txt").write_text("fail\n")
    with pytest.raises(FarposeError, match=r"^stage middle@x: rows\.json: row 7 is bad \(mend x\)$"):
        work.reproduce(stage(toy, "middle@x"))
    assert {path: (toy / path).read_bytes() for path in before} == before
    assert any(line.startswith("middle@x | farpose: error:") for line in lines)


def test_a_stage_that_takes_too_long_is_killed_with_its_children(toy):
    work, _ = driver(toy, timeout_s=6.0)
    work.reproduce(stage(toy, "first"))
    (toy / "mode-x.txt").write_text("hang\n")
    with pytest.raises(FarposeError, match=r"took longer than .*stage_timeout_hours"):
        work.reproduce(stage(toy, "middle@x"))
    assert not processes_of(toy)


def test_stopping_kills_what_runs_and_starts_nothing_more(toy):
    work, lines = driver(toy)
    work.reproduce(stage(toy, "first"))
    (toy / "mode-x.txt").write_text("hang\n")
    failures: list[BaseException] = []

    def reproduce() -> None:
        try:
            work.reproduce(stage(toy, "middle@x"))
        except FarposeError as error:
            failures.append(error)

    thread = threading.Thread(target=reproduce)
    thread.start()
    deadline = time.monotonic() + 30
    while not any("hanging" in line for line in lines) and time.monotonic() < deadline:
        time.sleep(0.1)
    work.stop()
    thread.join(30)
    assert "stopped" in str(failures[0]) and not processes_of(toy)
    with pytest.raises(FarposeError, match="stopped before it began"):
        work.reproduce(stage(toy, "middle@y"))


@pytest.fixture(scope="module")
def prefect(tmp_path_factory):
    """Prefect with a history of its own, its server started once."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=180):
        yield


def test_the_flow_runs_side_by_side_fails_in_one_line_and_continues(prefect, toy, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from pipelines import flows

    git(toy, "commit", "--quiet", "--allow-empty", "--message", "state")
    (toy / "mode-y.txt").write_text("fail\n")
    with pytest.raises(FarposeError, match=r"^stage middle@y: rows\.json: row 7 is bad"):
        flows.run(verify=False, repository=toy)
    assert (toy / "middle-x.txt").is_file() and not (toy / "last.txt").exists()  # what needs no failed stage has run

    (toy / "mode-y.txt").write_text("work\n")
    results = {result.name: result.outcome for result in flows.run(verify=False, repository=toy)}
    assert results == {"first": "unchanged", "middle@x": "unchanged", "middle@y": "ran", "last": "ran"}

    for item in "xy":
        (toy / f"mode-{item}.txt").write_text("again\n")
    assert {result.outcome for result in flows.run(verify=False, repository=toy)} == {"unchanged", "ran"}
    spans = [tuple(map(float, (toy / f"middle-{item}.txt").read_text().split()[1:])) for item in "xy"]
    assert max(start for start, _ in spans) < min(end for _, end in spans)

    assert dvc(toy, "status", "--json").stdout.strip() == "{}"
    assert statuses(toy) == ["FAILED", "FINISHED", "FINISHED"]


def test_what_passes_by_itself_is_tried_again_and_a_stages_own_error_is_not(prefect, toy, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from pipelines import flows, reproduction

    for name in ("_stage", "_verify"):
        monkeypatch.setattr(reproduction, name, getattr(reproduction, name).with_options(retry_delay_seconds=[0, 0, 0]))
    git(toy, "commit", "--quiet", "--allow-empty", "--message", "state")
    (toy / "mode-x.txt").write_text("busy\n")  # exits as a stage whose store is locked does, once
    assert {result.name: result.outcome for result in flows.run(["middle@x"], verify=False, repository=toy)}["middle@x"] == "ran"
    (toy / "middle.py").write_text("import sys\nopen('tries.txt', 'a').write('x')\nsys.exit('farpose: error: row 7 is bad')\n")
    (toy / "mode-x.txt").write_text("other\n")
    with pytest.raises(FarposeError, match="row 7 is bad"):
        flows.run(["middle@x"], verify=False, repository=toy)
    assert (toy / "tries.txt").read_text() == "x"


def test_runs_whose_process_is_gone_are_closed_and_no_others(prefect):
    import socket

    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.states import Running

    from components.base import processes
    from pipelines import flowruns, flows

    done = subprocess.Popen([PYTHON, "-c", ""])
    done.wait()
    here, gone = socket.gethostname(), f"{done.pid}:1.00"
    labels = {
        "killed": {flowruns.PROCESS: gone, flowruns.HOST: here},
        "alive": {flowruns.PROCESS: processes.this_process(), flowruns.HOST: here},
        "elsewhere": {flowruns.PROCESS: gone, flowruns.HOST: "another host"},
        "just begun": {},
    }
    with get_client(sync_client=True) as client:
        made = {name: client.create_flow_run(flows.reproduce, name=name, state=Running()) for name in labels}
        for name, values in labels.items():
            client.update_flow_run_labels(made[name].id, values)
        assert flowruns.close_dead((flows.reproduce.name,)) == ["killed"]
        found = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id for run in made.values()])))
        assert {run.name: run.state_type.name for run in found} == dict.fromkeys(labels, "RUNNING") | {"killed": "CRASHED"}
        for run in made.values():
            client.delete_flow_run(run.id)


def statuses(repository: Path) -> list[str]:
    """Statuses of the pipeline's MLflow runs, in order."""
    from components.registry import store

    client, experiment_id = store.open_store(repository)
    runs = client.search_runs([experiment_id], "tags.kind = 'pipeline'", order_by=["attributes.start_time ASC"])
    return [run.info.status for run in runs]


@pytest.mark.parametrize(
    ("stage", "modules"),
    [
        ("fetch", ["datasets.fetch", "datasets.manifest"]),
        ("validate", ["datasets.validate"]),
        ("degrade", ["degrade.stage", "degrade.contact_sheet"]),
        ("compare", ["evaluate.compare"]),
        ("report", ["evaluate.report", "evaluate.error_gains", "evaluate.error_pictures", "evaluate.usefulness_plot", "degrade.images"]),
    ],
)
def test_a_stage_depends_on_the_code_that_it_imports(stage, modules):
    """All of it but `base` (files, errors, parameters). What train, evaluate and register import is planned, see test_plan.py."""
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    entry = stages[stage]
    covered = [path for path in entry.get("do", entry)["deps"] if path.startswith("components/")]
    names = [f"components.{module}" for module in modules]
    code = (
        f"import importlib, sys; [importlib.import_module(name) for name in {names}]; "
        "print(*[module.__file__ for name, module in sys.modules.items() if name.startswith('components.')], sep='\\n')"
    )
    imported = subprocess.run([PYTHON, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()
    paths = [Path(path).relative_to(REPOSITORY).as_posix() for path in imported]
    wanted = [path for path in paths if not path.startswith("components/base/") and not path.endswith("__init__.py")]
    assert [path for path in wanted if not any(path == part or path.startswith(f"{part}/") for part in covered)] == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("| train@hrnet_w32_coco_64x48 | ran | 3 |", "| `train@hrnet_w32_coco_64x48` | ran | 3 |"),
        ("[degrade@direct_64x48](http://h/#/runs/1)", "[`degrade@direct_64x48`](http://h/#/runs/1)"),
        ("**refused: a_64x48_x2, version 1**", "**refused: `a_64x48_x2`, version 1**"),
        ("a_64x48@champion, `b_64x48`, AP 3", "`a_64x48@champion`, `b_64x48`, AP 3"),
        ("no size: toy_x2, 3 x 4, 0.1", "no size: toy_x2, 3 x 4, 0.1"),
        ("```\n64x48\n```", "```\n64x48\n```"),
        ("![curve](data:image/png;base64,a1x2b)", "![curve](data:image/png;base64,a1x2b)"),
    ],
)
def test_names_with_a_size_are_code_on_prefects_pages_so_that_their_x_stays(text, wanted):
    assert pages.verbatim(text) == wanted == pages.verbatim(wanted)
