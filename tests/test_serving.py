"""`make serve`, `farpose schedule` and `make stop` with the real servers, in a clone whose path has a space, behind a proxy."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from components.base.files import read_json
from pipelines import served
from tests.repositories import PYTHON, assert_one_line, farpose, module, python, toy_on_copy, variables

CLOSED = "http://127.0.0.1:9"  # nothing listens on the discard port
PROXIES = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"), CLOSED)
NAMES = ["mlflow-server", "prefect-server", "prefect-worker"]
PATIENCE_S = 900.0  # a machine that does much else takes minutes for a run
PLANNED = r"nightly \d{4}-\d\d-\d\d 18:00 UTC"  # 3 o'clock in Tokyo


def free_ports(number: int) -> list[str]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [str(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class Clone:
    """A clone with servers of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = toy_on_copy(folder)
        self.ports = dict(zip(("MLFLOW_PORT", "PREFECT_PORT"), free_ports(2), strict=True))
        self.api = f"http://127.0.0.1:{self.ports['PREFECT_PORT']}/api"
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers["Accept"] = "text/html, application/json"  # as a browser asks for pages

    def make(self, *arguments: str) -> str:
        """`make serve` and `make stop`, but for the target's check of .venv."""
        done = module(self.folder, "pipelines.serving", *arguments, **self.ports, **PROXIES)
        assert done.returncode == 0, done.stdout + done.stderr + self.logs()
        return done.stdout

    def schedule(self, *arguments: str) -> str:
        done = farpose(self.folder, "schedule", *arguments, **PROXIES)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def runs(self, *states: str) -> dict[str, str]:
        """Names and states of the flow's runs in these states, as Prefect's API tells."""
        asked = {"flow_runs": {"state": {"type": {"any_": list(states)}}}}
        return {run["name"]: run["state_type"] for run in self.session.post(f"{self.api}/flow_runs/filter", json=asked, timeout=120).json()}

    def miss(self, minutes: int) -> str:
        """Let the server plan runs in these last minutes, as if no worker had been there; the time now."""
        now = datetime.now(UTC)
        self.plan(now - timedelta(minutes=minutes), now, minutes)
        return now.isoformat()

    def plan(self, begin: datetime, end: datetime, number: int) -> None:
        """Let the server plan runs of the schedule between two times, as its scheduler does."""
        deployment = self.session.get(f"{self.api}/deployments/name/nightly/nightly", timeout=120).json()["id"]
        asked = {"start_time": begin.isoformat(), "end_time": end.isoformat(), "min_runs": number}
        self.post(f"deployments/{deployment}/schedule", asked)

    def due_before(self, moment: str) -> list[str]:
        """States of the runs that were due before a time."""
        asked = {"flow_runs": {"expected_start_time": {"before_": moment}}}
        return [run["state_type"] for run in self.session.post(f"{self.api}/flow_runs/filter", json=asked, timeout=120).json()]

    def press_run(self, name: str, /, **parameters: Any) -> str:
        """Press *Run* on a deployment's page; the id of the flow run."""
        deployment = self.session.get(f"{self.api}/deployments/name/{name}/{name}", timeout=120).json()
        asked = {"state": {"type": "SCHEDULED"}, "parameters": {**deployment["parameters"], **parameters}}
        return str(self.post(f"deployments/{deployment['id']}/create_flow_run", asked).json()["id"])

    def post(self, path: str, asked: dict[str, Any]) -> requests.Response:
        """Prefect's answer; while its database is locked by one of its services it answers 503, and its own clients ask again."""

        def answer() -> requests.Response | None:
            found = self.session.post(f"{self.api}/{path}", json=asked, timeout=120)
            assert found.ok or found.status_code == 503, found.text
            return found if found.ok else None

        made: requests.Response = self.wait(answer, f"an answer to {path}")
        return made

    def run(self, flow_run: str) -> dict[str, Any]:
        """A flow run as Prefect's API tells it."""
        found: dict[str, Any] = self.session.get(f"{self.api}/flow_runs/{flow_run}", timeout=120).json()
        return found

    def wait(self, until: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while not (found := until()):
            assert time.monotonic() < deadline, f"not within {PATIENCE_S:.0f} s: {what}\n{self.logs()}"
            time.sleep(0.5)
        return found

    def pid(self, name: str) -> int:
        pid: int = read_json(self.folder / "mlruns" / "served.json")["processes"][name][0]
        return pid

    def processes(self) -> list[str]:
        """Every process that works in the clone or names it, found without the clone's own record."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and (process.cwd() == str(self.folder) or str(self.folder) in " ".join(process.cmdline())):
                    found.append(" ".join(process.cmdline()))
            except psutil.Error:
                continue
        return found

    def logs(self) -> str:
        return "\n".join(f"== {log.name}\n{log.read_text()[-3000:]}" for log in sorted((self.folder / "mlruns").glob("*.log")))


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Clone]:
    made = Clone(tmp_path / "with a space" / "clone")
    yield made
    module(made.folder, "pipelines.serving", "stop")
    assert made.processes() == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_schedule_makes_a_run_that_the_worker_completes_and_stop_leaves_nothing(clone):
    said = clone.make()
    pages = [word for word in said.split() if word.startswith("http://")]
    assert len(pages) == 4 and all(clone.session.get(page, timeout=120).status_code == 200 for page in pages)
    first = {name: clone.pid(name) for name in NAMES}
    assert clone.make().startswith("all run already") and {name: clone.pid(name) for name in NAMES} == first
    assert_one_line(module(clone.folder, "pipelines.servers", **clone.ports), "make ui: the servers of `make serve` run already")

    clone.schedule("0 3 * * *", "--timezone", "Asia/Tokyo")
    assert len(clone.runs("SCHEDULED")) == 3 and all(re.fullmatch(PLANNED, name) for name in clone.runs("SCHEDULED"))
    assert "nightly runs at * * * * * (UTC)\nnext run: " in clone.schedule("* * * * *")
    name = next(iter(clone.wait(lambda: clone.runs("COMPLETED"), "a completed run")))
    assert name.startswith("nightly 20") and name.endswith(" UTC, all stages")
    assert (clone.folder / "last.txt").read_text().count("work") == 2
    told = python(clone.folder, "from pipelines.commands import doctor; print(*doctor._stores())")
    assert f"{clone.api} (make serve)" in told.stdout, told.stderr
    assert clone.schedule("off") == "the schedule is off\n" and clone.runs("SCHEDULED") == {}

    (clone.folder / "mode-x.txt").write_text("hang\n")
    assert clone.schedule("* * * * *", "--timezone", "Europe/Berlin").split()[-1] in ("CET", "CEST")
    log = clone.folder / "mlruns" / "prefect-worker.log"
    clone.wait(lambda: "hanging" in log.read_text(), "a stage that hangs")
    waiting = clone.press_run("nightly")  # it is due while the one before it is being ended
    clone.wait(lambda: clone.run(waiting)["state"]["name"] == "Late", "a run that waits for the one before it")
    assert clone.make("stop") == "stopped: mlflow-server, prefect-server, prefect-worker\n"  # the run ended itself and its stage
    assert clone.processes() == []
    assert clone.make("stop") == "nothing runs that `make serve` started\n"

    (clone.folder / "mode-x.txt").write_text("work\n")
    clone.make()
    clone.schedule("off")
    clone.wait(lambda: clone.run(waiting)["state"]["type"] == "COMPLETED", "the run that waited")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_what_died_is_started_again_or_stopped_and_the_schedule_stays(clone):
    clone.make()
    (clone.folder / "mode-x.txt").write_text("hang\n")
    clone.schedule("* * * * *")
    log = clone.folder / "mlruns" / "prefect-worker.log"
    clone.wait(lambda: "hanging" in log.read_text(), "a stage that hangs")
    os.kill(clone.pid("prefect-worker"), signal.SIGKILL)
    (clone.folder / "mode-x.txt").write_text("work\n")
    kept = {name: clone.pid(name) for name in NAMES[:2]}
    missed = clone.miss(minutes=30)
    assert len(clone.due_before(missed)) >= 30
    assert clone.make().startswith("mlflow-server, prefect-server: running; starting prefect-worker\n")
    assert {name: clone.pid(name) for name in NAMES[:2]} == kept
    assert len(clone.runs("CRASHED")) == 1  # no run stays RUNNING
    minutes = int((datetime.now(UTC) - datetime.fromisoformat(missed)).total_seconds() // 60) + 1  # in which further ones may fall due
    left = [state for state in clone.due_before(datetime.now(UTC).isoformat()) if state != "CRASHED"]
    assert 1 <= len(left) <= 1 + minutes < 30, left  # one run for all that were missed
    clone.wait(lambda: clone.runs("COMPLETED"), "a completed run of the same schedule")

    os.kill(clone.pid("mlflow-server"), signal.SIGKILL)
    again = module(clone.folder, "pipelines.serving", MLFLOW_PORT="1", **PROXIES)  # the worker expects it at its old port
    assert again.stdout.startswith("prefect-server, prefect-worker: running; starting mlflow-server\n"), again.stderr
    assert f"MLflow   http://127.0.0.1:{clone.ports['MLFLOW_PORT']}/" in again.stdout

    os.kill(clone.pid("prefect-server"), signal.SIGKILL)
    assert clone.make("stop") == "stopped: mlflow-server, prefect-worker; had ended before: prefect-server\n"
    assert clone.processes() == []


def deploy(clone: Clone, flow: str, name: str, entrypoint: str, cron: str, **more: Any) -> str:
    """A deployment in the clone's pool, with planned runs, made by other code than the clone's; its id."""
    flow_id = clone.post("flows/", {"name": flow}).json()["id"]
    schedule = {"schedule": {"cron": cron, "timezone": "Europe/Berlin"}, "active": True}
    asked = {"flow_id": flow_id, "name": name, "entrypoint": entrypoint, "work_pool_name": "farpose", "schedules": [schedule], **more}
    made = str(clone.post("deployments/", asked).json()["id"])
    clone.post(f"deployments/{made}/schedule", {})
    return made


def schedules(clone: Clone) -> dict[str, list[tuple[str, bool]]]:
    """Cron and whether it is active, per deployment that the server has, by entrypoint."""
    found = clone.session.post(f"{clone.api}/deployments/filter", json={}, timeout=120).json()
    return {one["entrypoint"]: [(entry["schedule"]["cron"], entry["active"]) for entry in one["schedules"]] for one in found}


def due(clone: Clone, but: str) -> list[str]:
    """When planned runs start, but those of one deployment."""
    asked = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    found = clone.session.post(f"{clone.api}/flow_runs/filter", json=asked, timeout=120).json()
    return [run["expected_start_time"] for run in found if run["deployment_id"] != but]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_deployments_of_an_earlier_release_end_and_their_schedule_starts_once(clone):
    """The releases before the four flows had one deployment, `nightly` of the flow `farpose`; it is left in the server's database."""
    clone.make()
    former = {"entrypoint": "pipelines/flows.py:farpose_flow", "parameters": {"targets": None, "verify": True}, "concurrency_limit": 1}
    deploy(clone, "farpose", "nightly", cron="0 3 * * *", **former)
    mine = deploy(clone, "mine", "mine", entrypoint="mine.py:work", cron="0 5 1 * *")  # a person's own
    taken_over: dict[str, list[Any]] = {f"pipelines/flows.py:{name}": [] for name in ("reproduce", "ingest", "promote")}
    taken_over |= {"mine.py:work": [("0 5 1 * *", True)], "pipelines/flows.py:nightly": [("0 3 * * *", True)]}
    assert clone.make().startswith("all run already\n")  # as after `git pull`
    assert schedules(clone) == taken_over and len(due(clone, mine)) == len(set(due(clone, mine))) > 2
    assert "nightly runs at 0 3 * * * (Europe/Berlin)\nnext run: " in clone.schedule()

    deploy(clone, "farpose", "nightly", cron="30 4 * * *", **former)
    for name in ("prefect-server", "prefect-worker"):
        os.kill(clone.pid(name), signal.SIGKILL)
    assert clone.make().startswith("mlflow-server: running; starting prefect-server, prefect-worker\n")
    assert schedules(clone) == taken_over and len(due(clone, mine)) == len(set(due(clone, mine)))  # what a person chose since stands

    clone.schedule("off")
    deploy(clone, "farpose", "nightly", cron="30 4 * * *", paused=True, **former)
    clone.make()
    assert schedules(clone)["pipelines/flows.py:nightly"] == [("30 4 * * *", False)] and len(schedules(clone)) == 5
    assert "switched off on the deployment's page" in clone.schedule() and due(clone, mine) == []
    nightly = clone.session.get(f"{clone.api}/deployments/name/nightly/nightly", timeout=120).json()["id"]
    clone.post(f"deployments/{nightly}/pause_deployment", {})
    assert "the deployment is paused on its page: no run starts" in clone.schedule("* * * * *")
    clone.make()
    assert due(clone, mine) == []


SLEEPER = "import time; print(1, flush=True); time.sleep(600)"
PARENT = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEPER!r}], start_new_session=True).wait()"


