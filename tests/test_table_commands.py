"""The commands of docs/tables.md as they stand there, in a shell, for one row of each data set and approach."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.tables import PAGE, with_commands
from components.base.files import read_json
from components.datasets.synthetic import write_synthetic
from components.datasets.synthetic.forms import ANNOTATE
from tests.repositories import Console, commit, copy_of_this, farpose, git, variables
from tests.test_table_rows import FORM, NAMES, NUMBERS, PEOPLE, SHORT
from tests.test_tables import ROWS, VARIANTS

SMALL = {
    "hrnet_w32_coco_64x48": "gt_boxes",
    "litepose_xs_coco_256": "no_boxes",
    "simple_resnet50_mpii_256x256": "gt_boxes",
    "simple_resnet50_crowdpose_256x192": "gt_boxes",
    "litepose_xs_crowdpose_256": "no_boxes",
    "simple_resnet50_wholebody_256x192": "gt_boxes",
}


def blocks() -> list[tuple[str, list[str]]]:
    """Every line that names a row in the blocks of commands, with the commands below it, in the order of the page."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("# "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def test_the_page_holds_the_commands_that_its_rows_ask_for() -> None:
    assert with_commands(PAGE.read_text()) == PAGE.read_text(), "python -m benchmarks.tables"


def test_every_row_has_a_command_that_trains_and_one_that_scores_it() -> None:
    assert [label for label, _ in blocks()] == [row.label for row in ROWS]
    for (_, lines), row in zip(blocks(), ROWS, strict=True):
        for name in row.variants:
            for stage in ("train", "evaluate"):
                assert f"farpose params --only {name} && farpose run {stage}@{name}" in lines
        assert row.variants or ("farpose run train@" in lines[0] and lines[1].startswith("farpose submit "))
        imports = [line for line in lines if line.startswith("farpose import-weights")]
        assert bool(imports) == any(VARIANTS[name].upscale == "spsr" for name in row.variants)


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Any:
    console = Console(copy_of_this(tmp_path_factory.mktemp("console") / "copy"))
    yield console
    console.close()


@pytest.mark.parametrize("dataset", FORM)
def test_the_parameters_of_every_row_are_valid(dataset: str, console: Console) -> None:
    """`params --only` finds crops that hold what each recipe looks at; the check of all parameters agrees."""
    names = [name for name in NAMES if VARIANTS[name].dataset == dataset]
    for done in (console.farpose("params", "--only", *names), console.farpose("params")):
        assert done.returncode == 0, done.stderr
    data, pipeline = (yaml.safe_load((console.folder / "params" / f"{file}.yaml").read_text()) for file in ("data", "pipeline"))
    assert data["data"]["source"] == dataset and list(pipeline["variants"]) == names
    for name in names:
        spec = pipeline["shards"][pipeline["variants"][name]["shards"]]
        assert tuple(spec["input_size"]) == VARIANTS[name].input_size and spec["protocol"] == "direct"


def test_only_takes_several_rows_of_one_data_set_and_keeps_edits(console: Console) -> None:
    git(console.folder, "checkout", "--quiet", "--", "params")  # of the test before
    names = ["hrnet_w32_coco_64x48", "hrnet_w32_coco_256x192"]
    assert console.farpose("params", "--only", *names).returncode == 0
    path = console.folder / "params" / "pipeline.yaml"
    plan = yaml.safe_load(path.read_text())
    assert list(plan["variants"]) == names and len(plan["shards"]) == 2 and plan["flow"]
    done = console.farpose("params", "--only", names[0], "simple_resnet50_mpii_256x256")
    assert done.returncode == 1 and "of several data sets: coco, mpii (name those of one" in done.stderr
    assert "unknown variant 'hrnet_w32_coco'" in console.farpose("params", "--only", "hrnet_w32_coco").stderr
    assert list(yaml.safe_load(path.read_text())["variants"]) == names
    assert console.farpose("params", "--only", names[1]).returncode == 0, "an earlier --only is no edit"
    path.write_text(path.read_text().replace("max_parallel: 2", "max_parallel: 1"))
    done = console.farpose("params", "--only", names[0])
    assert done.returncode == 1 and "params/pipeline.yaml" in done.stderr and "--force" in done.stderr
    assert console.farpose("params", "--only", names[0], "--force").returncode == 0
    git(console.folder, "checkout", "--quiet", "--", "params")


def change(path: Path, value: dict[str, Any]) -> None:
    """Lay nested keys over a YAML file."""

    def laid(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
        return {**base, **{key: laid(base.get(key) or {}, new) if isinstance(new, dict) else new for key, new in over.items()}}

    path.write_text(yaml.safe_dump(laid(yaml.safe_load(path.read_text()), value), sort_keys=False))


@pytest.mark.slow  # two minutes each on one core
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", SMALL)
def test_a_rows_commands_run_as_they_stand(name: str, tmp_path: Path) -> None:
    dataset, repository = VARIANTS[name].dataset, copy_of_this(tmp_path / "repository")
    write_synthetic(tmp_path / "raw", PEOPLE, progress=False, workers=1, annotate=ANNOTATE[FORM[dataset]])
    sources = yaml.safe_load((repository / "params" / "data.yaml").read_text())["data"]["sources"]
    drawn = {dataset: {"splits": sources[FORM[dataset]]["splits"]}}  # the drawings' files, by the data set's name
    change(repository / "params" / "data.yaml", {"data": {"splits": {"dev": 0}, "sources": drawn}})
    change(repository / "params" / "evaluate.yaml", {"evaluate": {"bootstrap_resamples": 10, "gallery_size": 1}})
    (table,) = [path for path in (repository / "params" / "variants").glob("*.yaml") if f"\n{name}:" in path.read_text()]
    change(table, {name: {"train": SHORT}})
    commit(repository)
    done = farpose(repository, "acquire", dataset, "--from", str(tmp_path / "raw"))
    assert done.returncode == 0, done.stdout + done.stderr
    for line in next(lines for (_, lines), row in zip(blocks(), ROWS, strict=True) if name in row.variants):
        if f"@{name}" in line:
            here = re.sub(r"\bfarpose (params|run)\b", rf'"{sys.executable}" -m pipelines.cli \1', line)  # the copy's code
            done = subprocess.run(["bash", "-c", here], cwd=repository, env=variables(), capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
    metrics = read_json(repository / "results" / "pipeline" / "evaluate" / f"{name}.json")
    evaluator = sources[dataset]["evaluator"]
    assert all(0 <= metrics[f"{number}_{SMALL[name]}"] <= 1 for number in NUMBERS[evaluator])
    assert read_json(repository / "results" / "pipeline" / "train" / f"{name}.json")["steps"] == 2
