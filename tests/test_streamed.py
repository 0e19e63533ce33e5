"""Crops and images that do not fit in the device's memory: read from the disk, batch by batch, with the same results."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from components.base.files import sha256_of
from components.degrade import streamed
from components.degrade.image_shards import TrainImages
from components.degrade.shards import TrainCrops
from components.degrade.streamed import Place, chosen, picked, tensors
from components.train.loop import train
from tests.test_resume import RECIPE, variant
from tests.tiny_image_shard import write_tiny_image_shard
from tests.tiny_shard import write_tiny_shard

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> dict[str, Path]:
    return {
        "crops": write_tiny_shard(tmp_path_factory.mktemp("crops")),
        "images": write_tiny_image_shard(tmp_path_factory.mktemp("images")),
    }


OPEN = {"crops": TrainCrops.open, "images": TrainImages.open}


@pytest.mark.parametrize("what", OPEN)
def test_picked_rows_hold_the_same_pixels_and_columns(what, shards):
    store = OPEN[what](shards[what])
    rows = [len(store) - 1, 0, 1, 1]
    few = picked(store, rows)
    for name, tensor in tensors(store).items():
        if name not in ("pixels", "offset"):
            assert torch.equal(getattr(few, name), tensor[rows]), name
    for place, row in enumerate(rows):
        size = int(store.height[row]) * int(store.width[row])
        assert torch.equal(few.pixels[few.offset[place] :][:size], store.pixels[store.offset[row] :][:size])
    assert few.pixels.numel() == sum(int(store.height[row]) * int(store.width[row]) for row in rows)


@pytest.mark.parametrize("method", ["hrnet", "higherpose"])
def test_training_from_the_disk_ends_with_the_same_bytes(method, shards, tmp_path, monkeypatch, capfd):
    trained = variant(method)
    for name in ("resident", "streamed"):
        train(trained, shards[trained.approach], tmp_path / name, RECIPE, "cpu", tmp_path / "checkpoints")
        if name == "resident":
            assert "a thread fetches" not in capfd.readouterr().err
            monkeypatch.setattr(streamed, "chosen", lambda *_: (True, "a thread fetches each batch's"))
    assert "a thread fetches" in capfd.readouterr().err
    for name in ("model.safetensors", "history.json"):
        assert sha256_of(tmp_path / "streamed" / name) == sha256_of(tmp_path / "resident" / name)


def test_a_batch_that_was_expected_is_read_before_it_is_asked_for(shards, monkeypatch):
    store = TrainCrops.open(shards["crops"])
    monkeypatch.setattr(streamed, "chosen", lambda *_: (True, ""))
    place, read = Place(store, CPU, "crops"), []
    monkeypatch.setattr(streamed, "picked", lambda store, rows, pinned: read.append(rows) or picked(store, rows, pinned))
    place.expect(torch.tensor([3, 1]))
    place._coming[1].result(timeout=60)
    assert read == [[3, 1]]
    found, rows = place.rows(torch.tensor([3, 1]))
    assert read == [[3, 1]] and rows.tolist() == [0, 1] and torch.equal(found.annotation_id, store.annotation_id[[3, 1]])
    place.expect(torch.tensor([0]))
    assert place.rows(torch.tensor([2]))[0].annotation_id.tolist() == store.annotation_id[[2]].tolist(), (
        "another batch than the expected one"
    )


@pytest.mark.parametrize(("free_share", "streams"), [(10.0, False), (1.45, False), (1.4, True), (0.1, True)])
def test_the_free_memory_decides_and_is_named(free_share, streams, shards, monkeypatch):
    store = TrainCrops.open(shards["crops"])
    needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors(store).values())
    monkeypatch.setattr(streamed, "free_bytes", lambda device: int(free_share * needed))
    found, said = chosen(store, GPU, "crops")
    assert found == streams and "free on cuda" in said and ("stay on the disk" in said) == streams
    assert chosen(dataclasses.replace(store), CPU, "crops") == (False, "")
