"""Train a list of variants side by side on a bare GPU machine. Run: bash benchmarks/study.sh, or python -m benchmarks.study STEP.

    pack PERSONS IMAGES SHARDS FOLDER   the images of the training and development persons (`--scored`: of the validation persons too), the
                                   table and what the pipeline's shards are (SHARDS: artifacts/shards), in parts that travel
    unpack FOLDER SHARDS           the crops of every input size that is asked for, made of the parts as the degrade stage makes them
    train LIST... SHARDS OUT       every run of the lists, most urgent first, within a time budget; one JSON and one weights file per run
    bring WORK OUT                 the runs' JSON, predictions, and as many weights as may travel, in half precision, in few files
    adopt WEIGHTS RUNS RUN SHARDS FOLDER    a run's weights as the pipeline's training would have written them, if its crops are the same

A list is the name of an example (params/examples): its variants with its recipes, as `farpose run` would train them; of several, runs on
smaller crops come first. These runs are published rows: each predicts the validation persons once, which are scored where the pipeline is
(benchmarks.study_rows). Networks of tens of millions of parameters do not travel back, their predictions do.

Or a list is a file, for searches (benchmarks/studies/*.yaml), which names runs: a `variant`; `recipe`, published or matched; `train`, what
its recipe changes; `teacher`, the run or the file that teaches it; `after`, the run that it waits for; `place: true`, its weights go where
the pipeline's training writes them, so that the recipes of later runs find them. Recipes are chosen on the development split: a pack for
such a list has no validation image.

A run whose JSON is in OUT, that an earlier machine's runs.json holds (`--done`), or whose row the study has, is done; an interrupted one
resumes.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import report
from benchmarks.lowres_rows import RUNS as ROWS
from benchmarks.study_travel import ABOUT, PREDICTIONS, SCORED, WEIGHTS, adopt, bring, pack, unpack
from components.base.config import PARAMS, REPOSITORY, load_yaml
from components.base.files import atomic_file, read_json, write_json
from pipelines.paths import EXAMPLES

if TYPE_CHECKING:
    from components.models.variant import Variant

PUBLISHED = "published"
POLL = 0.2  # seconds between two looks at the runs


def listed(lists: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The runs of lists, in order: of one, as it has them; of several, those on smaller crops first.

    Args:
        lists: names of examples, or paths of YAML files.
    Raises:
        FarposeError: no such file, or a variant that is not known.
        SystemExit: an example trains on crops that are not made here.
    """
    import yaml

    from components.degrade.params import ShardSpec
    from components.models import zoo
    from pipelines.overlay import example_over

    found: dict[str, dict[str, Any]] = {}
    for name in lists:
        pipeline = EXAMPLES / name / "pipeline.yaml"
        if not pipeline.is_file():
            found |= load_yaml(name)
            continue
        for variant, entry in yaml.safe_load(example_over((PARAMS / pipeline.name).read_text(), pipeline))["variants"].items():
            if entry["shards"] != (made := ShardSpec(zoo.variant(variant).input_size).name):
                raise SystemExit(f"{pipeline}: {variant} takes {entry['shards']}, only {made} is made here")
            found[variant] = {"variant": variant, "recipe": entry.get("recipe", PUBLISHED), "example": name}
    if len(lists) > 1:
        found = dict(sorted(found.items(), key=lambda item: zoo.variant(item[1]["variant"]).input_size))
    return found


def train_all(runs: dict[str, dict[str, Any]], shards: Path, out: Path, minutes: float, at_once: int, done: Collection[str] = ()) -> None:
    """Start the runs in the list's order, `at_once` side by side; a run waits for its teacher. At the deadline the rest is stopped.

    Args:
        done: runs that were trained elsewhere.
    Raises:
        SystemExit: a run failed; the others go on first.
    """
    deadline, active, failed = time.monotonic() + 60 * minutes, {}, []
    waiting = [name for name in runs if name not in done and not (out / f"{name}.json").is_file()]
    while (waiting or active) and time.monotonic() < deadline:
        for name, process in list(active.items()):
            if process.poll() is not None:
                del active[name]
                if process.returncode:
                    failed.append(name)
                print(f"{time.strftime('%H:%M:%S')} {name}: {'failed' if process.returncode else _told(out / f'{name}.json')}", flush=True)
        ready = [name for name in waiting if _ready(runs, name, shards, out)]
        for name in ready[: at_once - len(active)]:
            waiting.remove(name)
            active[name] = _start(name, runs[name], _teacher(runs, name, out), shards, out)
        time.sleep(POLL)
    for name, process in active.items():
        process.terminate()
        print(f"{name}: out of time, its checkpoint stays", flush=True)
    print(f"not started: {', '.join(waiting) or 'none'}; failed: {', '.join(failed) or 'none'}")
    sys.exit(1 if failed else 0)


