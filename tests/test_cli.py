"""The command `farpose`: quick help, one-line errors with a way out, parameters, boxes."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from components.base.errors import FarposeError
from pipelines import cli, photographs, settings, terminal
from tests.repositories import REPOSITORY, Console, assert_one_line, copy_of_this, farpose, git

COMMANDS = (
    "acquire",
    "run",
    "stage",
    "train",
    "evaluate",
    "compare",
    "verify",
    "predict",
    "params",
    "doctor",
    "weights",
    "errors",
    "curve",
    "report",
    "schedule",
)


@pytest.fixture(scope="module")
def console(tmp_path_factory) -> Iterator[Console]:
    """A copy of this repository, without data, and a process that runs its commands."""
    console = Console(copy_of_this(tmp_path_factory.mktemp("console") / "copy"))
    yield console
    console.close()


@pytest.fixture
def here(console: Console) -> Iterator[Path]:
    """The copy's folder; edits are taken back afterwards."""
    state = git(console.folder, "rev-parse", "HEAD").strip()
    yield console.folder
    git(console.folder, "reset", "--quiet", "--hard", state)
    git(console.folder, "clean", "--quiet", "-d", "--force", "-x")


def edit(path: Path, **changes) -> None:
    """Change keys (`a__b` for a nested one) of a YAML file."""
    value = yaml.safe_load(path.read_text())
    for key, new in changes.items():
        *parents, last = key.split("__")
        inner = value
        for parent in parents:
            inner = inner[parent]
        inner[last] = new
    path.write_text(yaml.safe_dump(value, sort_keys=False))


def test_help_names_every_command_within_a_second_of_cpu():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "pipelines.cli", "--help"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
    assert all(f"    {name}" in done.stdout for name in COMMANDS)


def test_every_command_has_its_function():
    import importlib

    root = cli.parser()
    commands = next(action for action in root._actions if action.dest == "command").choices
    for name, command in commands.items():
        module, function = command.get_default("handler").split(":")
        assert callable(getattr(importlib.import_module(f"pipelines.commands.{module}"), function)), name


def test_errors_are_one_line_and_debug_shows_more(here, console):
    assert_one_line(farpose(here, "stage", "fetsch"), "unknown stage 'fetsch'", "did you mean 'fetch'?")
    assert_one_line(console.farpose("stage", "train"), "stage train takes one item")
    assert_one_line(console.farpose("compare"), "nothing has been compared yet", "farpose run")
    done = farpose(here, "--debug", "stage", "fetsch")
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_an_unforeseen_error_is_named_as_such(capsys):
    assert cli.report(KeyError("x\ny")) == 1
    assert capsys.readouterr().err == "farpose: error: KeyError: 'x\\ny' (not foreseen; `farpose --debug …` shows where)\n"


