"""What retrains: which change of code or parameters changes which variant's plan."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from components.base import imports, origins
from components.base.errors import FarposeError
from components.base.files import sha256_of
from components.models import zoo
from pipelines import counts, plan, settings
from pipelines.settings import Pipeline, VariantPlan
from tests.repositories import PYTHON, REPOSITORY

HRNETS = ("hrnet_tiny_synthetic_64x48", "dark_hrnet_tiny_synthetic_64x48", "cal_hrnet_tiny_synthetic_64x48")
LITEPOSE, LIMBPOSE = "litepose_tiny_synthetic_256", "limbpose_tiny_synthetic_256"
PLANNED = (*HRNETS, LITEPOSE, LIMBPOSE)
FOUND_BY_NAME = ("components.models.methods.", "components.codecs.", "components.degrade.protocols.", "components.approaches.")
SHARDS = {"crops": "direct_64x48", "images": "antialias_256"}


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A copy of the code, to be edited."""
    shutil.copytree(REPOSITORY / "components", tmp_path / "components", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def digests(root: Path) -> dict[str, dict[str, str]]:
    """By stage and variant the digest of the code that it depends on."""
    sources = imports.read(root)
    return {stage: {name: plan.code(stage, zoo.variant(name), "direct", sources)["code"] for name in PLANNED} for stage in plan.STAGES}


@pytest.fixture(scope="module")
def before() -> dict[str, dict[str, str]]:
    """The digests of the unchanged code."""
    return digests(REPOSITORY)


def append(root: Path, path: str, text: str) -> None:
    place = root / "components" / path
    place.write_text(place.read_text() + text)


CHANGES = [
    ("models/methods/limbpose.py", (LIMBPOSE,)),
    ("models/methods/cal.py", ("cal_hrnet_tiny_synthetic_64x48",)),
    ("models/backbones/hrnet.py", (*HRNETS, LIMBPOSE)),
    ("codecs/dark.py", ("dark_hrnet_tiny_synthetic_64x48",)),
    ("degrade/protocols/sensor.py", ()),
    ("degrade/protocols/direct.py", (*HRNETS, LITEPOSE, LIMBPOSE)),
    ("train/optimiser.py", (*HRNETS, LITEPOSE, LIMBPOSE)),
    ("registry/register.py", ()),
    ("models/starts.py", (*HRNETS, LITEPOSE, LIMBPOSE)),
    ("models/movenet.py", ()),  # it makes the file of a start, whose digest is planned
]


@pytest.mark.parametrize(("path", "changed"), CHANGES, ids=[path for path, _ in CHANGES])
def test_changed_code_changes_the_plan_of_the_variants_that_use_it(code, before, path, changed):
    append(code, path, "\nCHANGED = True\n")
    differing = {stage: {name for name, digest in found.items() if digest != before[stage][name]} for stage, found in digests(code).items()}
    assert differing[plan.TRAIN] == set(changed)
    assert differing[plan.EVALUATE] == (set() if path.startswith("train/") or path == "models/starts.py" else set(changed))


def test_a_changed_comment_anywhere_changes_no_plan(code, before):
    for path in (code / "components").rglob("*.py"):
        path.write_text(f"# a comment\n{path.read_text()}\n# another\n")
    assert digests(code) == before


def test_the_resolved_entry_and_recipe_are_planned():
    variant = zoo.variant(HRNETS[0])
    before = plan.decisions(variant)
    paper = dataclasses.replace(variant, paper=zoo.variant("hrnet_w32_coco_256x192").paper)
    assert paper.paper != variant.paper
    recipe = dataclasses.replace(variant, train={**variant.train, "epochs": 3})
    assert plan.decisions(paper)[plan.TRAIN] == before[plan.TRAIN]  # a paper's number decides no weights
    assert plan.decisions(paper)[plan.EVALUATE] != before[plan.EVALUATE]  # but the table shows it
    assert plan.decisions(recipe)[plan.TRAIN]["recipe"]["epochs"] == 3 and plan.decisions(recipe)[plan.TRAIN] != before[plan.TRAIN]


def test_the_kept_costs_are_planned_for_the_stage_that_records_them(monkeypatch):
    variant = zoo.variant(HRNETS[0])
    before, kept = plan.decisions(variant), counts.stored()
    other = dataclasses.replace(kept[counts.key(variant)], macs=1)
    monkeypatch.setattr(counts, "stored", lambda: {**kept, counts.key(variant): other})
    assert plan.decisions(variant)[plan.EVALUATE] != before[plan.EVALUATE]
    monkeypatch.setattr(counts, "stored", dict)
    assert plan.decisions(variant) == {**before, plan.EVALUATE: {**before[plan.EVALUATE], "costs": None}}


def start_entry(path: Path, content: bytes) -> dict[str, object]:
    """An entry of params/weights.yaml for a file of this content, which is written."""
    path.write_bytes(content)
    source = {"package": "p", "version": "1", "file": "f", "sha256": "0", "get": "g"}
    said = {"licence": "l", "licence_source": "s", "trained_on": "t", "changed": "c", "backbone": "hrnet_tiny", "use": "start"}
    return {"path": str(path), "sha256": sha256_of(path), "source": source, **said}


def test_another_file_of_a_start_changes_the_plan_of_what_starts_from_it(tmp_path, monkeypatch):
    monkeypatch.setattr(origins, "FILE", tmp_path / "weights.yaml")
    variants = {name: dataclasses.replace(zoo.variant(HRNETS[0]), train={"init": name}) for name in ("one", "two", "he")}

    def planned(**contents: bytes) -> dict[str, dict[str, dict]]:
        entries = {name: start_entry(tmp_path / f"{name}.safetensors", content) for name, content in contents.items()}
        origins.FILE.write_text(json.dumps(entries))
        return {name: plan.decisions(variant) for name, variant in variants.items()}

    before, after = planned(one=b"first", two=b"second"), planned(one=b"another", two=b"second")
    assert after["one"][plan.TRAIN]["start"] == sha256_of(tmp_path / "one.safetensors") != before["one"][plan.TRAIN]["start"]
    assert {stage for stage in plan.STAGES if after["one"][stage] != before["one"][stage]} == {plan.TRAIN, plan.REGISTER}
    assert after["two"] == before["two"] and after["he"] == before["he"]

    (tmp_path / "one.safetensors").write_bytes(b"unknown")  # without its digest
    with pytest.raises(FarposeError, match=r"not the file that params/weights\.yaml names"):
        plan.decisions(variants["one"])


def test_one_file_per_variant_and_stage_the_same_every_time(tmp_path):
    pipeline = settings.load()
    for folder in ("a", "b"):
        assert plan.write(tmp_path / folder, pipeline) == len(pipeline.variants)
    files = {path.relative_to(tmp_path / "a"): path.read_bytes() for path in (tmp_path / "a").rglob("*.json")}
    assert files == {path.relative_to(tmp_path / "b"): path.read_bytes() for path in (tmp_path / "b").rglob("*.json")}
    assert {str(path) for path in files} == {f"{stage}/{name}.json" for stage in plan.STAGES for name in pipeline.variants}
    first = next(iter(pipeline.variants))
    alone = Pipeline(pipeline.shards, {first: VariantPlan("demo", SHARDS["crops"])}, pipeline.flow)
    plan.write(tmp_path / "a", alone)  # what was removed leaves nothing behind
    assert {path.stem for path in (tmp_path / "a").rglob("*.json")} == {first}
    assert (tmp_path / "a" / "train" / f"{first}.json").read_bytes() == files[Path("train", f"{first}.json")]
    assert json.loads((tmp_path / "a" / "train" / f"{first}.json").read_text())["variant"]["name"] == first


def test_the_stages_import_nothing_that_is_not_planned():
    """The oracle is the interpreter: what is loaded once the roots are imported and a variant is built."""
    sources = imports.read(REPOSITORY)
    found = {stage: plan.roots(stage, sources) for stage in (plan.TRAIN, plan.EVALUATE)}
    assert {"components.train.launch", "components.models.zoo"} <= set(found[plan.TRAIN])
    assert {"components.evaluate.stage", "components.models.costs"} <= set(found[plan.EVALUATE])
    variant = zoo.variant(HRNETS[0])
    others = [name for name in sources.paths if name.startswith(FOUND_BY_NAME)]
    planned = set(
        sources.closure([*found[plan.TRAIN], *found[plan.EVALUATE], *plan.own_modules(plan.EVALUATE, variant, "direct"), *others])
    )
    modules = sorted({*found[plan.TRAIN], *found[plan.EVALUATE]})
    program = f"""
import importlib, sys
for name in {modules}: importlib.import_module(name)
from components.models import zoo
zoo.build(zoo.variant({HRNETS[0]!r}))
print(*[name for name in sys.modules if name.split(".")[0] == "components"])
"""
    loaded = subprocess.run([PYTHON, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split()
    assert len(loaded) > 40 and set(loaded) <= planned
