"""The whole graph on a few synthetic people: what runs, what is skipped, what a failure leaves behind."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipelines import listing, settings
from tests.repositories import PYTHON, Console, commit, copy_of_this, dvc, farpose, git, processes_of
from tests.test_cli import assert_one_line, edit

BOTTOM_UP = "litepose_tiny_synthetic_256"
FIRST = "hrnet_tiny_synthetic_64x48"
VARIANTS = (FIRST, BOTTOM_UP)


def little_to_do(repository: Path, names: tuple[str, ...] = VARIANTS) -> None:
    """A top-down variant and a bottom-up one, or only some of them, one epoch, a dozen images."""
    params = repository / "params"
    edit(params / "data.yaml", synthetic__train_images=10, synthetic__val_images=6, data__splits__dev=0.2)
    edit(params / "train.yaml", train__validate_every=0)
    edit(params / "evaluate.yaml", evaluate__bootstrap_resamples=20, evaluate__gallery_size=1)
    for name in names:
        overrides = {"epochs": 1, "batch_size": 8, "augmentation": {"half_body_probability": 0.0}}
        edit(params / "variants" / "demo.yaml", **{f"{name}__train": overrides})
    pipeline = yaml.safe_load((params / "pipeline.yaml").read_text())
    examples = [yaml.safe_load((params / "examples" / name / "pipeline.yaml").read_text()) for name in ("methods_64x48", "bottom_up_256")]
    pipeline["variants"] = {name: (examples[0]["variants"] | examples[1]["variants"])[name] for name in names}
    shards = pipeline["shards"] | examples[1]["shards"]
    pipeline["shards"] = {name: shards[name] for name in dict.fromkeys(entry["shards"] for entry in pipeline["variants"].values())}
    run_these(repository, pipeline)
    shutil.rmtree(params / "manifests", ignore_errors=True)
    for name in ("data.dvc", "dvc.lock"):
        (repository / name).unlink(missing_ok=True)


def run_these(repository: Path, pipeline: dict) -> None:
    """Write params/pipeline.yaml, and bring dvc.yaml in step as `farpose params` does."""
    path = repository / "params" / "pipeline.yaml"
    path.write_text(yaml.safe_dump(pipeline, sort_keys=False))
    listing.keep_in_step(settings.load(path), repository)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A repository, in a path with a space, in which everything has run once; tests that change it put it back."""
    repository = copy_of_this(tmp_path_factory.mktemp("pipeline") / "a repository")
    little_to_do(repository)
    commit(repository)
    for done in (farpose(repository, "acquire", "synthetic"), dvc(repository, "repro")):
        assert done.returncode == 0, done.stdout + done.stderr
    commit(repository)
    return repository


@pytest.fixture(scope="module")
def console(finished: Path) -> Iterator[Console]:
    """A process that runs commands in the finished repository."""
    console = Console(finished)
    yield console
    console.close()


def outputs(repository: Path) -> dict[str, bytes]:
    """Everything under artifacts/ and results/pipeline/."""
    files = [path for top in ("artifacts", "results") for path in (repository / top).rglob("*") if path.is_file()]
    return {str(path.relative_to(repository)): path.read_bytes() for path in files}


def registered(repository: Path, name: str) -> dict[str, str]:
    """What the register stage left of a variant."""
    found: dict[str, str] = json.loads((repository / "artifacts" / "registration" / name / "registration.json").read_text())
    return found


def ran(stdout: str) -> set[str]:
    """Stages that DVC ran."""
    return {line.split("'")[1] for line in stdout.splitlines() if line.startswith("Running stage")}