def _teacher(runs: dict[str, dict[str, Any]], name: str, out: Path) -> Path | None:
    """The file of the run's teacher; None where the list names none."""
    teacher = runs[name].get("teacher")
    if teacher is None:
        return None
    return out / teacher / WEIGHTS if teacher in runs or (out / teacher).is_dir() else REPOSITORY / teacher


def _ready(runs: dict[str, dict[str, Any]], name: str, shards: Path, out: Path) -> bool:
    """Whether all that the run needs is there; larger crops may still be made while the first runs train."""
    teacher, before = _teacher(runs, name, out), runs[name].get("after")
    needed = [_crops(runs[name]["variant"], shards) / ABOUT, *([teacher] if teacher else []), *([out / f"{before}.json"] if before else [])]
    return all(path.is_file() for path in needed)


def _crops(variant: str, shards: Path) -> Path:
    from components.degrade.params import ShardSpec
    from components.models import zoo

    return shards / ShardSpec(zoo.variant(variant).input_size).name


def _start(name: str, run: dict[str, Any], teacher: Path | None, shards: Path, out: Path) -> subprocess.Popen[bytes]:
    run = {**run, "train": {**run.get("train", {}), **({"teacher": str(teacher)} if teacher else {})}}
    command = [sys.executable, "-m", "benchmarks.study", "one", name, json.dumps(run), str(shards), str(out)]
    with (out / f"{name}.log").open("ab") as log:
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **threads}, cwd=REPOSITORY)


def _told(path: Path) -> str:
    run = read_json(path)
    speed = f"{run['images_per_second']:.0f} crops/s, {run['wall_seconds']:.0f} s"
    return f"AP {100 * run['dev_AP_gt_boxes']:.1f} after {run['epochs']} epochs, {speed}"


def train_one(name: str, run: dict[str, Any], shards: Path, out: Path) -> None:
    """Train one run and write its JSON: command, hardware, versions, data, start, recipe, development AP of every validation."""
    import torch

    from components.train.loop import train

    started = time.perf_counter()
    variant, recipe = resolved(run)
    directory = _crops(variant.name, shards)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    summary = train(variant, directory, out / name, recipe, device, out / "checkpoints" / name)
    if run.get("example"):
        predict_one(variant, directory, out / name, device)
    if run.get("place"):
        shutil.copytree(out / name, REPOSITORY / "artifacts" / "models" / variant.name)
    files = read_json(directory / ABOUT)["files"]
    facts = {
        "run": name,
        "recipe_kind": run.get("recipe", PUBLISHED),
        **({"example": run["example"]} if run.get("example") else {}),
        "epochs": recipe.epochs,
        "hardware": report.hardware(),
        "versions": report.versions(),
        "data": {file: files[file]["sha256"] for file in ("train_pixels.npy", "train.parquet", "dev.parquet")},
        "recipe": dataclasses.asdict(recipe) | ({"teacher": run["teacher"]} if run.get("teacher") else {}),
        "history": read_json(out / name / "history.json"),
        "wall_seconds": round(time.perf_counter() - started, 1),
    }
    write_json(out / f"{name}.json", {**summary, **facts})


def predict_one(variant: Variant, shards: Path, folder: Path, device: str) -> None:
    """Predict the validation persons with the weights in `folder`, as the evaluate stage does; writes `PREDICTIONS` beside them.

    Raises:
        FarposeError: the validation crops were not packed.
    """
    import numpy as np

    from components.approaches import approach
    from components.codecs.codec import as_crop_codec
    from components.evaluate.predict import predict
    from components.models import zoo
    from components.models.weights import load_weights
    from pipelines import settings

    params, built = settings.evaluation(), zoo.build(variant)
    built.model.load_state_dict(load_weights(folder / WEIGHTS, variant))
    crops = approach(variant.approach).inputs(shards, variant, params, SCORED)
    found = predict(built.model, as_crop_codec(built.codec), crops, params.flip, params.batch_size, device, params.bf16)
    columns = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    with atomic_file(folder / PREDICTIONS) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **{name: column for name, column in columns.items() if column is not None})


