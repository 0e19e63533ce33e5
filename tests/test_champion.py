"""A person makes a version the champion in MLflow's pages, `farpose` reads it, and MLflow serves it, offline."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import requests
import torch

from components.degrade.params import DegradeParams, ShardSpec
from components.evaluate.params import EvaluateParams
from components.models import zoo
from components.models.weights import save_weights
from components.registry import promotion, register, store, tracking
from tests.browser import PATIENCE_S, Browser
from tests.mlflow_server import Server, free_port
from tests.repositories import REPOSITORY, copy_of_this, python, variables
from tests.test_registry import NAME, packaged

CHOSEN = "@ champion"  # as the page shows it
GUIDE = (REPOSITORY / "docs" / "operate.md").read_text()


@pytest.fixture
def clone(tmp_path: Path, empty_tables: Path, monkeypatch) -> Path:
    """A clone whose store holds two versions of a model with random weights; the second is the challenger, nobody the champion."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    repository = copy_of_this(tmp_path / "a clone")
    (repository / "mlruns").mkdir()
    shutil.copy(empty_tables, repository / "mlruns" / "mlflow.db")
    spec = asdict(ShardSpec((64, 48), "direct"))
    preparation = {"shards": spec, "degrade": asdict(DegradeParams()), "evaluate": asdict(EvaluateParams())}
    variant, examples = zoo.variant(NAME), np.zeros((2, 3, 64, 48), np.uint8)
    for seed in (0, 1):
        torch.manual_seed(seed)
        weights = tmp_path / str(seed) / "model.safetensors"
        weights.parent.mkdir()
        save_weights(weights, zoo.build(variant).model, {"variant": NAME})
        with tracking.run(f"register@{NAME}", repository=repository) as run:
            made = register.Candidate(variant, weights, "# card", {"AP_gt_boxes": 0.25}, examples, {}, preparation, packaged(variant))
            register.register(made, run)
    return repository


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_person_promotes_in_the_page_and_the_champion_is_served(clone, tmp_path):
    assert promotion.champion(clone) is None
    with Server(tmp_path / "server", "--backend-store-uri", store.tracking_uri(clone)).start() as server:
        with Browser() as browser:
            promote(browser, f"{server.url}/#/models/{NAME}/versions/1?workflowType=machine_learning")
        held = promotion.champion(clone)
        assert held is not None and (held.name, str(held.version)) == (NAME, "1")
        assert str(promotion.find(f"{NAME}@challenger", clone).version) == "2"
        assert promotion.read(held, clone).weights.read_bytes() == (tmp_path / "0" / "model.safetensors").read_bytes()
        predicting = python(clone, "from pipelines.commands.predict import chosen; print(chosen(None, None).built.variant.name)")
        assert predicting.stdout.strip() == NAME, predicting.stderr
        serve(clone, server, tmp_path)


PENCIL = "document.querySelector('button[data-component-id*=modelversionviewaliaseditor]')"
FIELD = "document.querySelector('[role=dialog] input')"


def promote(browser: Browser, page: str) -> None:
    """As a person does: open the version, press the pencil beside its aliases, write one, save, and see it."""
    browser.visit(page, width=2200)  # on a narrow page beside MLflow's assistant the long names cover the pencil
    end = time.monotonic() + PATIENCE_S
    while not browser.run(f"document.activeElement && document.activeElement === {FIELD}"):  # the page draws itself anew while it loads
        assert time.monotonic() < end, browser.run("document.body.innerText")
        browser.click(FIELD if browser.run(f"!!{FIELD}") else PENCIL)
        time.sleep(1.0)
    browser.type("champion")
    browser.click("document.querySelector('[data-component-id=\"mlflow.edit-aliases-modal.save-button\"]')")
    browser.wait(f"!document.querySelector('[role=dialog]') && document.body.innerText.replace(/\\s+/g, ' ').includes({CHOSEN!r})")


def serve(clone: Path, server: Server, folder: Path) -> None:
    """The guide's command and request, word by word but for the ports."""
    port = free_port()
    command = next(line for line in GUIDE.splitlines() if "mlflow models serve" in line).partition("mlflow models serve")[2]
    arguments = command.replace("models:/NAME@", f"models:/{NAME}@").replace("5002", str(port)).split()
    asked = variables() | {"MLFLOW_TRACKING_URI": server.url}
    blocked = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")  # the internet is not there
    blocked |= dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
    with open(folder / "serve.log", "wb") as log:
        serving = subprocess.Popen(
            ["mlflow", "models", "serve", *arguments], cwd=folder, env=asked | blocked, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not listens(port):
            assert time.monotonic() < deadline and serving.poll() is None, (folder / "serve.log").read_text()[-3000:]
            time.sleep(0.3)
        picture = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / "IMAGE.png"), picture)
        request = re.search(r"python - IMAGE > request.json <<'END'\n(.*?)\nEND\n(curl [^\n]*)", GUIDE, re.DOTALL)
        assert request is not None
        typed = request[0].replace("IMAGE", "IMAGE.png").replace("5002", str(port))
        done = subprocess.run(["bash", "-c", typed], cwd=folder, env=asked, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)["predictions"]
        crops = np.array(json.loads((folder / "request.json").read_text())["inputs"], np.uint8)
        own = register.load(NAME, register.CHAMPION, clone).predict(crops)
        assert crops.shape == (1, 64, 48, 3) and np.array(found["keypoints"]).shape == (1, 17, 2)
        np.testing.assert_allclose(np.array(found["keypoints"]), own["keypoints"], atol=1e-3)
        other = register.load(NAME, register.CHALLENGER, clone).predict(crops)
        assert np.abs(np.array(found["keypoints"]) - other["keypoints"]).max() > 0.1  # it is the champion that is served
    finally:
        os.killpg(serving.pid, signal.SIGKILL)
        serving.wait()


def listens(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/ping", timeout=10).ok
    except requests.RequestException:
        return False