def test_everything_is_made(finished, console):
    made = outputs(finished)
    table = made["artifacts/comparison/comparison.md"].decode()
    assert all(name in table for name in VARIANTS) and "95 % interval" in table
    registered = {name: json.loads(made[f"artifacts/registration/{name}/registration.json"]) for name in VARIANTS}
    for name in VARIANTS:
        assert f"artifacts/models/{name}/model.safetensors" in made
        for picture in ("gallery.png", "by_height.png"):
            assert made[f"artifacts/evaluations/{name}/{picture}"].startswith(b"\x89PNG")
        records = json.loads(made[f"artifacts/evaluations/{name}/predictions.json"])
        assert records or name == BOTTOM_UP  # without boxes, one epoch may find nobody
        assert all(record["provenance"]["weights_sha256"] == registered[name]["weights_sha256"] for record in records)
        card = made[f"artifacts/registration/{name}/model_card.md"].decode()
        assert registered[name]["weights_sha256"] in card and ("AP_no_boxes" if name == BOTTOM_UP else "AP_gt_boxes") in card
    shown = console.farpose("compare")
    assert shown.returncode == 0 and FIRST in shown.stdout


def test_no_output_names_a_run(finished):
    from components.registry import store

    client, experiment_id = store.open_store(finished)
    runs = [run.info.run_id for run in client.search_runs([experiment_id])]
    texts = [content for path, content in outputs(finished).items() if not path.endswith((".png", ".npy", ".parquet", ".safetensors"))]
    assert len(runs) == 12 and not any(run.encode() in text for run in runs for text in texts)


def test_models_are_registered_as_challengers(finished):
    from components.registry import register

    assert register.missing({name: registered(finished, name)["package_sha256"] for name in VARIANTS}, finished) == []


def test_repeating_it_does_nothing_within_three_seconds_of_cpu(finished):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = dvc(finished, "repro")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0 and not ran(done.stdout) and "up to date" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3.0


def test_verify_and_predict_work_on_it(finished, console, tmp_path):
    done = console.farpose("verify")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ground truth scores AP 1.000" in done.stdout and "crops follow the persons table" in done.stdout
    assert "images follow the persons table" in done.stdout
    image = next((finished / "data" / "synthetic" / "val").glob("*.jpg"))
    done = console.farpose("predict", str(image), "--variant", FIRST, "--whole-image", "--output", str(tmp_path / "found"))
    assert done.returncode == 0 and "1 person" in done.stdout, done.stdout + done.stderr
    assert len(json.loads((tmp_path / "found" / "predictions.json").read_text())) == 1
    assert (tmp_path / "found" / f"{image.stem}.png").is_file()
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    assert_one_line(console.farpose("predict", str(tmp_path / "broken.jpg"), "--variant", FIRST), "broken.jpg")


def test_a_variants_parameter_reruns_only_what_depends_on_it_and_comes_back_from_the_cache(finished):
    table = finished / "params" / "variants" / "demo.yaml"
    before, made = table.read_text(), outputs(finished)
    edit(table, **{f"{FIRST}__train__learning_rate": 1e-4})
    done = dvc(finished, "repro")
    assert done.returncode == 0, done.stdout + done.stderr
    assert ran(done.stdout) == {"plan", f"train@{FIRST}", f"evaluate@{FIRST}", "compare", "report", f"register@{FIRST}"}
    assert outputs(finished)[f"artifacts/models/{BOTTOM_UP}/model.safetensors"] == made[f"artifacts/models/{BOTTOM_UP}/model.safetensors"]

    table.write_text(before)
    done = dvc(finished, "repro")
    assert ran(done.stdout) == {"plan", f"register@{FIRST}"}  # the others are restored; register must set its alias
    again = outputs(finished)
    assert again[f"artifacts/models/{FIRST}/model.safetensors"] == made[f"artifacts/models/{FIRST}/model.safetensors"]
    assert again["results/pipeline/comparison.json"] == made["results/pipeline/comparison.json"]
    from components.registry import register

    digest = json.loads(again[f"artifacts/registration/{FIRST}/registration.json"])["package_sha256"]
    assert register.missing({FIRST: digest}, finished) == []  # the alias is back at the first version


def to_do(repository: Path) -> set[str]:
    """Stages that DVC would run."""
    return set(json.loads(dvc(repository, "status", "--json").stdout))


