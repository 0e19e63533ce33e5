"""Authors' files: tensors are found wherever they lie, nothing in a file is ever run, and what does not fit is told apart."""

from __future__ import annotations

import argparse
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from components.base.errors import FarposeError
from components.models import checkpoints, official

STATE = {"conv1.weight": torch.arange(6.0).view(2, 3), "bn1.bias": torch.ones(2)}


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("content", [
    STATE,
    {"state_dict": STATE, "epoch": 210, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}},
    {"model": STATE, "args": argparse.Namespace(lr=0.1)},
    {"state_dict": STATE, "perf": np.float64(0.75), "best": np.float32(1), "step": np.int64(3)},
    {"model": {"state_dict": STATE}},
    {"model": {"conv1.weight": torch.zeros(2, 3)}, "model_ema": STATE},
    {"params": {"conv1.weight": torch.zeros(2, 3)}, "params_ema": STATE},
    {"state_dict": {"conv1.weight": torch.zeros(2, 3)}, "ema": {"shadows": STATE, "decay": 0.9}},
])  # fmt: skip
@pytest.mark.parametrize("legacy", [False, True])
def test_the_tensors_are_found_wherever_they_lie(tmp_path, content, legacy):
    torch.save(content, tmp_path / "model.pth.tar", _use_new_zipfile_serialization=not legacy)
    assert equal(checkpoints.read(tmp_path / "model.pth.tar"), STATE)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_safetensors_are_known_by_their_content(tmp_path, name):
    save_file(STATE, tmp_path / name)
    assert equal(checkpoints.read(tmp_path / name), STATE)


class Harmful:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("write", [
    lambda content, path: torch.save(content, path),
    lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    lambda content, path: path.write_bytes(pickle.dumps(content)),
    lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2)),
])  # fmt: skip
@pytest.mark.parametrize("wrap", [lambda bad: bad, lambda bad: {"state_dict": STATE, "hook": bad}, lambda bad: {"conv1.weight": bad}])
def test_code_in_a_file_is_never_run(tmp_path, write, wrap):
    trace, path = tmp_path / "trace", tmp_path / "model.pth"
    write(wrap(Harmful(trace)), path)
    with pytest.raises(FarposeError, match=r"model\.pth: holds more than tensors: .*, which.*never run"):
        checkpoints.read(path)
    assert not trace.exists()
    with open(path, "rb") as stream:  # the file is one that would have run it
        torch.load(stream, weights_only=False) if write.__code__.co_names[0] == "torch" else pickle.load(stream)
    assert trace.is_dir()


def test_a_class_of_the_authors_is_named(tmp_path):
    torch.save({"state_dict": STATE, "config": checkpoints.Fit({}, [], {}, [], [])}, tmp_path / "model.pth")
    with pytest.raises(FarposeError, match=r"components\.models\.checkpoints\.Fit.*save its state_dict alone"):
        checkpoints.read(tmp_path / "model.pth")


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_truncated_file_is_damaged(tmp_path, name, share):
    whole = {"conv1.weight": torch.randn(64, 64)}
    save_file(whole, tmp_path / name) if name.endswith("safetensors") else torch.save(whole, tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(FarposeError, match=f"{name}: damaged") as caught:
        checkpoints.read(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no weights at all", b"\x89PNG\r\n\x1a\n" + bytes(50), b"{}", b"<html>404</html>", bytes(100)])
def test_other_files_are_no_checkpoints(tmp_path, content):
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(FarposeError, match=r"model\.pth: damaged, or no checkpoint"):
        checkpoints.read(tmp_path / "model.pth")


@pytest.mark.parametrize("content", [[torch.zeros(3)], torch.zeros(3), {"epoch": 3}, {"state_dict": {}}, 7])
def test_a_file_without_named_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(FarposeError, match="holds no state_dict"):
        checkpoints.read(tmp_path / "model.pth")


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(FarposeError, match=r"none\.pth: weights file not found"):
        checkpoints.read(tmp_path / "none.pth")
    with pytest.raises(FarposeError, match="is a folder"):
        checkpoints.read(tmp_path)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model.", "_orig_mod.module."])
def test_wrappers_before_the_keys_are_taken_off(prefix):
    state = {**{prefix + key: value for key, value in STATE.items()}, "n_averaged": torch.tensor(3)}
    assert equal(checkpoints.unwrapped(state, STATE), {**STATE, "n_averaged": torch.tensor(3)})


def test_names_that_begin_like_a_wrapper_stay():
    """SPSR's own names begin with `model.`."""
    state = {"model.0.weight": torch.zeros(1), "b_fea_conv.0.bias": torch.zeros(1)}
    assert equal(checkpoints.unwrapped(state, state), state)


TINY = "hrnet_tiny_coco_64x48"


@pytest.fixture(scope="module")
def needed() -> official.Expected:
    return official.expected(TINY)


@pytest.fixture
def state(needed) -> dict[str, torch.Tensor]:
    return {key: torch.zeros(value.shape) for key, (_, value) in needed.tensors.items()}


def test_what_fits_is_used_and_what_does_not_is_told_apart(needed, state):
    state["final_layer.bias"] = torch.zeros(16)
    del state["layer1.0.bn1.weight"], state["bn1.num_batches_tracked"]
    extra = {"surplus.weight": torch.zeros(1), "classifier.weight": torch.zeros(1000, 8), "aux_head.bias": torch.zeros(1)}
    fit = checkpoints.compare({f"module.{key}": value for key, value in {**state, **extra}.items()}, needed)
    assert fit.missing == ["layer1.0.bn1.weight"]
    assert fit.misshapen == {"final_layer.bias": ((16,), (17,))}
    assert fit.left_over == ["surplus.weight"]
    assert fit.ignored == ["classifier.weight", "aux_head.bias"]
    assert fit.used.keys() == state.keys() - {"final_layer.bias"}
    assert not fit.complete


@pytest.mark.parametrize("wrapper", ["", "module."])
@pytest.mark.parametrize("head", ["keypoint_head.", "head."])
def test_mmpose_s_names_fit_as_well(needed, state, wrapper, head):
    renamed = {wrapper + (head if key.startswith("final_layer.") else "backbone.") + key: value for key, value in state.items()}
    assert checkpoints.compare(renamed, needed).used.keys() == state.keys()


def test_the_variants_that_a_checkpoint_fits_are_found(state, monkeypatch):
    variants = {name: checkpoints.zoo.variant(name) for name in (TINY, "dark_hrnet_tiny_coco_64x48", "cal_hrnet_tiny_coco_64x48",
                                                                 "udp_offset_hrnet_tiny_coco_64x48")}  # fmt: skip
    monkeypatch.setattr(checkpoints.zoo, "load_variants", lambda: variants)
    assert checkpoints.owners(state, "cal_hrnet_tiny_coco_64x48") == [TINY, "dark_hrnet_tiny_coco_64x48"]
    assert checkpoints.owners(state, TINY) == ["dark_hrnet_tiny_coco_64x48"]
    assert checkpoints.owners({"other": torch.zeros(1)}, TINY) == []
