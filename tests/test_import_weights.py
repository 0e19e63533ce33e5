"""`farpose import-weights`: what is used, missing and left over is said, and what is wrong ends in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from components.base.errors import FarposeError
from components.base.files import sha256_of
from components.models import official, spsr, zoo
from components.models.weights import load_weights, read_metadata
from pipelines import cli, paths, stages
from tests.models.fill import filled, fixed_input
from tests.test_official import shapes_of

TINY = "hrnet_tiny_coco_64x48"


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in filled(shapes_of(TINY)).items()}


@pytest.fixture
def target(tmp_path, monkeypatch) -> Path:
    """Where the command writes by default."""
    monkeypatch.setattr(paths, "WEIGHTS", tmp_path / "weights")
    return tmp_path / "weights" / f"{TINY}.safetensors"


@pytest.fixture
def few_variants(monkeypatch) -> None:
    """Three variants instead of hundreds that a checkpoint may belong to."""
    known = {name: zoo.variant(name) for name in (TINY, "dark_hrnet_tiny_coco_64x48", "cal_hrnet_tiny_coco_64x48")}
    monkeypatch.setattr(zoo, "load_variants", lambda *args: known)


def refused(capsys, *arguments: object) -> str:
    """The one line that the command ends with."""
    assert cli.main(["import-weights", *map(str, arguments)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("farpose: error: ") and "Traceback" not in error and "not foreseen" not in error
    return error


def test_an_author_s_file_becomes_weights_of_ours(tmp_path, target, state, capsys):
    source = tmp_path / "pose_hrnet.pth.tar"
    extra = {"classifier.weight": torch.zeros(9), "surplus.bias": torch.zeros(2), "bn1.num_batches_tracked": torch.tensor(7)}
    torch.save({"epoch": 210, "perf": np.float64(0.7), "state_dict": {f"module.{k}": v for k, v in {**state, **extra}.items()}}, source)
    assert cli.main(["import-weights", TINY, str(source)]) == 0
    said = capsys.readouterr().out
    assert f"{len(state) + 1} of {len(state) + 3} keys are used" in said
    assert "1 left over: surplus.bias" in said and "pose network): classifier.weight" in said and "missing" not in said
    assert f"--variant {TINY} --weights {target}" in said
    assert read_metadata(target) == {"variant": TINY, "source": "pose_hrnet.pth.tar", "source_sha256": sha256_of(source)}
    images = fixed_input((2, 3, 64, 48))
    (expected,) = official.outputs(official.load(TINY, state), images)
    built = stages.trained(zoo.variant(TINY), target)
    (heatmaps,) = official.outputs(built.model, images)
    assert torch.equal(heatmaps, expected)


def test_the_output_may_be_named_and_equal_files_give_equal_bytes(tmp_path, target, state):
    save_file(state, tmp_path / "weights.safetensors")
    for name in ("a", "b"):
        output = str(tmp_path / "elsewhere" / f"{name}.safetensors")
        assert cli.main(["import-weights", TINY, str(tmp_path / "weights.safetensors"), "--output", output]) == 0
    assert sha256_of(tmp_path / "elsewhere" / "a.safetensors") == sha256_of(tmp_path / "elsewhere" / "b.safetensors")
    assert not target.exists()


def test_the_generator_of_spsr_is_imported_by_its_own_name(tmp_path, target, capsys, monkeypatch):
    monkeypatch.setitem(official.OTHERS, "spsr_x4", lambda: spsr.Generator(width=8, growth=8))
    generator = spsr.Generator(width=8, growth=8)
    alias = {"HR_conv0_new.0.weight": generator.model[8].weight.data, "get_g_nopadding.weight_h": torch.zeros(1, 1, 3, 3)}
    torch.save({**generator.state_dict(), **alias}, tmp_path / "spsr.pth")
    assert cli.main(["import-weights", "spsr_x4", str(tmp_path / "spsr.pth")]) == 0
    said = capsys.readouterr().out
    assert "2 ignored" in said and "network: {upscale: spsr}" in said
    saved = load_weights(target.with_name("spsr_x4.safetensors"), "spsr_x4")
    assert all(torch.equal(value, saved[key]) for key, value in generator.state_dict().items())


def test_missing_keys_are_named_and_listed(tmp_path, target, state, capsys, few_variants):
    torch.save({key: value for key, value in state.items() if not key.startswith("final_layer.")}, tmp_path / "model.pth")
    code = cli.main(["import-weights", TINY, str(tmp_path / "model.pth")])
    said = capsys.readouterr()
    assert code == 1 and "2 missing: final_layer.weight, final_layer.bias" in said.out
    assert f"not a checkpoint of {TINY}: 2 keys missing (final_layer.weight, final_layer.bias)" in said.err
    assert not target.exists()


def test_a_checkpoint_of_another_variant_is_told_whose_it_is(tmp_path, target, state, capsys, few_variants):
    torch.save(state, tmp_path / "model.pth")
    error = refused(capsys, "cal_hrnet_tiny_coco_64x48", tmp_path / "model.pth")
    assert "keys missing" in error and f"it fits {TINY}, dark_{TINY}" in error
    torch.save({**state, "final_layer.weight": state["final_layer.weight"][:16]}, tmp_path / "model.pth")
    error = refused(capsys, TINY, tmp_path / "model.pth")
    assert "final_layer.weight is (16, 16, 1, 1) instead of (17, 16, 1, 1)" in error and "none of params/variants/ fits" in error
    assert not target.exists()


class Harmful:
    """Makes a folder if it is ever unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_pickled_code_is_refused_and_not_run(tmp_path, target, state, capsys):
    trace, source = tmp_path / "trace", tmp_path / "model.pth"
    torch.save({"state_dict": state, "hook": Harmful(trace)}, source)
    assert "posix.mkdir, which reading would run" in refused(capsys, TINY, source)
    assert not trace.exists() and not target.exists()
    torch.load(source, weights_only=False)  # it would have
    assert trace.is_dir()


