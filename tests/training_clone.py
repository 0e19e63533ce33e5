"""A clone whose graph trains two small networks: prepare → train@NAME (the real stage) → last. Its pipeline takes seconds."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import yaml

from components.base.files import digest_of, sha256_of
from pipelines import listing, settings
from tests.repositories import PYTHON, commit, copy_of_this
from tests.test_cli import edit
from tests.tiny_shard import write_tiny_shard

NAMES = ("hrnet_tiny_synthetic_64x48", "dark_hrnet_tiny_synthetic_64x48")
EPOCHS = 10
GRAPH = """
vars: [params/pipeline.yaml]
stages:
  prepare:
    cmd: mkdir -p artifacts/shards && cp -r given artifacts/shards/direct_64x48
    deps: [given]
    outs: [artifacts/shards/direct_64x48]
  train:
    foreach: ${{variants}}
    do:
      cmd: '"{python}" -m pipelines.stages train ${{key}}'
      deps: [artifacts/shards/direct_64x48, params/variants/demo.yaml]
      outs:
        - artifacts/models/${{key}}
      metrics:
        - results/pipeline/train/${{key}}.json: {{cache: false}}
        - results/pipeline/train/${{key}}.csv: {{cache: false}}
  last:
    cmd: cat {files} > artifacts/last.json
    deps: [{deps}]
    outs: [artifacts/last.json]
    meta:
      # variants: written by `farpose params`
      # end of variants
      # report: written by `farpose params`
      # end of report
"""


def training_clone(folder: Path, epochs: int = EPOCHS) -> Path:
    """This repository's code with the small graph, committed; nothing has run."""
    copy_of_this(folder)
    write_tiny_shard(folder.parent / "made")
    shutil.move(folder.parent / "made" / "shard", folder / "given")
    files = [f"results/pipeline/train/{name}.json" for name in NAMES]
    text = GRAPH.format(python=PYTHON, files=" ".join(files), deps=", ".join(files))
    (folder / "dvc.yaml").write_text(text)
    pipeline = yaml.safe_load((folder / "params" / "pipeline.yaml").read_text())
    pipeline |= {"variants": {name: {"table": "demo", "shards": "direct_64x48"} for name in NAMES}, "peers": {}}
    (folder / "params" / "pipeline.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))
    shutil.rmtree(folder / "released")  # they would be registered in each new store
    (folder / "mlruns").mkdir()
    train_for(folder, epochs)
    listing.keep_in_step(settings.load(folder / "params" / "pipeline.yaml"), folder)
    commit(folder)
    return folder


def train_for(folder: Path, epochs: int) -> None:
    """Set how many epochs (of one step) the two networks are trained; checkpoints come after every step."""
    recipe = {
        "epochs": epochs,
        "batch_size": 8,
        "validate_every": 0,
        "checkpoint_seconds": 0.0,
        "augmentation": {"half_body_probability": 0.0},
    }
    for name in NAMES:
        edit(folder / "params" / "variants" / "demo.yaml", **{f"{name}__train": recipe})


def forget(folder: Path) -> None:
    """As before the first run, but for the records in mlruns/."""
    for path in (folder / "artifacts", folder / "results", folder / ".dvc" / "cache", folder / ".dvc" / "tmp"):
        shutil.rmtree(path, ignore_errors=True)
    (folder / "dvc.lock").unlink(missing_ok=True)


def results(folder: Path) -> dict[str, str]:
    """Digest of every file under artifacts/ and results/, and of dvc.lock's entries: stages side by side write them in any order."""
    files = [path for top in ("artifacts", "results") for path in (folder / top).rglob("*") if path.is_file()]
    entries = yaml.safe_load((folder / "dvc.lock").read_text())
    return {str(path.relative_to(folder)): sha256_of(path) for path in files} | {"dvc.lock": digest_of(entries)}


def states(folder: Path) -> dict[str, dict[str, int]]:
    """How many runs are in which state, read from the stores' own files: of MLflow, of Prefect's flows and of its tasks."""
    asked = {
        "mlflow": ("mlflow.db", "SELECT status, count(*) FROM runs GROUP BY status"),
        "flows": ("prefect/prefect.db", "SELECT state_type, count(*) FROM flow_run GROUP BY state_type"),
        # a task that waited for one that did not end well stays NotReady, which Prefect counts as PENDING
        "tasks": ("prefect/prefect.db", "SELECT state_type, count(*) FROM task_run WHERE state_name != 'NotReady' GROUP BY state_type"),
    }
    found = {}
    for name, (file, query) in asked.items():
        connection = sqlite3.connect(folder / "mlruns" / file)
        found[name] = dict(connection.execute(query).fetchall())
        connection.close()
    return found


def assert_nothing_is_left(folder: Path) -> None:
    """No half-written file, no lock, no note, and no record of a run that is still open."""
    half = [path for top in ("artifacts", "results", "mlruns") for path in (folder / top).rglob(".*.tmp")]
    assert half == [] and list(folder.rglob("*.begun")) == []
    rwlock = folder / ".dvc" / "tmp" / "rwlock"
    in_use = json.loads(rwlock.read_text()) if rwlock.is_file() else {}
    assert not any(in_use.get("write", {}).values()) and not any(in_use.get("read", {}).values())
    still = {kind: {state for state in found if state in ("RUNNING", "PENDING", "CANCELLING")} for kind, found in states(folder).items()}
    assert not any(still.values()), still
