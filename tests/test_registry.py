"""Runs, lineage, the model card and the model registry, in stores of their own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
import torch

from components.base import imports, origins
from components.base.errors import FarposeError
from components.base.files import sha256_of
from components.degrade.augment import normalise
from components.degrade.image_shards import fitted
from components.degrade.params import DegradeParams, ShardSpec
from components.evaluate.params import BottomUpParams, EvaluateParams
from components.evaluate.predict import outputs_of
from components.evaluate.predict_images import predict_images
from components.models import starts, zoo
from components.models.variant import Variant
from components.models.weights import save_weights
from components.registry import lineage, register, store, tracking
from components.registry.model_card import Facts, model_card
from pipelines import plan
from tests.repositories import REPOSITORY, commit, git

NAME = "cal_hrnet_tiny_synthetic_64x48"


@pytest.fixture
def repository(tmp_path: Path, empty_tables: Path, monkeypatch) -> Path:
    """An empty store, in a path with a space."""
    for variable in ("MLFLOW_TRACKING_URI", tracking.PIPELINE_RUN, tracking.PREFECT_RUN):
        monkeypatch.delenv(variable, raising=False)
    folder = tmp_path / "a store"
    (folder / "mlruns").mkdir(parents=True)
    shutil.copy(empty_tables, folder / "mlruns")
    return folder


@pytest.fixture(scope="module")
def candidate(tmp_path_factory) -> register.Candidate:
    """A variant with random weights and some crops."""
    torch.manual_seed(0)
    variant = zoo.variant(NAME)
    weights = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_weights(weights, zoo.build(variant).model, {"variant": NAME})
    crops = np.random.default_rng(0).integers(0, 256, (5, 3, 64, 48), dtype=np.uint8)
    return register.Candidate(variant, weights, "# card", {"AP_gt_boxes": 0.25}, crops, {"shards": "s1"}, {}, packaged(variant))


def packaged(variant: Variant) -> dict[str, Path]:
    """The modules that the variant's serving imports."""
    sources = imports.read(REPOSITORY)
    return {name: sources.paths[name] for name in plan.code(plan.REGISTER, variant, "direct", sources)["modules"]}


def test_a_stage_run_is_nested_and_finished(repository, monkeypatch):
    with tracking.pipeline_run("prefect-1", repository) as (parent, variables):
        for key, value in variables.items():
            monkeypatch.setenv(key, value)
        with tracking.run("train@x", params={"recipe": {"epochs": 2, "sizes": (64, 48), "none": None}}, repository=repository) as run:
            run.metrics({"AP(M)": 0.5, "nested": {"loss": 1, "text": "no"}, "flag": True}, step=3)
            run.tags({"outcome.train@x": "ran"})
            run.note("2 epochs from random weights")
    client, experiment_id = store.open_store(repository)
    child = client.get_run(run.run_id)
    assert child.data.params == {"recipe.epochs": "2", "recipe.sizes": "[64, 48]"}
    assert child.data.metrics == {"AP M": 0.5, "nested.loss": 1.0, "flag": 1.0}
    assert child.data.tags["mlflow.parentRunId"] == parent.run_id
    assert child.data.tags["mlflow.note.content"] == "2 epochs from random weights"
    assert child.data.tags["prefect.flow_run_id"] == "prefect-1"
    assert child.data.tags["version.torch"] == torch.__version__.split("+")[0] or child.data.tags["version.torch"] == torch.__version__
    assert child.info.status == client.get_run(parent.run_id).info.status == "FINISHED"
    assert client.get_experiment(experiment_id).artifact_location == (repository / "mlruns" / "artifacts").as_uri()


def test_a_fresh_store_needs_no_parent(repository, monkeypatch):
    monkeypatch.setenv(tracking.PIPELINE_RUN, "0" * 32)  # of a store that is gone
    with tracking.run("fetch", repository=repository) as run:
        pass
    assert "mlflow.parentRunId" not in run.client.get_run(run.run_id).data.tags