def test_what_is_no_checkpoint_is_one_clear_line_each(tmp_path, target, state, capsys):
    torch.save(state, tmp_path / "whole.pth")
    (tmp_path / "half.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:30_000])
    (tmp_path / "text.pth").write_text("<html>not found</html>")
    assert "half.pth: damaged, or no checkpoint" in refused(capsys, TINY, tmp_path / "half.pth")
    assert "text.pth: damaged, or no checkpoint" in refused(capsys, TINY, tmp_path / "text.pth")
    assert "none.pth: weights file not found" in refused(capsys, TINY, tmp_path / "none.pth")
    assert "is a folder" in refused(capsys, TINY, tmp_path)
    assert "did you mean 'hrnet_tiny_coco_64x48'" in refused(capsys, "hrnet_tinny_coco_64x48", tmp_path / "whole.pth")
    assert not target.exists()


def test_a_failed_import_leaves_the_earlier_weights(tmp_path, target, state, few_variants):
    torch.save(state, tmp_path / "good.pth")
    assert cli.main(["import-weights", TINY, str(tmp_path / "good.pth")]) == 0
    before = target.read_bytes()
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "bad.pth")
    with pytest.raises(FarposeError, match="not a checkpoint"):
        cli.main(["--debug", "import-weights", TINY, str(tmp_path / "bad.pth")])
    assert target.read_bytes() == before


def test_predict_takes_the_imported_weights(tmp_path, target, state):
    torch.save(state, tmp_path / "model.pth")
    assert cli.main(["import-weights", TINY, str(tmp_path / "model.pth")]) == 0
    image = np.random.default_rng(0).integers(0, 256, (80, 60, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "person.png"), image)
    arguments = [
        str(tmp_path / "person.png"),
        "--variant",
        TINY,
        "--weights",
        str(target),
        "--whole-image",
        "--output",
        str(tmp_path / "out"),
    ]
    assert cli.main(["predict", *arguments]) == 0
    (person,) = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(person["keypoints"]) == 51
    assert person["provenance"]["weights"]["source"] == "model.pth"
    assert cli.main(["predict", *arguments[:2], f"cal_{TINY}", *arguments[3:]]) == 1  # whose they are not


@pytest.mark.parametrize(("name", "shards"), [(TINY, "some_64x48"), ("dark_fused_fpn_synthetic_64x48_x2", None)])
def test_evaluate_takes_given_weights_and_leaves_the_pipeline_s_results(name, shards, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(stages, "evaluate", lambda *arguments: calls.append(arguments))
    given = ["--shards", shards] if shards else []
    assert cli.main(["evaluate", name, "--weights", str(tmp_path / "x.safetensors"), *given]) == 0
    assert calls == [(name, shards, tmp_path / "x.safetensors", paths.SCRATCH / name / "evaluation")]
