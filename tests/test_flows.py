"""The flows with the real servers: restarts in mid-run, two flows at once, and new data that are taken in or refused."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from components.base.files import read_json, write_json
from components.datasets.fetch import fetch
from components.datasets.manifest import digest_tree
from components.datasets.params import DataParams
from components.datasets.synthetic.coco import write_synthetic
from components.datasets.synthetic.params import SyntheticParams
from components.datasets.validate import validate
from components.registry import promotion
from pipelines import pages
from tests.browser import NAMES as BROWSERS
from tests.browser import Browser
from tests.coco_files import COMMITTED
from tests.repositories import PYTHON, farpose, module, python, toy_on_copy, variables
from tests.test_challenging import strong
from tests.test_promotion import WEAK, held, registered
from tests.test_serving import NAMES, PLANNED, Clone, clone  # noqa: F401  (a fixture)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
MODEL = "toy"
PARENTS = """
import json
from components.registry import store
client, experiment_id = store.open_store()
runs = client.search_runs([experiment_id], "tags.kind = 'pipeline'", order_by=["attributes.start_time ASC"])
print(json.dumps([[run.info.status, run.info.run_name] for run in runs]))
"""
FARM = """    farm:
      format: coco
      skeleton: coco_17
      evaluator: oks
      manifest: params/manifests/farm.sha256
      origin: {origin}
      splits:
        train: {{annotations: annotations/person_keypoints_train.json, images: train}}
        val: {{annotations: annotations/person_keypoints_val.json, images: val}}
