"""Which model predicts: the registry's first, in real stores that answer, are locked, damaged, or away."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from components.degrade.params import DegradeParams, ShardSpec
from components.evaluate.params import EvaluateParams
from components.models import zoo
from components.models.weights import save_weights
from components.registry import promotion, register, store, tracking
from pipelines import choosing, cli, paths
from tests.stand_in import release
from tests.test_registry import packaged, repository  # noqa: F401  (a fixture)

NAME = "hrnet_tiny_coco_64x48"


@pytest.fixture
def image(tmp_path) -> Path:
    cv2.imwrite(str(tmp_path / "image.png"), np.random.default_rng(0).integers(0, 256, (80, 60, 3), np.uint8))
    return tmp_path / "image.png"


def weights(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    path = folder / NAME / "model.safetensors"
    save_weights(path, zoo.build(zoo.variant(NAME)).model, {"variant": NAME})
    return path


@pytest.fixture(autouse=True)
def here(repository, tmp_path, monkeypatch):  # noqa: F811
    """A clone with a released model, a store of its own, and no training."""
    monkeypatch.setenv("FARPOSE_DEVICE", "cpu")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.own_uri(repository))
    monkeypatch.setattr(paths, "MODELS", tmp_path / "models")
    monkeypatch.setattr(paths, "RELEASED", release(tmp_path / "released" / "own", zoo.variant(NAME), weights(tmp_path / "other", 9)))
    monkeypatch.setattr(choosing, "PATIENCE_S", 0.5)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return repository


def registered(root: Path, folder: Path, seed: int) -> str:
    """The version of newly registered weights."""
    variant, preparation = zoo.variant(NAME), {"shards": ShardSpec((64, 48)), "degrade": DegradeParams(), "evaluate": EvaluateParams()}
    plain = {key: dataclasses.asdict(value) for key, value in preparation.items()}
    crops = np.zeros((2, 3, 64, 48), np.uint8)
    given = register.Candidate(
        variant, weights(folder / str(seed), seed), f"# {seed}", {"AP_gt_boxes": 0.2}, crops, {}, plain, packaged(variant)
    )
    with tracking.run(f"register@{NAME}", repository=root) as run:
        return str(register.register(given, run).version)


def predict(image: Path, *options: str) -> tuple[int, Path]:
    out = image.parent / "out"
    return cli.main(["predict", str(image), "--whole-image", "--no-draw", "--output", str(out), *options]), out


def scores(out: Path) -> list[float]:
    return [record["score"] for record in json.loads((out / "predictions.json").read_text())]


def test_a_variant_that_is_trained_anew_predicts_with_its_registered_version(here, tmp_path, image, capsys):
    registered(here, tmp_path, 1)
    assert registered(here, tmp_path, 2) == "2"
    assert predict(image, "--variant", NAME, "--weights", str(tmp_path / "2" / NAME / "model.safetensors"))[0] == 0
    expected = scores(tmp_path / "out")
    capsys.readouterr()
    code, out = predict(image, "--variant", NAME)
    assert code == 0 and scores(out) == expected
    assert f"note: registered version 2 of {NAME} predicts: the weights of its last training are not there" in capsys.readouterr().out
    weights(paths.MODELS, 3)  # a training that is done and not registered
    assert predict(image, "--variant", NAME)[0] == 0 and scores(out) == expected
    assert f"is another training (`farpose run register@{NAME}`, or --weights FILE)" in capsys.readouterr().out


def test_a_variant_that_was_never_registered_predicts_as_trained(here, image, capsys):
    weights(paths.MODELS, 3)
    store.open_store(here)
    assert predict(image, "--variant", NAME)[0] == 0 and "note:" not in capsys.readouterr().out


def lock(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    return connection


@pytest.mark.parametrize("state", ["locked", "damaged", "away"])
def test_a_store_that_does_not_answer_leaves_the_released_model_and_the_training(here, tmp_path, image, capsys, monkeypatch, state):
    path, opened = store.folder_of(here) / "mlflow.db", contextlib.ExitStack()
    registered(here, tmp_path, 1)
    store.open_store(here)
    if state == "locked":
        opened.enter_context(contextlib.closing(lock(path)))
    elif state == "damaged":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'damaged.db'}")
        (tmp_path / "damaged.db").write_bytes(b"no database " * 500)
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with opened:
        code, out = predict(image)
        said = capsys.readouterr()
        assert code == 0 and len(scores(out)) == 1 and said.err == "", said.err
        assert "note: no champion was read, so the released model own predicts: " in said.out
        assert {"locked": "keeps the database locked", "damaged": "is damaged", "away": "127.0.0.1:9"}[state] in said.out
        trained = weights(paths.MODELS, 3)
        assert predict(image, "--variant", NAME)[0] == 0
        assert f"note: no registered version of {NAME} was read: " in capsys.readouterr().out
        trained.unlink()
        assert predict(image, "--model", f"{NAME}@champion")[0] == 1  # what was named is not replaced
        assert capsys.readouterr().err.count("\n") == 1


def test_a_champion_whose_files_are_gone_is_replaced_by_the_released_model(here, tmp_path, image, capsys):
    client, _ = store.open_store(here)
    registered(here, tmp_path, 1)
    client.set_registered_model_alias(NAME, register.CHAMPION, "1")
    assert predict(image)[0] == 0 and "note:" not in capsys.readouterr().out
    found = promotion.champion(here)
    assert found is not None
    for file in (store.folder_of(here)).rglob("model.safetensors"):
        file.unlink()
    assert predict(image)[0] == 0 and "note: no champion was read" in capsys.readouterr().out
