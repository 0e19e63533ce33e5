"""Parts of DVC, Prefect, MLflow and Great Expectations that users are told to use: docs/stack.md lists them with a test for each."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.browser import Browser
from tests.repositories import PYTHON, REPOSITORY, commit, copy_of_this, dvc, git
from tests.test_validate import Case

STACK = REPOSITORY / "docs" / "stack.md"
TOLD = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "mlruns/README.md", "dvc.yaml")),
    *(path for path in sorted((REPOSITORY / "docs").glob("*.md")) if path != STACK),
    *sorted((REPOSITORY / "results").glob("*/README.md")),
    *sorted((REPOSITORY / "params").rglob("*.yaml")),
    *sorted((REPOSITORY / "released").glob("*/README.md")),
]
GROUPS = {
    "exp",
    "queue",
    "params",
    "metrics",
    "plots",
    "remote",
    "cache",
    "server",
    "worker",
    "work-pool",
    "deployment",
    "flow-run",
    "models",
}
PROGRAMS = ("dvc", "prefect", "mlflow", "make")


def commands(text: str) -> set[str]:
    """Commands in code of a document, without their arguments, variables of these programs, and calls of their packages:
    `dvc repro`, `mlflow models serve`, `make test`, `MLFLOW_PORT`, `mlflow.pyfunc.load_model`.
    """
    blocks = r"^```[^\n]*\n(.*?)^```"
    code = [line for block in re.findall(blocks, text, re.M | re.S) for line in block.splitlines()]
    code += re.findall(r"`([^`\n]+)`", re.sub(blocks, "", text, flags=re.M | re.S))
    found = set()
    for line in code:
        for program, first, second in re.findall(r"(?:^|[\s;&=(])(dvc|prefect|mlflow|make) +([a-z][a-z-]*)(?: +([a-z][a-z-]*))?", line):
            found.add(" ".join([program, first, *([second] if first in GROUPS and second else [])]))
        found.update(re.findall(r"\b(?:MLFLOW|PREFECT|AWS)_[A-Z0-9_]+\b", line))
        found.update(re.findall(r"\b(?:dvc|prefect|mlflow|great_expectations)\.[a-z_]+\.[a-z_]+\b", line))
    return found


def rows() -> list[tuple[str, str, str, str]]:
    """Package, part, where it is told, test."""
    lines = [line for line in STACK.read_text().splitlines() if line.startswith("| ")]
    cells = [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines[1:]]
    assert all(len(row) == 4 for row in cells)
    return cells  # type: ignore[return-value]


def test_commands_are_found_in_code_only():
    text = "`dvc exp run -S x` and dvc gc, `data.dvc says`; `MLFLOW_PORT=1 make serve`\n```\nmlflow models serve\nmake test # x\n```\n"
    assert commands(text) == {"dvc exp run", "make serve", "MLFLOW_PORT", "mlflow models serve", "make test"}
    assert commands("`mlflow.pyfunc.load_model(1)` and PREFECT_HOME; `mlflow.db`") == {"mlflow.pyfunc.load_model"}


def test_every_command_that_users_are_told_is_in_the_table():
    told = {command: path.name for path in TOLD for command in commands(path.read_text())}
    assert len(told) > 15
    listed = set().union(*(commands(part) for _, part, _, _ in rows()))
    assert sorted(set(told) - listed) == [], told


def test_every_target_of_make_that_is_shown_is_in_the_table():
    targets = re.findall(r"^([a-z-]+):.*##", (REPOSITORY / "Makefile").read_text(), re.M)
    listed = set().union(*(commands(part) for _, part, _, _ in rows()))
    assert {f"make {name}" for name in targets if name != "help"} <= listed


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row[0]} {row[1]}")
def test_every_part_has_a_test_that_is_there_and_a_place_where_it_is_told(row):
    _, part, told, test = row
    for place in re.findall(r"\]\(([^)#]+)", told):
        assert (STACK.parent / place).exists(), place
    named = re.findall(r"`(tests/\S+\.py|\.ci/run)(?:::(\w+))?`", test)
    assert named, f"{part}: no test"
    for file, function in named:
        path = REPOSITORY / file
        assert path.is_file()
        if function:
            assert function in {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}, function


NAME = "categorical_fused_fpn_synthetic_64x48_x2"
GRAPH = f"""
stages:
  evaluate:
    foreach: [{NAME}]
    do:
      cmd: '"{PYTHON}" score.py'
      params:
        - params/variants/demo.yaml:
            - ${{item}}
      outs:
        - weights.txt
      metrics:
        - results/score.json:
            cache: false
      plots:
        - results/score.csv:
            cache: false
            x: epoch
            y: loss