def test_changed_code_reruns_the_variants_that_import_it_and_a_comment_reruns_nothing(finished):
    method = finished / "components" / "models" / "methods" / "litepose.py"
    kept = method.read_text()
    method.write_text(f"# a comment\n{kept}")
    assert to_do(finished) == {"plan"} and dvc(finished, "repro", "plan").returncode == 0
    assert to_do(finished) == set()
    method.write_text(f"{kept}\nCHANGED = True\n")
    assert dvc(finished, "repro", "plan").returncode == 0
    assert to_do(finished) == {f"{stage}@{BOTTOM_UP}" for stage in ("train", "evaluate", "register")}
    method.write_text(kept)
    assert dvc(finished, "repro", "plan").returncode == 0 and to_do(finished) == set()


def test_a_list_out_of_step_stops_the_pipeline_at_once(finished):
    path = finished / "params" / "pipeline.yaml"
    kept = path.read_text()
    pipeline = yaml.safe_load(kept)
    del pipeline["variants"][BOTTOM_UP]
    path.write_text(yaml.safe_dump(pipeline, sort_keys=False))
    done = dvc(finished, "repro")
    path.write_text(kept)
    assert done.returncode != 0 and f"still names artifacts/evaluations/{BOTTOM_UP}" in done.stderr and "`farpose params`" in done.stderr
    assert not any(stage.startswith("train") for stage in ran(done.stdout))


@pytest.mark.slow
def test_a_variant_that_left_the_pipeline_leaves_no_trace_and_comes_back(finished, tmp_path):
    """The oracle is a fresh repository that never had it, in another folder and at another commit, and that computes all of it anew:
    two clones made apart have the same lock, every hash in it.
    """
    path, made = finished / "params" / "pipeline.yaml", outputs(finished)
    kept = path.read_text()
    pipeline = yaml.safe_load(kept)
    pipeline["variants"] = {FIRST: pipeline["variants"][FIRST]}
    run_these(finished, pipeline)
    assert dvc(finished, "repro").returncode == 0 and (finished / "artifacts" / "models" / BOTTOM_UP).is_dir()

    ignored = shutil.ignore_patterns("artifacts", "results", "mlruns", "dvc.lock", "cache", "tmp", ".git", "__pycache__")
    fresh = shutil.copytree(finished, tmp_path / "fresh", ignore=ignored)
    git(fresh, "init", "--quiet")
    commit(fresh)
    done = dvc(fresh, "repro")
    assert done.returncode == 0 and {f"train@{FIRST}", f"evaluate@{FIRST}"} <= ran(done.stdout), done.stdout + done.stderr
    locks = [yaml.safe_load((repository / "dvc.lock").read_text()) for repository in (finished, fresh)]
    assert locks[0] == locks[1] and BOTTOM_UP not in str(locks[0])

    run_these(finished, yaml.safe_load(kept))
    path.write_text(kept)
    done = dvc(finished, "repro")
    assert done.returncode == 0 and not any(stage.startswith(("degrade", "train", "evaluate")) for stage in ran(done.stdout))
    assert {path: content for path, content in outputs(finished).items() if not path.endswith("retired.lock")} == made


@pytest.mark.parametrize("damage", ["changed", *(pytest.param(damage, marks=pytest.mark.slow) for damage in ("missing", "unexpected"))])
def test_data_edited_behind_dvcs_back_stops_the_pipeline(finished, damage):
    images = sorted((finished / "data" / "synthetic" / "train").glob("*.jpg"))
    before, kept = outputs(finished), images[0].read_bytes()
    extra = images[0].with_name("extra.jpg")
    if damage == "changed":
        images[0].write_bytes(kept + b"x")
    elif damage == "missing":
        images[0].unlink()
    else:
        extra.write_bytes(kept)
    done = dvc(finished, "repro")
    errors = [line for line in done.stderr.splitlines() if line.startswith("farpose: error:")]
    assert done.returncode != 0 and len(errors) == 1 and "Traceback" not in done.stderr
    assert f"{damage} train/{extra.name if damage == 'unexpected' else images[0].name}" in errors[0]
    assert outputs(finished) == before

    assert "git checkout data.dvc && dvc checkout data.dvc" in errors[0]  # because repro has written the new digest into data.dvc
    git(finished, "checkout", "data.dvc")
    assert dvc(finished, "checkout", "data.dvc").returncode == 0
    assert images[0].read_bytes() == kept and not extra.exists()
    assert dvc(finished, "status", "--json").stdout.strip() == "{}"