def sleeper(code: str, mark: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([PYTHON, "-c", code], env={**variables(), served.MARK: mark}, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "1\n"
    return process


def runs(pid: int) -> bool:
    """Whether a process runs; one that ended may still be listed until its parent has asked."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_record_knows_its_processes_and_no_others_under_their_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(served, "RECORD", tmp_path / "served.json")
    record = served.Served()
    parent, other = sleeper(PARENT, record.mark), sleeper(SLEEPER, "another")
    try:
        record.add("server", parent.pid)
        record.processes["stranger"] = (other.pid, psutil.Process(other.pid).create_time() - 60)
        record.write()
        read = served.read()
        assert set(read.living()) == {"server"} and read.addresses == {}
        child = psutil.Process(parent.pid).children()[0].pid
        parent.kill()
        parent.wait()
        assert served.read().living() == {} and set(read.members()) == {child}  # by its mark, in a session of its own
        served.end(read.members, 5.0)
        assert read.members() == {} and not runs(child) and runs(other.pid)
    finally:
        for process in (parent, other):
            process.kill()
            process.wait()


def test_what_does_not_end_when_asked_is_killed():
    record = served.Served()
    stubborn = sleeper(f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}", record.mark)
    served.end(record.members, 0.5)
    assert stubborn.wait(10) == -signal.SIGKILL