@pytest.mark.parametrize(("error", "status"), [(FarposeError("row 7 is bad"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_a_run_that_raises_says_so(repository, error, status):
    with pytest.raises(type(error)), tracking.run("fetch", repository=repository) as run:
        raise error
    found = run.client.get_run(run.run_id)
    assert found.info.status == status
    assert status == "KILLED" or found.data.tags["error"] == "row 7 is bad"


def test_runs_left_open_by_a_crash_are_closed_as_killed(repository):
    client, experiment_id = store.open_store(repository)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    mine = store.process_tags()
    host = {store.HOST: socket.gethostname()}
    tags = {
        "crashed": {**host, store.PID: str(gone.pid), store.STARTED: "1.00"},
        "number used again": {**host, store.PID: str(os.getpid()), store.STARTED: "1.00"},
        "alive": mine,
        "elsewhere": {**mine, store.HOST: "another-machine", store.PID: str(gone.pid)},
    }
    runs = {name: client.create_run(experiment_id, run_name=name, tags=values).info.run_id for name, values in tags.items()}
    store.open_store(repository)
    statuses = {name: client.get_run(run_id).info.status for name, run_id in runs.items()}
    assert statuses == {"crashed": "KILLED", "number used again": "KILLED", "alive": "RUNNING", "elsewhere": "RUNNING"}


def test_training_numbers_are_sent_in_batches(repository, monkeypatch):
    with tracking.run("train@x", repository=repository) as run:
        sent: list[int] = []
        log_batch = run.client.log_batch
        monkeypatch.setattr(run.client, "log_batch", lambda *a, **k: (sent.append(len(k["metrics"])), log_batch(*a, **k)))
        tracker = run.tracker()
        for step in range(250):
            tracker.metrics({"loss": 1 / (step + 1)}, step)
        tracker.flush()
    assert sent == [200, 50]
    history = run.client.get_metric_history(run.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(step, 1 / (step + 1)) for step in range(250)]


def test_long_stages_record_the_load_of_the_machine(repository, monkeypatch):
    monkeypatch.setattr(tracking, "WATCH_S", 0.1)
    found = {}
    for kind in ("train", "fetch"):
        with tracking.run(f"{kind}@x", tags={"kind": kind}, repository=repository) as run:
            time.sleep(1.0)
        found[kind] = run.client.get_run(run.run_id).data.metrics
    wanted = {"cpu_utilization_percentage", "system_memory_usage_megabytes", "system_memory_usage_percentage", "network_receive_megabytes"}
    assert {f"system/{name}" for name in wanted} <= set(found["train"]) and found["fetch"] == {}
    assert 0 < found["train"]["system/system_memory_usage_percentage"] <= 100


def test_a_store_that_fails_stops_no_training(repository, monkeypatch, capsys):
    from mlflow.exceptions import MlflowException

    def fail(*arguments, **keywords):
        raise MlflowException("no answer")

    with tracking.run("train@x", repository=repository) as run:
        log_batch = run.client.log_batch
        tracker = run.tracker()
        monkeypatch.setattr(run.client, "log_batch", fail)
        tracker.metrics({"loss": 1.0}, 1)
        tracker.flush()
        assert "1 numbers wait" in capsys.readouterr().err
        monkeypatch.setattr(run.client, "log_batch", log_batch)
        tracker.flush()
    assert run.client.get_run(run.run_id).data.metrics == {"loss": 1.0}


def test_a_store_that_does_not_answer_is_one_line(repository, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(FarposeError, match=r"^http://127.0.0.1:9: no MLflow store: .*set MLFLOW_TRACKING_URI"):
        store.open_store(repository)


def test_registration_is_idempotent_and_the_model_gives_equal_outputs(repository, candidate):
    with tracking.run("register", repository=repository) as run:
        first = register.register(candidate, run)
        again = register.register(candidate, run)
    client = run.client
    assert str(first.version) == str(again.version) == "1"
    held = client.get_model_version_by_alias(NAME, register.CHALLENGER)
    assert str(held.version) == "1" and held.tags[register.WEIGHTS_TAG] == sha256_of(candidate.weights) and held.tags["shards"] == "s1"
    assert held.description == "# card" and client.get_run(held.run_id).info.run_id == run.run_id

    loaded = register.load(NAME, repository=repository)
    crops = np.ascontiguousarray(candidate.examples.transpose(0, 2, 3, 1))
    served = loaded.predict(crops)
    built = zoo.build(candidate.variant)
    built.model.load_state_dict(torch_state(candidate))
    built.model.eval()
    with torch.inference_mode():
        keypoints, scores = built.codec.decode(outputs_of(built.model, built.codec, normalise(torch.from_numpy(candidate.examples))))
    np.testing.assert_allclose(served["keypoints"], built.codec.geometry.heatmap_to_crop(keypoints).numpy(), atol=1e-4)
    np.testing.assert_allclose(served["scores"], scores.numpy(), atol=1e-5)
    assert loaded.metadata.signature.inputs.inputs[0].shape == (-1, 64, 48, 3)
    assert not list((repository / "mlruns").rglob("*.pkl"))


def torch_state(candidate: register.Candidate) -> dict[str, torch.Tensor]:
    from components.models.weights import load_weights

    return load_weights(candidate.weights, candidate.variant)


def test_other_weights_are_a_new_version_of_their_training_run(repository, candidate, tmp_path):
    torch.manual_seed(1)
    weights = tmp_path / "model.safetensors"
    save_weights(weights, zoo.build(candidate.variant).model, {"variant": NAME})
    other = replace(candidate, weights=weights, card="# other")
    with tracking.run(f"train@{NAME}", tags={"kind": "train", "data.md5": "d7"}, repository=repository) as training:
        training.tags({register.WEIGHTS_TAG: sha256_of(weights)})
    with tracking.run("register", repository=repository) as run:
        register.register(candidate, run)
        assert str(register.register(other, run).version) == "2"
    held = run.client.get_model_version_by_alias(NAME, register.CHALLENGER)
    assert (str(held.version), held.run_id) == ("2", training.run_id)
    assert held.tags["data.md5"] == "d7"  # of the training, whatever lies in data/ now
    assert register.missing({NAME: other.identity}, repository) == []
    assert register.missing({NAME: candidate.identity}, repository) == [NAME]


def test_numbers_of_an_evaluation_are_on_its_run_and_its_version_and_in_percent(repository, candidate, tmp_path):
    from matplotlib.figure import Figure

    Figure().savefig(tmp_path / "curve.png")
    card = "# card\n\nHead.\n\n## Results\n![curve](by_height.png)\n" + "x" * 3000 + "\n\n## Versions\n" + "y" * 3000
    made = replace(candidate, card=card, picture=tmp_path / "curve.png", metrics={"AP_gt_boxes": 0.25, "params_m": 1.5, "persons": 7})
    weights = {"variant": NAME, register.WEIGHTS_TAG: made.weights_sha256}
    with tracking.run(f"train@{NAME}", tags={"kind": "train", **weights}, repository=repository) as training:
        training.metrics({"loss": 0.5})
    with tracking.run(f"evaluate@{NAME}", tags={"kind": "evaluate", **weights}, repository=repository) as evaluation:
        pass
    with tracking.run(f"register@{NAME}", repository=repository) as run:
        version = register.register(made, run)
    client = run.client
    expected = {"AP_gt_boxes_percent": 25.0, "parameters_millions": 1.5, "persons": 7.0}
    assert client.get_run(evaluation.run_id).data.metrics == expected
    assert client.get_run(training.run_id).data.metrics == {"loss": 0.5} and version.run_id == training.run_id
    assert client.get_run(run.run_id).data.metrics == {}
    model = client.get_logged_model(version.model_id or version.source.removeprefix("models:/"))
    assert {metric.key: metric.value for metric in model.metrics} == expected
    held = client.get_model_version(NAME, version.version)
    assert len(held.description) <= 5000 and "x" * 3000 in held.description and "## Versions" not in held.description
    files = client.list_logged_model_artifacts(model.model_id, "artifacts")
    assert {"artifacts/model_card.md", "artifacts/by_height.png"} <= {file.path for file in files}
    picture = urlsplit(held.description.partition("![curve](")[2].partition(")")[0])
    assert picture.path == "model-versions/get-artifact"  # of MLflow's server, from its pages at /
    assert dict(parse_qsl(picture.query)) == {"path": "artifacts/by_height.png", "name": NAME, "version": str(version.version)}
    assert made.identity == replace(made, picture=None).identity


def test_registered_again_at_another_commit_a_model_keeps_its_lineage_and_its_card(repository, candidate):
    """And so does a version that packages more of the same weights: what trained them was one commit."""
    git(repository, "init", "--quiet")
    commit(repository)
    with tracking.run(f"train@{NAME}", tags={"kind": "train"}, repository=repository) as training:
        training.tags({register.WEIGHTS_TAG: sha256_of(candidate.weights)})
    told = []
    for again in (candidate, candidate, replace(candidate, metrics={"AP_gt_boxes": 0.26})):
        with tracking.run("register", repository=repository) as run:
            version = register.register(again, run)
        told.append(run.client.get_model_version(NAME, version.version))
        commit(repository)
    assert [str(version.version) for version in told] == ["1", "1", "2"]
    assert told[0].tags == told[1].tags and told[0].description == told[1].description == "# card"
    trained = training.client.get_run(training.run_id).data.tags["git.commit"]
    assert {version.tags["git.commit"] for version in told} == {trained} != {lineage.git_commit(repository)}


def test_whatever_is_packaged_makes_another_version_and_nothing_else_does(repository, candidate, tmp_path):
    """Same weights throughout: a mended decoder, another preparation or other numbers must reach serving."""
    decoder = tmp_path / "cal.py"
    name = next(name for name in candidate.sources if name.endswith("codecs.cal"))
    decoder.write_text(candidate.sources[name].read_text() + "\nMENDED = True\n")
    commented = tmp_path / "commented.py"
    commented.write_text("# a comment\n" + candidate.sources[name].read_text())
    changed = {
        "1": candidate,
        "2": replace(candidate, sources={**candidate.sources, name: decoder}),
        "3": replace(candidate, preparation={"evaluate": {"flip": False}}),
        "4": replace(candidate, metrics={"AP_gt_boxes": 0.26}),
    }
    same = [
        replace(candidate, tags={"shards": "s2"}),
        replace(candidate, sources={**candidate.sources, name: commented}),
        replace(candidate, examples=np.concatenate([candidate.examples, candidate.examples])),  # only the first ones are packaged
    ]
    with tracking.run("register", repository=repository) as run:
        for version, package in changed.items():
            assert str(register.register(package, run).version) == version
            assert str(run.client.get_model_version_by_alias(NAME, register.CHALLENGER).version) == version
        for package in same:
            assert str(register.register(package, run).version) == "1"
    assert str(run.client.get_model_version_by_alias(NAME, register.CHALLENGER).version) == "1"


LOADED = """
import sys, mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(f"models:/{sys.argv[2]}@challenger")
found = model.predict(np.load(sys.argv[3]))
import components
print(components.__path__[0])
np.save(sys.argv[4], found["keypoints"])
"""


def test_the_packaged_code_alone_serves_the_model(repository, candidate, tmp_path):
    """In a process that has no other `components`: everything that serving imports is packaged, and less than all of it."""
    assert len(candidate.sources) < len(list((REPOSITORY / "components").rglob("*.py"))) * 3 / 4
    with tracking.run("register", repository=repository) as run:
        register.register(candidate, run)
    crops = np.ascontiguousarray(candidate.examples.transpose(0, 2, 3, 1))
    np.save(tmp_path / "crops.npy", crops)
    uri = store.tracking_uri(repository)
    arguments = [uri, NAME, str(tmp_path / "crops.npy"), str(tmp_path / "found.npy")]
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", LOADED, *arguments], cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(REPOSITORY) not in done.stdout.splitlines()[-1]
    np.testing.assert_allclose(
        np.load(tmp_path / "found.npy"), register.load(NAME, repository=repository).predict(crops)["keypoints"], atol=1e-4
    )


def test_a_bottom_up_model_takes_whole_images_of_any_size(repository, tmp_path):
    """What is served equals what the evaluation predicts, and reads the same after a way through JSON."""
    torch.manual_seed(0)
    variant = next(v for v in zoo.load_variants().values() if (v.method, v.backbone, v.tag) == ("higherhrnet", "hrnet_tiny", None))
    built = zoo.build(variant)
    for layer in (built.model.head.coarse, built.model.head.fine):
        torch.nn.init.normal_(layer.weight.data[:17], 0, 0.6)  # peaks above the small forms' threshold of 0.2
        torch.nn.init.constant_(layer.bias.data[:17], 0.2)
    save_weights(tmp_path / "model.safetensors", built.model, {"variant": variant.name})
    spec, params = ShardSpec(variant.input_size, "antialias", images=True), EvaluateParams(bottom_up=BottomUpParams(scales=(1.0, 0.5)))
    preparation = {
        "shards": asdict(spec),
        "degrade": asdict(DegradeParams()),
        "evaluate": asdict(params),
    }
    example = np.random.default_rng(0).integers(0, 256, (1, 3, 90, 120), dtype=np.uint8)
    weights = tmp_path / "model.safetensors"
    candidate = register.Candidate(variant, weights, "# card", {}, example, {}, preparation, packaged(variant))
    with tracking.run("register", repository=repository) as run:
        register.register(candidate, run)
    loaded = register.load(variant.name, repository=repository)
    schema = loaded.metadata.signature
    assert schema.inputs.inputs[0].shape == (-1, -1, -1, 3)
    for shape in ((2, 90, 120, 3), (1, 1, 1, 3), (1, 200, 50, 3)):
        images = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
        served = loaded.predict(images)
        assert list(served) == [output.name for output in schema.outputs.inputs]
        for output in schema.outputs.inputs:
            assert served[output.name].dtype == output.type and served[output.name].ndim == len(output.shape)
        fitted_images = fitted([image[..., ::-1] for image in images], ["x"] * len(images), spec, variant.skeleton)
        found, scores = predict_images(built.model, built.codec, fitted_images, EvaluateParams())
        assert served["persons"].sum() == len(found) and served["keypoints"].shape[1] == served["persons"].max()
        read = {key: np.array(value) for key, value in json.loads(json.dumps({k: v.tolist() for k, v in served.items()})).items()}
        for number, count in enumerate(read["persons"]):
            rows = found.image_id == number
            np.testing.assert_allclose(served["keypoints"][number, :count], found.keypoints_image[rows], atol=1e-3)
            np.testing.assert_allclose(served["keypoint_scores"][number, :count], found.keypoint_scores[rows], atol=1e-6)
            np.testing.assert_allclose(served["scores"][number, :count], scores[rows], atol=1e-6)
            assert not served["keypoints"][number, count:].any() and not served["scores"][number, count:].any()
    assert served["persons"].sum() > 0


def test_models_are_missing_from_a_fresh_store(repository):
    assert register.missing({NAME: "0" * 64}, repository) == [NAME]
    with pytest.raises(FarposeError, match=f"no model '{NAME}'"):
        register.load(NAME, repository=repository)


def test_the_card_states_where_a_model_came_from():
    variant = zoo.variant("cal_hrnet_w48_coco_64x48")
    facts = Facts(
        origin={"shards (SHA-256 of shard.json)": "d" * 64, "code of the training (digest)": "c" * 64, "licences": "CC BY 4.0"},
        start=starts.described("movenet_lightning"),
        recipe={"epochs": 210, "none": None},
        metrics={"AP_gt_boxes": 0.1234567, "AP_gt_boxes_low": 0.1, "AP_gt_boxes_high": 0.15, "persons": 12, "mean_OKS_gt_boxes": 0.5},
        training={"steps": 3},
        versions={"torch": "2"},
    )
    card = model_card(variant, "w" * 64, facts, picture="by_height.png")
    for fact in ("w" * 64, "d" * 64, "c" * 64, "CC BY 4.0", "| epochs | 210 |"):
        assert fact in card
    results = card.split("## Results")[1].split("The main AP is `AP_gt_boxes_percent`")[0]
    rows = [line for line in results.splitlines() if line.startswith("|")][2:]
    assert rows == ["| AP_gt_boxes_percent | 12.3 (10.0 to 15.0) |", "| persons | 12 |", "| mean_OKS_gt_boxes | 0.5 |"]
    assert "![results by person height](by_height.png)" in results
    assert "by_height" not in model_card(variant, "w" * 64, facts)
    entry = origins.load()["movenet_lightning"]
    said = (entry.sha256, entry.source.sha256, "models/movenet-lightning.bin of @vladmandic/human 3.3.6", entry.licence_source, "Active")
    assert all(fact in card.split("## What it started from")[1].split("## How it was trained")[0] for fact in said)
    assert f"The weights that it started from: Apache-2.0: {entry.licence_source}" in card.split("## Licence")[1]
    assert f"AP {variant.paper.ap:g}" in card and variant.paper.conditions in card
    assert "none" not in card.split("## How it was trained")[1].split("## Limits")[0]