def test_a_stage_that_fails_leaves_its_earlier_outputs(finished):
    table = finished / "params" / "variants" / "demo.yaml"
    kept, before = table.read_text(), outputs(finished)
    edit(table, **{f"{FIRST}__train__learning_rate": 1e9})  # a loss that is not finite, before long
    edit(table, **{f"{FIRST}__train__epochs": 40})
    done = farpose(finished, "train", FIRST)
    table.write_text(kept)
    assert_one_line(done, f"stage train@{FIRST}", "not finite")
    kept_outputs = lambda *but: {path: content for path, content in outputs(finished).items() if not any(part in path for part in but)}  # noqa: E731
    unplanned = {path: content for path, content in before.items() if not path.startswith("artifacts/plan/")}
    assert kept_outputs("checkpoints", "artifacts/plan/") == unplanned  # plan itself has run, and says what was asked for
    assert dvc(finished, "repro", "plan").returncode == 0 and kept_outputs("checkpoints") == before


def test_weights_of_another_variant_are_refused(finished, console):
    first, second = (finished / "artifacts" / "models" / name / "model.safetensors" for name in (FIRST, BOTTOM_UP))
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    done = console.farpose("stage", "evaluate", FIRST)
    first.write_bytes(kept)
    assert_one_line(done, f"holds weights of variant '{BOTTOM_UP}'", FIRST)


@pytest.mark.slow
def test_the_flow_registers_again_in_a_fresh_store(finished):
    shutil.rmtree(finished / "mlruns", ignore_errors=True)
    done = farpose(finished, "run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Where to look next" in done.stdout and all(f"register@{name} | " in done.stdout for name in VARIANTS)
    from components.registry import register

    assert register.missing({name: registered(finished, name)["package_sha256"] for name in VARIANTS}, finished) == []
    assert dvc(finished, "status", "--json").stdout.strip() == "{}"


@pytest.mark.slow
def test_ctrl_c_stops_the_flow_and_all_that_it_started(finished):
    table = finished / "params" / "variants" / "demo.yaml"
    kept = table.read_text()
    edit(table, **{f"{FIRST}__train__epochs": 5000})
    log, others = finished / "mlruns" / "interrupted.log", processes_of(finished)  # such as `console`
    with open(log, "wb") as stream:
        default = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
        command = [PYTHON, "-m", "pipelines.cli", "run"]
        flow = subprocess.Popen(command, cwd=finished, stdout=stream, stderr=stream, start_new_session=True, preexec_fn=default)
    deadline = time.monotonic() + 300
    while "epoch 2/5000" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.5)
    os.killpg(flow.pid, signal.SIGINT)
    assert flow.wait(60) == 130, log.read_text()
    table.write_text(kept)
    assert log.read_text().splitlines()[-1].startswith("farpose: interrupted") and processes_of(finished) == others
    done = dvc(finished, "repro")
    assert done.returncode == 0 and "Stage 'train@" in done.stdout, done.stdout + done.stderr
    assert dvc(finished, "status", "--json").stdout.strip() == "{}"


@pytest.mark.slow
def test_the_default_data_are_drawn_bit_for_bit(tmp_path):
    """`farpose acquire synthetic` makes what the committed manifest and data.dvc say."""
    from tests.repositories import REPOSITORY

    repository = copy_of_this(tmp_path / "copy")
    shutil.copy(REPOSITORY / "data.dvc", repository)
    commit(repository)
    done = farpose(repository, "acquire", "synthetic")
    assert done.returncode == 0, done.stderr
    assert git(repository, "status", "--porcelain") == ""