@pytest.mark.parametrize("command", [["params"], ["--debug", "params"]], ids=["", "debug"])
def test_a_python_without_the_packages_is_named_with_the_way_out(command: list[str]):
    """`-S`: an interpreter that finds no installed package, as one outside of .venv does."""
    done = subprocess.run([sys.executable, "-S", "-m", "pipelines.cli", *command], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 1
    if "--debug" in command:
        assert "Traceback" in done.stderr
        return
    assert_one_line(done, f"{sys.executable} lacks the package '", "(`make setup` once, then `.venv/bin/farpose` in place of this Python)")


def test_a_full_gpu_has_a_way_out(capsys):
    import torch

    try:
        raise RuntimeError("predicting") from torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    except RuntimeError as error:
        assert cli.report(error) == 1
    said = capsys.readouterr().err
    assert said.startswith("farpose: error: the memory of the GPU is full") and "FARPOSE_DEVICE=cpu" in said


def test_our_own_missing_module_is_not_foreseen(capsys):
    assert cli.report(ModuleNotFoundError("No module named 'components.x'", name="components.x")) == 1
    assert "not foreseen" in capsys.readouterr().err


def test_an_interruption_is_no_error(monkeypatch, capsys):
    from pipelines.commands import models as module

    def interrupt(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "compare", interrupt)
    assert cli.main(["compare"]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "changes", "parts"),
    [
        ("train.yaml", {"train__epoch": 3}, ("train.yaml: train", "unknown parameter 'epoch'", "did you mean 'epochs'?")),
        ("train.yaml", {"train__init": None}, ("train.yaml: train.init: null is none of its values", "write `init: none`")),
        ("train.yaml", {"train__epochs": "many"}, ("train.epochs", "expected an integer, got 'many'")),
        ("degrade.yaml", {"degrad": {}}, ("degrade.yaml", "unknown parameter 'degrad'")),
        ("data.yaml", {"data__source": "cocoo"}, ("source", "did you mean 'coco'?")),
        ("evaluate.yaml", {"evaluate__oks_nms_threshold": 2.0}, ("oks_nms_threshold must be in (0, 1]",)),
        ("pipeline.yaml", {"flow__max_parallel": 0}, ("flow.max_parallel",)),
        ("pipeline.yaml", {"variants__typo_64x48": {"table": "demo", "shards": "direct_64x48"}}, ("unknown variant 'typo_64x48'",)),
        ("pipeline.yaml", {"shards__direct_64x48__protocol": "sensor"}, ("shards.direct_64x48", "'sensor_64x48'")),
        ("variants/demo.yaml", {"hrnet_tiny_synthetic_64x48__backbone": "hrnet_tinny"}, ("unknown backbone 'hrnet_tinny'", "hrnet_tiny")),
        ("variants/demo.yaml", {"hrnet_tiny_synthetic_64x48__train": {"lr": 1}}, ("hrnet_tiny_synthetic_64x48: train", "parameter 'lr'")),
    ],
)
def test_a_wrong_parameter_is_told_before_anything_runs(here, console, file, changes, parts):
    edit(here / "params" / file, **changes)
    assert_one_line(console.farpose("params"), *parts)
    assert not (here / "artifacts").exists()


def test_run_checks_the_parameters_first(here, console):
    edit(here / "params" / "train.yaml", train__epoch=3)
    assert_one_line(console.farpose("run"), "unknown parameter 'epoch'")
    assert not (here / "mlruns").exists()  # no server, no store


def test_a_missing_parameter_file_is_named(here, console):
    (here / "params" / "evaluate.yaml").unlink()
    assert_one_line(console.farpose("params"), "evaluate.yaml: parameter file not found")


def test_params_prints_a_variant_resolved(console):
    done = console.farpose("params", "cal_hrnet_tiny_synthetic_64x48")
    assert done.returncode == 0, done.stderr
    for line in ("variant.method: cal", "crop.convention: unbiased", "recipe.seed: 0"):
        assert line in done.stdout.splitlines()
    assert_one_line(console.farpose("params", "cal_hrnet_tinny_synthetic_64x48"), "did you mean 'cal_hrnet_tiny_synthetic_64x48'?")


def test_params_prints_what_a_variant_costs_and_what_its_paper_says(console):
    done = console.farpose("params", "srpose_resnet50_coco_256x192")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 120
    costs = ["backbone_m: 23.508", "head_m: 1.289", "train_only_m: 0.318", "fixed_m: 0.0", "m: 25.115"]
    for line in (*(f"costs.params_{cost}" for cost in costs), "costs.gmacs: 4.5759", "costs.gflops_by_mmcv: 4.6114", "paper.gflops: 4.61"):
        assert line in lines
    assert "codec.sigma: 8.0" in lines and "recipe.optimiser: adam" in lines
    assert not any(line.startswith("variant.network.keep") for line in lines)  # SHaRPose's
    assert not any(line.startswith("paper.") for line in console.farpose("params", "hrnet_tiny_coco_64x48").stdout.splitlines())


def test_models_lists_every_variant_with_its_costs(capsys):
    from components.models import zoo

    assert cli.main(["models"]) == 0
    said = capsys.readouterr()
    rows = said.out.splitlines()
    assert set(zoo.load_variants()) <= {row.split()[0] for row in rows if row.strip()}
    row = next(row for row in rows if row.startswith("srpose_hrformer_s_coco_256x192 "))
    assert row.split()[1:] == ["7.891", "0.649", "0.318", "3.740", "3.302", "3.34", "mmcv", "256x192", "coco", "AP", "75.6"]
    assert max(map(len, rows)) <= 160 and not any("…" in row for row in rows)  # nothing is cut off
    assert said.err == ""  # all counts are kept, so that it answers at once


