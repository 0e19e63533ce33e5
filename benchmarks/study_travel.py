"""What travels to a bare GPU machine and back: images in parts, crops made of them, runs' JSON, predictions and weights.

`python -m benchmarks.study` has the steps.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.base.files import atomic_directory, read_json, write_json
from components.datasets.acquire.listing import safe_path

DATA = "images"  # folder of a pack's images
PERSONS = "persons"
SHARDS = "shards"
ABOUT = "shard.json"
WEIGHTS = "model.safetensors"
PREDICTIONS = "predictions.npz"
RUNS = "runs.json"
SCORED = "val"  # the split that published rows are scored on
VOLUME = 14 * 2**20  # bytes of a file that comes back
VOLUMES = 3  # of weights
# What a run's JSON has beside its training's summary.
OWN = ("history", "data", "recipe", "recipe_kind", "example", "hardware", "versions", "run")


def pack(persons_folder: Path, images: Path, shards: Path, folder: Path, parts: int, scored: bool = False) -> None:
    """Write `parts` tar files of about the same size to `folder`, and the descriptions of the pipeline's shards to the first.

    Args:
        scored: validation images too, for runs that are published rows.
    """
    from components.pose.persons import Persons

    persons = Persons.read(persons_folder / "persons.parquet")
    frame = persons.frame
    wanted = sorted(set((frame if scored else frame[frame["split"] != SCORED])["image_path"]))
    folder.mkdir(parents=True, exist_ok=True)
    sizes = [(images / name).stat().st_size for name in wanted]
    whole, done = sum(sizes), 0
    with contextlib.ExitStack() as stack:
        archives = [stack.enter_context(tarfile.open(folder / f"part{number}.tar", "w")) for number in range(parts)]
        for path in sorted(persons_folder.iterdir()):
            archives[0].add(path, f"{PERSONS}/{path.name}")
        for path in sorted(shards.glob(f"*/{ABOUT}")):
            archives[0].add(path, f"{SHARDS}/{path.parent.name}/{ABOUT}")
        for name, size in zip(wanted, sizes, strict=True):
            archives[min(parts - 1, done * parts // whole)].add(images / name, f"{DATA}/{name}")
            done += size
    print(f"{len(wanted)} images, {whole / 2**20:.1f} MiB, {parts} parts")


def unpack(folder: Path, shards: Path, sizes: list[tuple[int, int]]) -> None:
    """Make the crops of `sizes` (height, width) in `shards`, of all splits whose images are packed, under the pipeline's description.

    Raises:
        SystemExit: the crops are not those of the pipeline.
    """
    from components.degrade.params import DegradeParams, ShardSpec
    from components.degrade.shard import Source, Writer
    from components.degrade.shards import plan_crops
    from components.pose.persons import Persons

    raw = shards / "raw"
    for path in sorted(folder.glob("part*.tar")):
        extract(path, raw)
    source = Source(Persons.read(raw / PERSONS / "persons.parquet"), raw / DATA)
    splits = ["dev", *([SCORED] if (raw / DATA / source.labelled(SCORED).frame["image_path"].iloc[0]).is_file() else [])]
    for size in sizes:
        spec, params = ShardSpec(size), DegradeParams()
        if (shards / spec.name / ABOUT).is_file():
            continue
        wanted = read_json(raw / SHARDS / spec.name / ABOUT)["files"]
        plan = plan_crops(source, spec)
        plan = dataclasses.replace(plan, evaluated={split: plan.evaluated[split] for split in splits})
        with atomic_directory(shards / spec.name) as made:
            writer = Writer(spec, params, source.data_root, made, False, source.upright)
            writer.write(plan)
            files = writer.about(source.persons.skeleton, {"train": {}, **{split: {} for split in splits}})["files"]
            if other := [name for name, one in files.items() if one["sha256"] != wanted[name]["sha256"]]:
                raise SystemExit(f"{spec.name}: not the pipeline's crops: {', '.join(other)}")
            shutil.copyfile(raw / SHARDS / spec.name / ABOUT, made / ABOUT)
        print(f"{spec.name}: {len(plan.train)} crops, the pipeline's to the byte", flush=True)


def extract(path: Path, folder: Path) -> None:
    """Write a tar file's regular files to `folder`; Python's own filter is missing in early releases of 3.11.

    Raises:
        FarposeError: a name leaves the folder.
    """
    with tarfile.open(path) as archive:
        for member in archive:
            stream = archive.extractfile(member)
            if stream is not None:
                target = folder / safe_path(member.name, path)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(stream.read())


def bring(work: Path, out: Path, done: dict[str, Any] | None = None, most: int = VOLUME) -> None:
    """Copy the runs' JSON into one file, predictions and weights (in half precision) into tar files of at most `most` bytes, to `out`.

    Weights are brought in the order of their training, up to `VOLUMES` files; a network that fits into none stays.

    Args:
        done: JSON of runs that were trained elsewhere, which the file keeps.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / RUNS, {**(done or {}), **{path.stem: read_json(path) for path in sorted(work.glob("*.json"))}})
    _volumes({path.parent.name: path for path in sorted(work.glob(f"*/{PREDICTIONS}"))}, out, "predictions", most)
    trained = sorted(work.glob(f"*/{WEIGHTS}"), key=lambda path: path.stat().st_mtime)
    small = {path.parent.name: _half(path) for path in trained if path.stat().st_size < 2 * most}
    _volumes(small, out, "weights", most, VOLUMES)
    with tarfile.open(out / "logs.tar.gz", "w:gz") as logs:
        for path in sorted(work.glob("*.log")):
            logs.add(path, path.name)


