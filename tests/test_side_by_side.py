"""Four stages at once, again and again: dvc.lock names what is there."""

from __future__ import annotations

import hashlib
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from pipelines import graph
from pipelines.driver import Driver
from tests.faults import repeats, survived
from tests.repositories import PYTHON, REPOSITORY, commit, dvc, git

pytestmark = [pytest.mark.operation, pytest.mark.slow]
ITEMS = ("a", "b", "c", "d")
GRAPH = """
stages:
  each:
    foreach: [a, b, c, d]
    do:
      cmd: '"{python}" work.py ${{item}}'
      deps: [round.txt, work.py]
      outs: ["${{item}}.txt", "many-${{item}}"]
      metrics: ["${{item}}.json": {{cache: false}}]
"""
WORK = """
import sys
from pathlib import Path
item, number = sys.argv[1], Path("round.txt").read_text()
Path(f"{item}.txt").write_text(item + number)
Path(f"{item}.json").write_text('{"round": ' + number + '}')
Path(f"many-{item}").mkdir()
for count in range(20):
    Path(f"many-{item}", str(count)).write_text(item + number + str(count))
"""


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def test_four_stages_at_once_never_spoil_the_lock(tmp_path):
    folder = tmp_path / "toy"
    (folder / ".dvc").mkdir(parents=True)
    shutil.copy(REPOSITORY / ".dvc" / "config", folder / ".dvc" / "config")
    (folder / "dvc.yaml").write_text(GRAPH.format(python=PYTHON))
    (folder / "work.py").write_text(WORK)
    (folder / "round.txt").write_text("0")
    git(folder, "init", "--quiet")
    commit(folder)
    stages, times = graph.load(folder), repeats(3)
    assert len(stages) == 4
    for number in range(1, times + 1):
        (folder / "round.txt").write_text(str(number))
        driver, gate = Driver(folder, 600.0, lambda line: None, max_parallel=4), threading.Barrier(4)

        def reproduce(stage: graph.Stage, driver: Driver = driver, gate: threading.Barrier = gate) -> str:
            gate.wait()
            return driver.reproduce(stage).outcome

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(reproduce, stages)) == ["ran"] * 4
        lock = yaml.safe_load((folder / "dvc.lock").read_text())
        assert set(lock["stages"]) == {f"each@{item}" for item in ITEMS}
        for item in ITEMS:
            entry = lock["stages"][f"each@{item}"]
            assert {dep["path"]: dep["md5"] for dep in entry["deps"]} == {name: md5(folder / name) for name in ("round.txt", "work.py")}
            found = {out["path"]: out["md5"] for out in entry["outs"]}
            assert found.keys() == {f"{item}.txt", f"{item}.json", f"many-{item}"}
            assert all(found[name] == md5(folder / name) for name in (f"{item}.txt", f"{item}.json"))
            assert (folder / f"{item}.txt").read_text() == item + str(number)
    assert dvc(folder, "status", "--json").stdout.strip() == "{}"
    survived("four stages at once", times)