"""
SCORE = f"""
import json, os, yaml
epochs = yaml.safe_load(open("params/variants/demo.yaml"))["{NAME}"].get("train", {{}}).get("epochs", 3)
os.makedirs("results", exist_ok=True)
open("weights.txt", "w").write(str(epochs))
json.dump({{"AP": epochs / 100}}, open("results/score.json", "w"))
open("results/score.csv", "w").write("epoch,loss\\n" + "".join(f"{{i}},{{1 / (i + 1)}}\\n" for i in range(epochs)))
"""


def good(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def readme_commands() -> list[list[str]]:
    """The arguments of the README's `dvc exp run -S …`, with the name filled in."""
    told = re.findall(r"`dvc (exp run -S [^`]+)`", (REPOSITORY / "README.md").read_text())
    return [line.replace("NAME", NAME).split() for line in told]


@pytest.mark.slow
def test_dvc_s_experiments_as_the_readme_tells(tmp_path):
    """Its own command on the demo's parameter file, alone and queued; then the tables, plots and clean-up that come after."""
    clone = copy_of_this(tmp_path / "clone")
    (clone / "dvc.yaml").write_text(GRAPH)
    (clone / "score.py").write_text(SCORE)
    good(dvc(clone, "repro"))
    commit(clone)
    (command,) = readme_commands()
    assert command[-1] == f"evaluate@{NAME}" and f"params/variants/demo.yaml:++{NAME}.train.epochs=6" in command
    before = yaml.safe_load((clone / "params" / "variants" / "demo.yaml").read_text())
    good(dvc(clone, *command))
    after = yaml.safe_load((clone / "params" / "variants" / "demo.yaml").read_text())
    assert (clone / "weights.txt").read_text() == "6"
    assert "train" not in before[NAME] and after[NAME].pop("train") == {"epochs": 6} and before == after  # one value of one variant

    changed = json.loads(good(dvc(clone, "params", "diff", "--json")))["params/variants/demo.yaml"]
    assert {key: value["new"] for key, value in changed.items()} == {f"{NAME}.train.epochs": 6}, changed
    changed = json.loads(good(dvc(clone, "metrics", "diff", "--json")))["results/score.json"]["AP"]
    assert (changed["old"], changed["new"]) == (0.03, 0.06)
    good(dvc(clone, "plots", "diff", "--out", "plots"))
    assert "1.0" in (clone / "plots" / "index.html").read_text()

    git(clone, "checkout", "--quiet", "params", "results")
    good(dvc(clone, *command[:-2], f"params/variants/demo.yaml:++{NAME}.train.epochs=9", "--queue", command[-1]))
    good(dvc(clone, "queue", "start"))
    wait_until_done(clone)
    shown = json.loads(good(dvc(clone, "exp", "show", "--json")))
    texts = json.dumps(shown)
    assert '"AP": 0.06' in texts and '"AP": 0.09' in texts
    good(dvc(clone, "gc", "--workspace", "--force"))
    assert json.loads(good(dvc(clone, "status", "--json"))) != {}  # the parameters are the committed ones again
    good(dvc(clone, "repro"))
    assert json.loads(good(dvc(clone, "status", "--json"))) == {} and (clone / "weights.txt").read_text() == "3"


def wait_until_done(clone: Path) -> None:
    import time

    deadline = time.monotonic() + 300
    while "Success" not in (said := good(dvc(clone, "queue", "status"))):
        assert time.monotonic() < deadline and "Failed" not in said, said
        time.sleep(1)


@pytest.mark.slow
def test_data_docs_open_in_a_browser_without_a_network(tmp_path):
    case = Case(tmp_path)
    case.validate()
    with Browser() as browser:
        browser.open(case.out / "docs" / "index.html", width=1280)
        text = browser.run("document.body.innerText")
        assert browser.complaints() == []
    checks = json.loads((case.out / "summary.json").read_text())["checks"]
    assert len(checks) > 20 and all(check["check"] in text for check in checks)