def _half(weights: Path) -> Path:
    """Weights in half precision, in a folder beside them."""
    from components.models import zoo
    from components.models.weights import read_metadata
    from components.registry.package import halve

    half = weights.parent / "half" / weights.name
    if not half.is_file():
        half.parent.mkdir(exist_ok=True)
        halve(weights, zoo.variant(read_metadata(weights)["variant"]), half)
    return half


def _volumes(files: Mapping[str, Path], out: Path, name: str, most: int, volumes: int | None = None) -> None:
    """Write files as RUN/FILE into `name`0.tar, `name`1.tar …; of more than `volumes` the rest is left out, and counted.

    Args:
        files: by run.
    """
    found: list[dict[str, Path]] = [{}]
    for run, path in files.items():
        if found[-1] and sum(one.stat().st_size for one in [*found[-1].values(), path]) > most:
            found.append({})
        found[-1][run] = path
    for number, volume in enumerate(found[:volumes]):
        with tarfile.open(out / f"{name}{number}.tar", "w") as archive:
            for run, path in volume.items():
                archive.add(path, f"{run}/{path.name}")
    if left := sum(map(len, found[volumes or len(found) :])):
        print(f"{left} runs' {name} do not travel")


def adopt(weights: Path, record: Path, run: str, shards: Path, folder: Path) -> None:
    """Write a run's weights to `folder` as the pipeline's training would have, so that `farpose release` and `evaluate` take them.

    Raises:
        SystemExit: the pipeline's crops are not those of the run, or the variant's recipe is another one.
    """
    from components.base.files import sha256_of
    from components.models import zoo
    from components.models.weights import load_weights, read_metadata, save_weights
    from components.train import recipe as recipes
    from components.train.output import MEASURED

    told, metadata = read_json(record)[run], read_metadata(weights)
    variant = zoo.variant(metadata["variant"])
    files = read_json(shards / ABOUT)["files"]
    if other := [name for name, digest in told["data"].items() if files[name]["sha256"] != digest]:
        raise SystemExit(f"{shards}: not what {run} was trained on: {', '.join(other)}")
    kind = told.get("recipe_kind", "published")
    recipe = json.loads(json.dumps(dataclasses.asdict(recipes.resolve(variant, recipes.load(), kind))))
    ran = json.loads(metadata["recipe"])
    if other := [key for key in recipe if recipe[key] != ran[key] and key != "teacher"]:
        raise SystemExit(f"variant {variant.name}: its recipe is not that of {run}: {', '.join(other)}")
    metadata |= {"shard": sha256_of(shards / ABOUT), "recipe": json.dumps(recipe)}
    save_weights(folder / WEIGHTS, load_weights(weights, variant), metadata)
    kept = {key: value for key, value in told.items() if key not in OWN}
    kept |= {"trained_sha256": told["model_sha256"], "model_sha256": sha256_of(folder / WEIGHTS), "gpu": told["hardware"]["gpu"]}
    write_json(folder / "summary.json", {key: value for key, value in kept.items() if key not in MEASURED})
    write_json(folder / "history.json", told["history"])