def test_models_filters_and_speaks_json(capsys):
    assert cli.main(["models", "--method", "siu", "--dataset", "wholebody", "--size", "384x288", "--json"]) == 0
    found = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert {(entry["method"], entry["dataset"], *entry["input_size"]) for entry in found.values()} == {("siu", "wholebody", 384, 288)}
    entry = found["siu_hrnet_w32_wholebody_384x288"]
    assert (entry["tool"], entry["paper"]["gflops"], round(entry["costs"]["tools"]["fvcore"] / 1e9, 3)) == ("fvcore", 16.6, 16.631)
    assert entry["costs"]["params"] == entry["costs"]["params_backbone"] + entry["costs"]["params_head"]


@pytest.mark.parametrize(
    ("filter_", "problem"),
    [(["--method", "srpse"], "unknown method 'srpse' (did you mean 'srpose'?)"), (["--size", "64x47"], "unknown size '64x47'")],
)
def test_models_names_a_filter_that_fits_nothing(capsys, filter_, problem):
    assert cli.main(["models", *filter_]) == 1
    assert problem in capsys.readouterr().err


def test_models_counts_what_is_not_kept_and_says_so(monkeypatch, capsys):
    from pipelines import counts

    monkeypatch.setattr(counts, "stored", dict)
    assert cli.main(["models", "--method", "cal", "--dataset", "synthetic"]) == 0
    said = capsys.readouterr()
    row = next(row for row in said.out.splitlines() if row.startswith("cal_hrnet_tiny_synthetic_64x48 "))
    assert row.split()[1:4] == ["0.740", "0.020", "0.031"]
    assert "counting 2 network" in said.err and "farpose models --count" in said.err


def test_an_example_is_laid_over_the_parameters_but_not_over_edits(here, console):
    example = here / "params" / "examples" / "short"
    example.mkdir(parents=True)
    short = yaml.safe_load((here / "params" / "train.yaml").read_text())
    short["train"]["epochs"] = 3
    (example.parent / "shorter").mkdir()
    (example.parent / "shorter" / "train.yaml").write_text("_like: short\ntrain:\n  batch_size: 5\n")
    (example / "train.yaml").write_text("train:\n  epochs: 3\n")
    own = "mine_hrnet_tiny_synthetic_64x48:\n  like: hrnet_tiny_synthetic_64x48\n  tag: mine\n"  # a file that params/ does not have
    (example / "variants").mkdir()
    (example / "variants" / "mine.yaml").write_text(own)
    git(here, "add", "--all")
    git(here, "commit", "--quiet", "--message", "example")
    edited = here / "params" / "evaluate.yaml"
    before = edited.read_text()
    edited.write_text(before + "# mine\n")
    assert_one_line(console.farpose("params", "--apply", "short"), "params/evaluate.yaml", "not committed", "--force")
    assert_one_line(console.farpose("params", "--apply", "shrot", "--force"), "unknown example 'shrot'", "did you mean 'short'?")
    done = console.farpose("params", "--apply", "short", "--force")
    assert done.returncode == 0 and "+  epochs: 3 " in done.stdout
    assert yaml.safe_load((here / "params" / "train.yaml").read_text()) == short
    assert edited.read_text() == before + "# mine\n" and (here / "params" / "variants" / "mine.yaml").read_text() == own
    assert console.farpose("params", "--apply", "shorter", "--force").returncode == 0
    short["train"]["batch_size"] = 5
    assert yaml.safe_load((here / "params" / "train.yaml").read_text()) == short


def test_every_committed_example_is_valid(here, console):
    """Laid over the defaults, each passes the check of all parameters."""
    examples = sorted(path.name for path in (REPOSITORY / "params" / "examples").iterdir() if path.is_dir())
    for name in examples:
        git(here, "checkout", "--quiet", "--", "params")
        assert console.farpose("params", "--apply", name).returncode == 0
        done = console.farpose("params")
        assert done.returncode == 0, f"{name}: {done.stderr}"


