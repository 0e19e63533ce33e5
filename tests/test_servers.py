"""The servers that we start: schedules make runs, a proxy does not come between, and errors reach the log files."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path

import pytest

from pipelines import environment
from tests.repositories import PYTHON, REPOSITORY, git, toy_repository

CLOSED = "http://127.0.0.1:9"  # nothing listens on the discard port
SERVED = """
import datetime, sys
from prefect.schedules import Interval
from pipelines import flows
soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=10)
schedule = Interval(datetime.timedelta(hours=1), anchor_date=soon)  # one run is due while the test waits
parameters = {"targets": ["first"], "verify": False, "repository": sys.argv[1]}
flows.reproduce.serve("hourly", schedule=schedule, parameters=parameters, pause_on_shutdown=False, limit=1)
"""
SCHEDULED = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
from pipelines import servers
repository = sys.argv[1]
servers.LOGS = Path(repository) / "mlruns"
servers.own_prefect()
from prefect.client.orchestration import get_client
served = subprocess.Popen([sys.executable, "-c", sys.argv[2], repository], start_new_session=True)
found, deadline = {}, time.monotonic() + 240
try:
    with get_client(sync_client=True) as client:
        while "COMPLETED" not in found and time.monotonic() < deadline and served.poll() is None:
            time.sleep(1)
            found = {run.state_type.value: run.name for run in client.read_flow_runs() if run.auto_scheduled}
finally:
    os.killpg(served.pid, signal.SIGKILL)
print(json.dumps(found))
"""
LOGGED = """
import logging
from prefect.logging.configuration import setup_logging
setup_logging()
logging.getLogger("prefect.server.services.scheduler").error("no run is made")
"""


FAULTS = """
import ctypes, resource
from pipelines import environment
SIZE, libc = 64 << 20, ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(SIZE)))
    libc.memset(block, 1, ctypes.c_size_t(SIZE))
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(), faults())
"""


def variables(folder: Path, **more: str) -> dict[str, str]:
    """An environment without proxies' exceptions and without other servers; Prefect's history lies in `folder`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_")) and key.lower() != "no_proxy"}
    return kept | {"PREFECT_HOME": str(folder / "prefect"), "PYTHONPATH": str(REPOSITORY)} | more


def test_an_interval_schedule_makes_runs_of_the_flow_and_no_proxy_comes_between(tmp_path):
    repository = toy_repository(tmp_path / "toy")
    git(repository, "commit", "--quiet", "--allow-empty", "--message", "state")
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"), CLOSED)
    command = [PYTHON, "-c", SCHEDULED, str(repository), SERVED]
    done = subprocess.run(command, cwd=REPOSITORY, env=variables(tmp_path, **proxies), capture_output=True, text=True, check=False)
    log = repository / "mlruns" / "prefect-server.log"
    assert done.returncode == 0, done.stderr
    assert "COMPLETED" in json.loads(done.stdout.splitlines()[-1]), done.stdout + done.stderr + log.read_text()
    assert (repository / "first.txt").read_text() == "one\n"


@pytest.mark.parametrize(("ours", "told"), [(environment.SERVERS, True), (environment.DEFAULTS, False)], ids=["server", "flow"])
def test_a_servers_errors_reach_its_log_and_no_terminal_of_a_flow(ours, told, tmp_path):
    done = subprocess.run([PYTHON, "-c", LOGGED], env=variables(tmp_path, **ours), capture_output=True, text=True, check=True)
    assert ("no run is made" in done.stderr) is told


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_freed_memory_is_used_again(tmp_path):
    """The system clears pages for the first block, of 4 KiB or 2 MiB each, and for the second none."""
    done = subprocess.run([PYTHON, "-c", FAULTS], env=variables(tmp_path), capture_output=True, text=True, check=True)
    first, second = map(int, done.stdout.split())
    assert first >= 30 and second < 10


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "127.0.0.1,localhost"),
        ({"NO_PROXY": "corp.example, 10.0.0.1,"}, "corp.example,10.0.0.1,127.0.0.1,localhost"),
        ({"no_proxy": "localhost,corp.example"}, "localhost,corp.example,127.0.0.1"),
        ({"NO_PROXY": "a", "no_proxy": "b"}, "a,b,127.0.0.1,localhost"),
    ],
)
def test_hosts_without_a_proxy_keep_those_that_were_named(before, after):
    assert environment.no_proxy(before) == after


def test_make_gives_its_commands_the_same_exceptions(tmp_path):
    makefile = tmp_path / "Makefile"
    ours = str(REPOSITORY).replace(" ", "\\ ")
    makefile.write_text(f"include {ours}/Makefile\nshow:\n\t@echo $$NO_PROXY $$no_proxy\n")
    command, named = ["make", "--silent", "-f", str(makefile), "show"], variables(tmp_path, NO_PROXY="corp.example, b")
    done = subprocess.run(command, cwd=tmp_path, env=named, capture_output=True, text=True, check=True)
    assert [set(value.split(",")) for value in done.stdout.split()] == [{"corp.example", "b", "127.0.0.1", "localhost"}] * 2