def resolved(run: dict[str, Any]) -> tuple[Any, Any]:
    """The run's variant and recipe, under its example's parameters: what the list changes lies over the recipe, of either kind.

    Raises:
        FarposeError: an unknown variant, key or kind of recipe.
    """
    from components.base.config import parse
    from components.models import zoo
    from components.models.entries import merged
    from components.train import recipe as recipes

    variant, kind, changes = zoo.variant(run["variant"]), run.get("recipe", PUBLISHED), run.get("train", {})
    with _parameters(run.get("example")) as path:
        if kind == PUBLISHED:
            variant = dataclasses.replace(variant, train=merged(variant.train, changes))
            return variant, recipes.resolve(variant, recipes.load(path))
        recipe = recipes.resolve(variant, recipes.load(path), kind, path)
    return variant, parse(recipes.Recipe, merged(dataclasses.asdict(recipe), changes), f"variant {variant.name}: train")


@contextlib.contextmanager
def _parameters(example: str | None) -> Iterator[Path]:
    """params/train.yaml, with an example's on it as `farpose params --apply` writes it."""
    from components.train.recipe import TRAIN
    from pipelines.overlay import example_over

    overlay = EXAMPLES / (example or "") / TRAIN.name
    if not overlay.is_file():
        yield TRAIN
        return
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / TRAIN.name
        path.write_text(example_over(TRAIN.read_text(), overlay))
        yield path


def _known(path: Path | None) -> dict[str, Any]:
    """The runs of an earlier machine; none where there is no file."""
    known: dict[str, Any] = read_json(path) if path is not None and path.is_file() else {}
    return known


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    step = steps.add_parser("pack")
    step.add_argument("persons", type=Path)
    step.add_argument("images", type=Path)
    step.add_argument("shards", type=Path)
    step.add_argument("folder", type=Path)
    step.add_argument("--parts", type=int, default=2)
    step.add_argument("--scored", action="store_true", help="validation images too, for runs that are published rows")
    step = steps.add_parser("unpack")
    step.add_argument("folder", type=Path)
    step.add_argument("shards", type=Path)
    step.add_argument("--sizes", nargs="+", default=["64x48"])
    step = steps.add_parser("train")
    step.add_argument("lists", nargs="+", help="names of examples, or paths of YAML files")
    step.add_argument("shards", type=Path)
    step.add_argument("out", type=Path)
    step.add_argument("--minutes", type=float, default=9)
    step.add_argument("--at-once", type=int, default=4)
    step.add_argument("--done", type=Path, help="runs.json of an earlier machine")
    step = steps.add_parser("bring")
    step.add_argument("work", type=Path)
    step.add_argument("out", type=Path)
    step.add_argument("--done", type=Path, help="runs.json of an earlier machine, whose runs the new one keeps")
    step = steps.add_parser("adopt")
    step.add_argument("weights", type=Path)
    step.add_argument("record", type=Path)
    step.add_argument("run")
    step.add_argument("shards", type=Path)
    step.add_argument("folder", type=Path)
    step = steps.add_parser("one")
    step.add_argument("name")
    step.add_argument("run", type=json.loads)
    step.add_argument("shards", type=Path)
    step.add_argument("out", type=Path)
    arguments = parser.parse_args()
    if arguments.step == "pack":
        pack(arguments.persons, arguments.images, arguments.shards, arguments.folder, arguments.parts, arguments.scored)
    elif arguments.step == "unpack":
        unpack(arguments.folder, arguments.shards, [tuple(map(int, size.split("x"))) for size in arguments.sizes])  # type: ignore[misc]
    elif arguments.step == "train":
        arguments.out.mkdir(parents=True, exist_ok=True)
        known = {*_known(arguments.done), *(path.stem for path in ROWS.glob("*.json"))}
        train_all(listed(arguments.lists), arguments.shards, arguments.out, arguments.minutes, arguments.at_once, known)
    elif arguments.step == "adopt":
        adopt(arguments.weights, arguments.record, arguments.run, arguments.shards, arguments.folder)
    elif arguments.step == "bring":
        bring(arguments.work, arguments.out, _known(arguments.done))
    else:
        train_one(arguments.name, arguments.run, arguments.shards, arguments.out)


if __name__ == "__main__":
    main()