def test_a_variant_outside_the_pipeline_must_name_its_crops(here, console):
    name = "hrnet_w32_coco_256x192"
    assert_one_line(console.farpose("train", name), name, "not in params/pipeline.yaml", "--shards")
    assert_one_line(console.farpose("predict", __file__, "--variant", name), f"variant '{name}' is not trained", f"farpose train {name}")


def test_stages_name_what_is_missing(here, console):
    assert_one_line(console.farpose("stage", "fetch"), "raw data not found", "farpose acquire synthetic")
    assert_one_line(console.farpose("stage", "degrade", "direct_64x48"), "persons table not found", "fetch stage")
    assert_one_line(console.farpose("stage", "degrade", "direct_32x24"), "unknown shards 'direct_32x24'")
    assert_one_line(console.farpose("stage", "train", "dark_fused_fpn_synthetic_64x48_x2"), "no crop shard here", "degrade")
    assert_one_line(console.farpose("stage", "evaluate", "dark_fused_fpn_synthetic_64x48_x2"), "weights file not found", "train")


def test_doctor_says_what_is_missing(here, console):
    (here / "requirements.lock").write_text((REPOSITORY / "requirements.lock").read_text())
    done = console.farpose("doctor")
    assert done.returncode == 0, done.stderr
    assert "missing: farpose acquire synthetic" in done.stdout and "CPU cores" in done.stdout and "sqlite:///" in done.stdout


def test_pipeline_names_its_variants_and_shards():
    pipeline = settings.load()
    assert pipeline.shards_of("cal_fused_fpn_synthetic_64x48_x2") == "direct_64x48"
    with pytest.raises(FarposeError, match="not in the pipeline"):
        pipeline.shards_of("hrnet_w32_coco_256x192")


def test_a_table_is_aligned_for_the_terminal():
    shown = terminal.aligned("| name | AP |\n| --- | ---: |\n| a | 1.0 |\n| longer | 12.0 |\n\nnote\n").splitlines()
    assert shown == ["name      AP", "------  ----", "a        1.0", "longer  12.0", "", "note"]


def test_boxes_are_matched_by_file_name_or_by_number(tmp_path):
    files = {number: photographs.Photograph(tmp_path / f"00000{number}.jpg", 40, 30, False) for number in (7, 9)}
    annotations = {
        "images": [{"id": 1, "file_name": "val/000009.jpg"}, {"id": 2, "file_name": "000011.jpg"}],
        "annotations": [{"image_id": 1, "bbox": [1, 2, 3, 4]}, {"image_id": 2, "bbox": [0, 0, 1, 1]}],
    }
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(annotations))
    found = photographs.given(path, files).boxes
    assert len(found[7]) == 0 and np.array_equal(found[9], [[1, 2, 3, 4]])
    path.write_text(json.dumps([{"image_id": 7, "bbox": [5, 6, 7, 8], "score": 0.5, "category_id": 1}]))
    found = photographs.given(path, files).boxes
    assert len(found[9]) == 0 and np.array_equal(found[7], [[5, 6, 7, 8]])
    path.write_text(json.dumps({"images": [{}], "annotations": []}))
    with pytest.raises(FarposeError, match="neither COCO annotations nor COCO detections"):
        photographs.given(path, files)


def test_images_are_numbered_by_coco_names_or_counted(tmp_path):
    named = [tmp_path / "000000000042.jpg", tmp_path / "7.png"]
    other = [*named, tmp_path / "street.jpg"]
    for path in other:
        path.write_bytes(b"")
    assert list(photographs.unique(named)) == [42, 7] and list(photographs.unique(other)) == [1, 2, 3]
    with pytest.raises(FarposeError, match="image not found"):
        photographs.unique([tmp_path / "missing.jpg"])
    (tmp_path / "7.jpg").write_bytes(b"")
    with pytest.raises(FarposeError, match="same name"):
        photographs.unique([*named, tmp_path / "7.jpg"])
    (tmp_path / "007.png").write_bytes(b"")
    assert list(photographs.unique([tmp_path / "7.png", tmp_path / "007.png"])) == [1, 2]  # one number is not two images
