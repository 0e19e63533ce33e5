"""The house stands as docs/architecture.md draws it: imports point down, files stay short, components stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from components.base import imports

REPOSITORY = Path(__file__).resolve().parents[1]
FLOORS = {
    "base": 0, "pose": 1, "datasets": 2, "codecs": 2, "degrade": 2, "models": 3, "detect": 3, "evaluate": 4, "approaches": 5, "train": 6,
    "registry": 7, "pipelines": 8,
}  # fmt: skip
SOURCES = sorted([*(REPOSITORY / "components").rglob("*.py"), *(REPOSITORY / "pipelines").rglob("*.py")])
ORCHESTRATION = ("prefect", "dvc", "mlflow", "great_expectations", "boto3", "pycocotools", "matplotlib", "requests",
                 "onnx", "onnxruntime", "onnxscript")  # fmt: skip


def floor_of(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] == "pipelines":
        return "pipelines"
    return parts[1] if parts[0] == "components" and len(parts) > 1 else None


def imported_modules(path: Path) -> set[str]:
    """All of them, packages of others included."""
    tree = ast.parse(path.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_imports_point_down_and_files_stay_short(path):
    own = floor_of(".".join(path.relative_to(REPOSITORY).with_suffix("").parts))
    for module in imported_modules(path):
        other = floor_of(module)
        if other is not None and own is not None and other != own:
            assert FLOORS[other] < FLOORS[own], f"{own} imports {other}"
        top = module.split(".")[0]
        assert top not in ("prefect", "dvc") or own == "pipelines", f"{own} imports {top}"
        assert top != "mlflow" or own in ("registry", "pipelines"), f"{own} imports mlflow"
    assert len(path.read_text().splitlines()) <= 400


def test_no_circle_of_imports():
    """Not inside a floor either, and late imports count: a module can be read, and tested, after those that it names."""
    assert imports.read(REPOSITORY, ("components", "pipelines")).circles() == []


def test_components_import_without_the_orchestration_packages():
    modules = [
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
        for path in SOURCES
        if floor_of(".".join(path.relative_to(REPOSITORY).with_suffix("").parts)) in FLOORS.keys() - {"registry", "pipelines"}
    ]
    program = f"""
import importlib, sys
for name in {ORCHESTRATION!r}: sys.modules[name] = None  # importing it now raises
for name in {modules!r}: importlib.import_module(name.removesuffix('.__init__'))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_only_the_registry_imports_mlflow():
    users = {
        path.relative_to(REPOSITORY).parts[1] for path in (REPOSITORY / "components").rglob("*.py") if "import mlflow" in path.read_text()
    }
    assert users == {"registry"}
