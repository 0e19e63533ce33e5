"""Weights files: what is saved comes back, and a wrong, damaged or unsafe file is named."""

from __future__ import annotations

import pytest
import torch

from components.base.errors import FarposeError
from components.models import zoo
from components.models.weights import load_weights, read_metadata, save_weights

OURS = zoo.variant("hrnet_tiny_coco_64x48")
OTHER = zoo.variant("dark_hrnet_tiny_coco_64x48")
METADATA = {"variant": OURS.name, "method": OURS.method, "dataset": OURS.dataset, "seed": "0", "git_commit": "abc"}


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model = zoo.network(OURS).to(memory_format=torch.channels_last)
    path = tmp_path / "model.safetensors"
    save_weights(path, model, METADATA)
    return path, model


def test_what_was_saved_comes_back(saved):
    path, model = saved
    state = load_weights(path, OURS)
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, state[name]) and value.dtype == state[name].dtype for name, value in model.state_dict().items())
    assert read_metadata(path) == METADATA


def test_equal_weights_give_equal_bytes(saved, tmp_path):
    path, model = saved
    save_weights(tmp_path / "again.safetensors", model.state_dict(), dict(reversed(METADATA.items())))
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_another_variant_s_weights_are_refused_naming_both(saved):
    with pytest.raises(FarposeError, match=f"model.safetensors.*'{OURS.name}'.*'{OTHER.name}'"):
        load_weights(saved[0], OTHER)


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_a_truncated_file_is_refused(saved, keep):
    path, _ = saved
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FarposeError, match=r"model\.safetensors: damaged"):
        load_weights(path, OURS)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_refused(saved, zipped):
    path, model = saved
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(FarposeError, match="a pickle, which may run code"):
        load_weights(path, OURS)


def test_weights_that_do_not_say_whose_they_are_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    with pytest.raises(FarposeError, match="does not say which variant"):
        load_weights(tmp_path / "foreign.safetensors", OURS)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FarposeError, match=r"none\.safetensors: weights file not found"):
        load_weights(tmp_path / "none.safetensors", OURS)


def test_a_failed_write_leaves_the_earlier_file(saved):
    path, model = saved
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_weights(path, model, {"variant": object()})
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]