"""


def parents(folder: Path) -> list[list[str]]:
    """Status and name of each flow's MLflow run."""
    done = python(folder, PARENTS)
    assert done.returncode == 0, done.stderr
    found: list[list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def said_of_the_last_flow(folder: Path) -> tuple[dict[str, float], str]:
    """The numbers of its MLflow run, and the text that heads the run's page."""
    done = python(folder, f"{PARENTS}\nprint(json.dumps([runs[-1].data.metrics, runs[-1].data.tags['mlflow.note.content']]))")
    assert done.returncode == 0, done.stderr
    numbers, note = json.loads(done.stdout.splitlines()[-1])
    return numbers, note


def state(clone: Clone, run: str) -> tuple[str, str, str]:  # noqa: F811
    """Type and message of a run's state, and the run's name."""
    found = clone.run(run)
    return found["state"]["type"], found["state"]["message"], found["name"]


def artifacts(clone: Clone, run: str) -> dict[str, Any]:  # noqa: F811
    """What a run's page carries, by key; the newest of each."""
    asked = {"artifacts": {"flow_run_id": {"any_": [run]}}, "sort": "UPDATED_DESC"}
    found = clone.session.post(f"{clone.api}/artifacts/filter", json=asked, timeout=60).json()
    return {one["key"]: one for one in reversed(found)}


def compared(folder: Path) -> None:
    """What a comparison leaves, for the page."""
    (folder / "artifacts" / "comparison").mkdir(parents=True)
    (folder / "artifacts" / "comparison" / "comparison.md").write_text("| variant | AP |\n|---|---|\n| toy | 41.5 |\n")
    cv2.imwrite(str(folder / "artifacts" / "comparison" / "by_height.png"), np.full((60, 80, 3), 200, np.uint8))
    write_json(folder / "results" / "pipeline" / "comparison.json", {MODEL: {"AP_gt_boxes": 0.415}})


def test_a_run_survives_a_restart_of_both_servers_and_its_page_carries_what_it_did(clone):  # noqa: F811
    compared(clone.folder)
    (clone.folder / "mode-x.txt").write_text("wait\n")
    clone.make()
    run, log = clone.press_run("reproduce", verify=False), clone.folder / "mlruns" / "prefect-worker.log"
    clone.wait(lambda: "waiting" in log.read_text(), "a stage that waits")
    clone.schedule("0 3 * * *", "--timezone", "Asia/Tokyo")
    details = clone.session.get(f"{clone.api}/flow_runs/{run}", timeout=60).json()["state"]["state_details"]
    assert details["deployment_concurrency_lease_id"] is None  # a lease ends with the server that gave it, and a run with its lease
    assert clone.session.get(f"{clone.api}/work_pools/farpose", timeout=60).json()["concurrency_limit"] == 1
    for name in NAMES[:2]:
        os.kill(clone.pid(name), signal.SIGKILL)
    (clone.folder / "go.txt").touch()
    clone.wait((clone.folder / "middle-x.txt").is_file, "a stage that ends while no server runs")
    assert clone.make().startswith("prefect-worker: running; starting mlflow-server, prefect-server\n")
    clone.wait(lambda: state(clone, run)[0] not in ("RUNNING", "PENDING"), "the end of the run")
    kind, message, name = state(clone, run)
    assert (kind, message) == ("COMPLETED", "4 stages ran"), clone.logs()
    assert name.startswith("reproduce 20") and name.endswith(" UTC, all stages")
    assert (clone.folder / "last.txt").read_text().count("w") == 2  # `work`, `wait`
    assert len(clone.runs("SCHEDULED")) == 3 and all(re.fullmatch(PLANNED, name) for name in clone.runs("SCHEDULED"))
    assert parents(clone.folder) == [["FINISHED", "all stages: 4 stages ran"]]
    numbers, note = said_of_the_last_flow(clone.folder)
    assert numbers["AP_gt_boxes_percent.toy"] == pytest.approx(41.5) and "| `AP_gt_boxes_percent` | % |" in note
    assert all(key.startswith(("AP_gt_boxes_percent.", "seconds.")) for key in numbers) and "| `seconds` | s |" in note

    page = artifacts(clone, run)
    assert set(page) == {"stages", "leaderboard", "curve", "mlflow"} and "| toy | 41.5 |" in page["leaderboard"]["data"]
    assert page["stages"]["data"].count("| ran |") == 4
    link = page["mlflow"]["data"].partition("(")[2].rstrip(")")
    assert link.startswith(f"http://127.0.0.1:{clone.ports['MLFLOW_PORT']}/#/experiments/")
    assert link.endswith("?workflowType=machine_learning")
    if any(shutil.which(browser) for browser in BROWSERS):
        with Browser() as browser:
            browser.call("Page.navigate", url=f"http://127.0.0.1:{clone.ports['PREFECT_PORT']}/artifacts/artifact/{page['curve']['id']}")
            clone.wait(lambda: browser.run("[...document.images].some(one => one.naturalWidth == 80)"), "the curve on its page")


def test_two_flows_at_once_both_end_well_and_no_stage_runs_twice(tmp_path):
    folder = toy_on_copy(tmp_path / "clone")
    command = [PYTHON, "-m", "pipelines.cli", "run", "last", "--no-verify"]
    both = [
        subprocess.Popen(command, cwd=folder, env=variables(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted("4 stages ran" in text for text in said) == sorted("4 stages unchanged" in text for text in said) == [False, True]
    assert sorted(line.split()[0] for line in (folder / "spans.txt").read_text().splitlines()) == ["x", "y"]
    assert sorted(parents(folder)) == [["FINISHED", "last: 4 stages ran"], ["FINISHED", "last: 4 stages unchanged"]]


def people(folder: Path, seed: int) -> Path:
    """A small data set in COCO's form."""
    shutil.rmtree(folder, ignore_errors=True)
    params = SyntheticParams(train_images=12, val_images=6, min_height_px=60.0, max_persons=2, empty_fraction=0.0, seed=seed)
    write_synthetic(folder, params, progress=False, workers=1)
    return folder


def known(folder: Path) -> tuple[Any, ...]:
    """All that says which data there are."""
    return digest_tree(folder / "data" / "farm"), (folder / "data.dvc").read_text(), (folder / "params/manifests/farm.sha256").read_text()


def test_new_data_are_taken_in_or_refused_and_a_night_goes_on_without_them(tmp_path):
    origin, folder = people(tmp_path / "newest", seed=1), toy_on_copy(tmp_path / "clone")
    params = folder / "params" / "data.yaml"
    text = params.read_text().replace("    coco:\n", FARM.format(origin=origin) + "    coco:\n", 1)
    params.write_text(text.replace("  source: synthetic ", "  source: farm ", 1))
    first = farpose(folder, "ingest", "farm")
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stdout.splitlines()[-1].startswith("farm is taken in, 4 stages ran")
    before = known(folder)
    assert before[0] == digest_tree(origin) and (folder / "last.txt").is_file()

    annotations = origin / "annotations" / "person_keypoints_val.json"
    changed = read_json(annotations)
    changed["annotations"][0]["keypoints"][:3] = [9999, 9999, 2]
    write_json(annotations, changed)
    (folder / "mode-x.txt").write_text("again\n")
    night = farpose(folder, "nightly")
    assert night.returncode == 1 and "checks failed" in night.stderr and night.stderr.count("\n") == 1, night.stderr
    assert known(folder) == before and "again" in (folder / "last.txt").read_text()  # all else was done
    told = dict(sqlite3.connect(folder / "mlruns" / "prefect" / "prefect.db").execute("select key, data from artifact").fetchall())
    assert (
        "refused. Those that were there are untouched" in told["data"]
        and "annotation" in told["data"]
        and {"stages", "champion"} <= set(told)
    )
    assert parents(folder)[-1] == ["FAILED", "nightly: 2 stages ran, 2 unchanged; no new challenger"]

    people(origin, seed=2)
    taken = module(folder, "pipelines.ingesting", "farm")
    assert taken.returncode == 0 and taken.stdout.endswith("data.dvc and the manifest are new: commit both\n"), taken.stderr
    assert known(folder)[0] == digest_tree(origin) != before[0] and known(folder)[1] != before[1]


def judged(folder: Path) -> None:
    """Twelve validation persons of the clone's data set, fetched and validated."""
    data = DataParams(source="synthetic", sources={"synthetic": dataclasses.replace(COMMITTED["synthetic"], manifest=None)})
    people(folder / "data" / "synthetic", seed=3)
    fetch(data, folder / "data" / "synthetic", folder / "artifacts" / "persons", None)
    validate(folder / "artifacts" / "persons", folder / "data" / "synthetic", data, folder / "artifacts" / "validation")


def test_ingest_and_promote_run_from_their_pages(clone, tmp_path, monkeypatch):  # noqa: F811
    """Their deployments, with parameters as a person types them on the page *Custom run*."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder, origin = clone.folder, people(tmp_path / "newest", seed=1)
    params = folder / "params" / "data.yaml"
    params.write_text(params.read_text().replace("    coco:\n", FARM.format(origin=tmp_path / "elsewhere") + "    coco:\n", 1))
    judged(folder)
    weak, better = registered(folder, tmp_path, seed=0), strong(folder)
    clone.make()

    def run(flow: str, /, **given: Any) -> tuple[str, str, dict[str, Any]]:
        """Type and message of the run's last state, and what its page carries."""
        started = clone.press_run(flow, **given)
        clone.wait(lambda: state(clone, started)[0] in ("COMPLETED", "FAILED", "CRASHED"), f"the end of {flow} {given}")
        return (*state(clone, started)[:2], artifacts(clone, started))

    kind, message, page = run("ingest", source="farm", place=str(origin))
    assert (kind, message) == ("COMPLETED", "farm is taken in") and "data.dvc and the manifest are new" in page["data"]["data"]
    assert digest_tree(folder / "data" / "farm") == digest_tree(origin)
    kind, message, _ = run("ingest", source="farm")
    assert kind == "FAILED" and "elsewhere" in message and digest_tree(folder / "data" / "farm") == digest_tree(origin)

    assert held(folder) == "nobody"
    for name, wanted in ((weak.name, weak), (better.name, better)):
        kind, message, page = run("promote", name=name, split="val")
        assert kind == "COMPLETED" and message.startswith(f"promoted: {promotion.label(wanted)}; holds: "), message
        assert held(folder) == promotion.label(wanted) and page["promotion"]["data"].count("\n- holds: ") == 4
    kind, message, page = run("promote", name=f"{WEAK}@1", split="val")
    assert kind == "COMPLETED" and message.startswith(f"refused: {promotion.label(weak)}; ") and "fails: AP on val differs by −" in message
    assert page["promotion"]["data"].startswith(pages.verbatim(f"**refused: {promotion.label(weak)}**"))
    assert held(folder) == promotion.label(better)
    kind, message, _ = run("promote", rollback=True)
    assert kind == "COMPLETED" and held(folder) == promotion.label(weak), message
    kind, message, _ = run("promote")
    assert kind == "FAILED" and "nothing to promote" in message and held(folder) == promotion.label(weak)
