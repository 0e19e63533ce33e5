"""Small repositories for tests of the pipeline: a toy graph, and a copy of this one with little to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parents[1]
PARTS = ("components", "pipelines", "params", "released", "dvc.yaml", ".dvc", ".dvcignore", ".gitignore")
PYTHON = sys.executable

TOY_PARAMS = "shards: {}\nvariants: {}\nflow: {max_parallel: 2, stage_timeout_hours: 1}\n"
TOY_GRAPH = """
stages:
  first:
    cmd: echo one > first.txt
    outs:
      - first.txt
  middle:
    foreach: [x, y]
    do:
      cmd: '"${python}" middle.py ${item}'
      deps:
        - first.txt
        - mode-${item}.txt
      outs:
        - middle-${item}.txt
      metrics:
        - metric-${item}.json:
            cache: false
  last:
    cmd: cat middle-x.txt middle-y.txt > last.txt
    deps:
      - middle-x.txt
      - middle-y.txt
    outs:
      - last.txt
# variants: written by `farpose params`
# end of variants
# report: written by `farpose params`
# end of report
vars:
  - python: PYTHON
"""
TOY_MIDDLE = """
import os, sys, time
item, start = sys.argv[1], time.time()
mode = open(f"mode-{item}.txt").read().strip()
if mode == "fail":
    sys.exit(f"farpose: error: rows.json: row 7 is bad (mend {item})")
if mode == "hang":
    print("hanging", flush=True)
    time.sleep(600)
if mode == "busy" and not os.path.exists("tried.txt"):
    open("tried.txt", "w").close()
    sys.exit(75)
while mode == "wait" and not os.path.exists("go.txt"):
    print("waiting", flush=True)
    time.sleep(0.5)
time.sleep(1.5)
open("spans.txt", "a").write(f"{item} {start} {time.time()}\\n")
open(f"middle-{item}.txt", "w").write(f"{mode} {start} {time.time()}\\n")
open(f"metric-{item}.json", "w").write('{"score": 1}')
"""


def toy_repository(folder: Path) -> Path:
    """A graph first → middle@x, middle@y → last in a git repository; mode-x.txt and mode-y.txt say what the middle does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params").mkdir()
    (folder / "mlruns").mkdir()
    (folder / "params" / "pipeline.yaml").write_text(TOY_PARAMS)
    (folder / "dvc.yaml").write_text(TOY_GRAPH.replace("PYTHON", PYTHON))
    (folder / "middle.py").write_text(TOY_MIDDLE)
    for item in "xy":
        (folder / f"mode-{item}.txt").write_text("work\n")
    (folder / ".dvc").mkdir()
    shutil.copy(REPOSITORY / ".dvc" / "config", folder / ".dvc" / "config")
    git(folder, "init", "--quiet")
    return folder


def copy_of_this(folder: Path) -> Path:
    """This repository's code and parameters in a git repository of their own, without data and outputs."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        source = REPOSITORY / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__", "cache", "tmp", "config.local"))
        else:
            shutil.copy(source, folder / part)
    git(folder, "init", "--quiet")
    commit(folder)
    return folder


def toy_on_copy(folder: Path) -> Path:
    """This repository's code with the toy graph: everything of a deployment is real but what the stages do."""
    copy_of_this(folder)
    toy = toy_repository(folder / "toy")
    for part in ("dvc.yaml", "middle.py", "mode-x.txt", "mode-y.txt", "params/pipeline.yaml"):
        shutil.copy(toy / part, folder / part)
    shutil.rmtree(toy)
    (folder / "mlruns").mkdir()
    commit(folder)
    return folder


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "state")


def farpose(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `farpose` of the repository in `folder`."""
    return module(folder, "pipelines.cli", *arguments, **environment)


def dvc(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return module(folder, "dvc", *arguments, **environment)


def python(folder: Path, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in the repository in `folder`."""
    return subprocess.run([PYTHON, "-c", code], cwd=folder, env=variables() | environment, capture_output=True, text=True, check=False)


def module(folder: Path, name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [PYTHON, "-m", name, *arguments]
    return subprocess.run(command, cwd=folder, env=variables() | environment, capture_output=True, text=True, check=False)


def variables() -> dict[str, str]:
    """This process's environment without what would lead to another store or server."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "PREFECT_", "FARPOSE_", "PYTEST_"))}
    path = os.pathsep.join([str(Path(PYTHON).parent), kept.get("PATH", "")])
    return {**kept, "PATH": path, "OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1"}


def processes_of(folder: Path) -> list[psutil.Process]:
    """Processes that work in `folder`."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


CONSOLE = """
import contextlib, io, json, sys
from pipelines import cli
for line in sys.stdin:
    said, complained = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
        try:
            code = cli.main(json.loads(line))
        except SystemExit as error:
            code = error.code
    print(json.dumps([code, said.getvalue(), complained.getvalue()]), flush=True)
"""


class Console:
    """Runs many `farpose` commands of the repository in `folder` in one process, so that they import only once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            [PYTHON, "-c", CONSOLE], cwd=folder, env=variables(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def farpose(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        code, said, complained = json.loads(self._process.stdout.readline())
        return subprocess.CompletedProcess(list(arguments), code, said, complained)

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def assert_one_line(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Exit code 1 and one line on stderr that holds all `parts`, without a traceback."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("farpose: error: "), done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    for part in parts:
        assert part in done.stderr
