"""What retrains: which change of code or parameters changes which variant's plan."""

from __future__ import annotations

import ast
import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from components.base import imports
from components.models import zoo
from pipelines import plan, settings
from pipelines.settings import Pipeline, VariantPlan
from tests.repositories import REPOSITORY

HRNETS = ("hrnet_tiny_synthetic_64x48", "dark_hrnet_tiny_synthetic_64x48", "cal_hrnet_tiny_synthetic_64x48")
LITEPOSE, LIMBPOSE = "litepose_tiny_synthetic_256", "limbpose_tiny_synthetic_256"
SHARDS = {"crops": "direct_64x48", "images": "antialias_256"}


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A copy of the code, to be edited."""
    shutil.copytree(REPOSITORY / "components", tmp_path / "components", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def digests(root: Path, stage: str, names: tuple[str, ...]) -> dict[str, str]:
    sources = imports.read(root)
    return {name: plan.code(stage, zoo.variant(name), "direct", sources)["code"] for name in names}


def append(root: Path, path: str, text: str) -> None:
    place = root / "components" / path
    place.write_text(place.read_text() + text)


CHANGES = [
    ("models/methods/limbpose.py", (LIMBPOSE,)),
    ("models/methods/cal.py", ("cal_hrnet_tiny_synthetic_64x48",)),
    ("models/backbones/hrnet.py", (*HRNETS, LITEPOSE, LIMBPOSE)),  # all: the package of backbones names every one
    ("codecs/dark.py", ("dark_hrnet_tiny_synthetic_64x48",)),
    ("degrade/protocols/sensor.py", ()),
    ("degrade/protocols/direct.py", (*HRNETS, LITEPOSE, LIMBPOSE)),
    ("train/optimiser.py", (*HRNETS, LITEPOSE, LIMBPOSE)),
    ("registry/register.py", ()),
]


@pytest.mark.parametrize(("path", "changed"), CHANGES, ids=[path for path, _ in CHANGES])
def test_changed_code_changes_the_plan_of_the_variants_that_use_it(code, path, changed):
    names = (*HRNETS, LITEPOSE, LIMBPOSE)
    before = {stage: digests(code, stage, names) for stage in (plan.TRAIN, plan.EVALUATE)}
    append(code, path, "\nCHANGED = True\n")
    differing = {
        stage: {name for name, digest in digests(code, stage, names).items() if digest != old[name]} for stage, old in before.items()
    }
    assert differing[plan.TRAIN] == set(changed)
    assert differing[plan.EVALUATE] == (set() if path.startswith("train/") else set(changed))


def test_a_changed_comment_anywhere_changes_no_plan(code):
    names = (*HRNETS, LITEPOSE, LIMBPOSE)
    before = {stage: digests(code, stage, names) for stage in plan.ROOTS}
    for path in (code / "components").rglob("*.py"):
        path.write_text(f"# a comment\n{path.read_text()}\n# another\n")
    assert {stage: digests(code, stage, names) for stage in plan.ROOTS} == before


def test_the_resolved_entry_and_recipe_are_planned():
    variant = zoo.variant(HRNETS[0])
    before = plan.decisions(variant)
    paper = dataclasses.replace(variant, paper=dataclasses.replace(variant.paper, ap=99.9))
    recipe = dataclasses.replace(variant, train={**variant.train, "epochs": 3})
    assert plan.decisions(paper)[plan.TRAIN] == before[plan.TRAIN]  # a paper's number decides no weights
    assert plan.decisions(paper)[plan.EVALUATE] != before[plan.EVALUATE]  # but the table shows it
    assert plan.decisions(recipe)[plan.TRAIN]["recipe"]["epochs"] == 3 and plan.decisions(recipe)[plan.TRAIN] != before[plan.TRAIN]


def test_one_file_per_variant_and_stage_the_same_every_time(tmp_path):
    pipeline = settings.load()
    for folder in ("a", "b"):
        assert plan.write(tmp_path / folder, pipeline) == len(pipeline.variants)
    files = {path.relative_to(tmp_path / "a"): path.read_bytes() for path in (tmp_path / "a").rglob("*.json")}
    assert files == {path.relative_to(tmp_path / "b"): path.read_bytes() for path in (tmp_path / "b").rglob("*.json")}
    assert {str(path) for path in files} == {f"{stage}/{name}.json" for stage in plan.ROOTS for name in pipeline.variants}
    alone = Pipeline(pipeline.shards, {HRNETS[0]: VariantPlan("demo", SHARDS["crops"])}, pipeline.flow)
    plan.write(tmp_path / "a", alone)  # what was removed leaves nothing behind
    assert {path.stem for path in (tmp_path / "a").rglob("*.json")} == {HRNETS[0]}
    assert (tmp_path / "a" / "train" / f"{HRNETS[0]}.json").read_bytes() == files[Path("train", f"{HRNETS[0]}.json")]
    assert json.loads((tmp_path / "a" / "train" / f"{HRNETS[0]}.json").read_text())["variant"]["name"] == HRNETS[0]


@pytest.mark.parametrize("stage", [plan.TRAIN, plan.EVALUATE])
def test_the_roots_are_what_the_stage_imports(stage):
    """The stage's function and those of the same file that it calls; the records it writes to MLflow decide nothing."""
    tree = ast.parse((REPOSITORY / "pipelines" / "stages.py").read_text())
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    waiting, seen, named = [stage], set(), set()
    while waiting:
        function = functions[waiting.pop()]
        seen.add(function.name)
        for node in ast.walk(function):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("components"):
                named |= {(node.module, alias.name) for alias in node.names}
            if isinstance(node, ast.Name) and node.id in functions and node.id not in seen:
                waiting.append(node.id)
    sources = imports.read(REPOSITORY)
    modules = {f"{module}.{name}" if f"{module}.{name}" in sources.paths else module for module, name in named}
    wanted = {name for name in modules if not name.startswith("components.registry")}
    found = set(sources.closure([*plan.ROOTS[stage], *plan.own_modules(zoo.variant(HRNETS[0]), "direct")]))
    assert wanted and wanted <= found | {"components.datasets.fetch"}  # it reads the table of images, which the stage depends on
