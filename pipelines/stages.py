"""One command per DVC stage: read the parameters, call the component, write the metrics, record the run.

`python -m pipelines.stages NAME [ITEM]` is what dvc.yaml runs. Everything heavy is imported by the stage that needs it.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from components.base.errors import FarposeError, unknown_name
from components.base.fan_out import fanned_out
from components.base.files import atomic_file, read_json, sha256_of, write_json
from pipelines import checks, devices, interrupted, listing, locks, paths, settings


def plan() -> None:
    """Code and parameters → what decides each variant's stages; the first stage, because it also checks what dvc.yaml lists."""
    from pipelines import plan as plans

    pipeline = settings.load()
    listing.check(pipeline)
    print(f"{plans.write(paths.PLAN, pipeline)} variants planned")


def fetch() -> None:
    """Raw files → persons table."""
    from components.datasets.fetch import fetch as read_persons
    from components.registry import tracking

    params = settings.data()
    with tracking.run("fetch", params={"data": _read(params)}, tags={"kind": "fetch"}) as run:
        manifest = paths.DATA.parent / params.files.manifest if params.files.manifest else None
        summary = read_persons(params, paths.DATA / params.source, paths.PERSONS, manifest)
        print(summary.table())
        run.note(f"{params.source}: raw annotations to the persons table, one row per person.\n\n```\n{summary.table()}\n```")
        _metrics("fetch.json", summary.metrics(), run)


def validate() -> None:
    """Persons table → verdict and documents."""
    from components.datasets.validate import validate as check_persons
    from components.registry import tracking

    params = settings.data()
    with tracking.run("validate", params={"data": _read(params)}, tags={"kind": "validate"}) as run:
        summary = check_persons(paths.PERSONS, paths.DATA / params.source, params, paths.VALIDATION)
        print(summary.table())
        run.note(f"{len(summary.checks)} checks of {summary.persons:,} persons; the documents are at Artifacts, validation/docs.")
        run.metrics({"checks": len(summary.checks), "persons": summary.persons, "images": summary.images})
        run.artifact(paths.VALIDATION, "validation")


def _read(params: Any) -> dict[str, Any]:
    """What a run says of data parameters: not those of the sources that it does not read."""
    kept = dataclasses.asdict(params)
    return {**kept, "sources": {params.source: kept["sources"][params.source]}}


def degrade(name: str) -> None:
    """Persons table and images → shards `name`, of crops or of whole images."""
    from components.degrade.shard import Source
    from components.degrade.stage import degrade as cut
    from components.pose.ignored import IGNORED_FILE, IgnoredRegions
    from components.pose.images import IMAGES_FILE, read_images
    from components.pose.persons import Persons
    from components.registry import tracking

    params, pipeline = settings.degrade(), settings.load()
    if name not in pipeline.shards:
        raise unknown_name("shards", name, pipeline.shards, where="params/pipeline.yaml")
    spec = pipeline.shards[name]
    with tracking.run(f"degrade@{name}", params={"shards": spec, "degrade": params}, tags={"kind": "degrade"}) as run:
        persons = Persons.read(paths.PERSONS / "persons.parquet")
        _require_scored(persons)
        images, ignored = read_images(paths.PERSONS / IMAGES_FILE), IgnoredRegions.read(paths.PERSONS / IGNORED_FILE)
        summary = cut(Source(persons, paths.DATA / settings.data().source, images, ignored), spec, params, paths.SHARDS / name)
        counts = ", ".join(f"{split} {found['persons']:,}" for split, found in summary["splits"].items())
        run.note(f"Protocol {spec.protocol} at {'x'.join(map(str, spec.input_size))} px; persons: {counts}. See contact_sheet.png.")
        _metrics(f"degrade/{name}.json", summary["splits"], run)
        run.artifact(paths.SHARDS / name / "contact_sheet.png")


def _require_scored(persons: Any) -> None:
    """
    Raises:
        FarposeError: the persons table has no split "val".
    """
    from components.datasets.params import VAL

    if VAL not in set(persons.frame["split"]):
        where = f"params/data.yaml: data.sources.{settings.data().source}"
        fix = f"name its files under `splits`, or set `data.splits.{VAL}` to a share of the training images, such as 0.1"
        raise FarposeError(f"the data set has no split {VAL!r}, on which models are scored", where=where, fix=fix)


def train(name: str, shards: str | None = None, output: Path | None = None) -> None:
    """Shards of crops or of whole images → weights of one variant.

    Args:
        shards, output: for a variant that is not in the pipeline, whose metrics are written next to its weights.
    """
    from components.models import zoo
    from components.registry.register import WEIGHTS_TAG
    from components.train import recipe as recipes
    from components.train.launch import train as train_variant
    from components.train.output import draw_curves
    from pipelines import plan as plans

    variant = zoo.variant(name)
    checks.data_of(variant, f"variant {name}")
    kind = settings.load().recipe_of(name)
    recipe = recipes.resolve(variant, recipes.load(), kind)
    shards = shards or settings.load().shards_of(name)
    folder = output or paths.MODELS / name
    parameters = {"variant": variant, "recipe": {"name": kind, **dataclasses.asdict(recipe)}, "shards": shards}
    with _recorded_job(f"train@{name}", parameters, {"kind": "train", "variant": name}, recipe.processes) as (run, device):
        _name_shards(run, shards, "training")
        tracker = run.tracker()
        checkpoints = paths.CHECKPOINTS / plans.code_now(plans.TRAIN, variant, shards)[:16]  # a run that other code began is not continued
        summary = train_variant(variant, paths.SHARDS / shards, folder, recipe, device, checkpoints, tracker)
        with contextlib.suppress(OSError):  # not there, or another run's checkpoints are in it
            checkpoints.rmdir()
        tracker.flush()
        begun = recipe.init or "random weights"
        said = f"{recipe.epochs} epoch{'s' if recipe.epochs > 1 else ''} from {begun} on shards {shards}; the AP is in evaluate@{name}."
        run.note(f"{said}\n\n{tracker.described()}")
        run.tags({WEIGHTS_TAG: sha256_of(folder / "model.safetensors")})
        run.metrics({"train_seconds": summary["train_seconds"]})  # the other measured numbers are the epochs' metrics
        history = read_json(folder / "history.json")
        with tempfile.TemporaryDirectory() as scratch:  # no picture lies beside the weights: only they decide what is done again
            curves = Path(scratch) / "learning_curves.png"
            draw_curves(curves, history, name)
            run.artifact(curves)
        if output is None:
            _metrics(f"train/{name}.json", {**read_json(folder / "summary.json"), "recipe": kind})
            _history(paths.RESULTS / "train" / f"{name}.csv", history)


def evaluate(name: str, shards: str | None = None, weights: Path | None = None, output: Path | None = None) -> None:
    """Weights and evaluation inputs → predictions, AP with its interval, target AP, bound AP, curves and pictures.

    Args:
        shards, weights, output: for a variant that is not in the pipeline, and for weights of another origin.
    """
    from components.approaches import approach
    from components.evaluate.approach import EvaluationContext
    from components.evaluate.stage import evaluate as score
    from components.models import costs, zoo
    from components.registry import lineage, tracking, units
    from components.registry.model_card import in_words
    from pipelines import counts
    from pipelines import plan as plans

    params, variant = settings.evaluation(), zoo.variant(name)
    checks.data_of(variant, f"variant {name}", True)
    shards = shards or settings.load().shards_of(name)
    weights, folder = weights or paths.MODELS / name / "model.safetensors", output or paths.EVALUATIONS / name
    parameters = {"variant": variant, "evaluate": params, "shards": shards}
    with _recorded_job(f"evaluate@{name}", parameters, {"kind": "evaluate", "variant": name}) as (run, device):
        built = trained(variant, weights)
        provenance: dict[str, Any] = {
            "variant": name,
            "weights_sha256": sha256_of(weights),
            "data_md5": lineage.data_digest(),
            "shards": shards,
            "code": plans.code_now(plans.EVALUATE, variant, shards),  # contents only: a commit would change what is equal
            "versions": lineage.versions(),
        }
        run.tags({"weights.sha256": provenance["weights_sha256"]})
        _name_shards(run, shards, "evaluation")
        shown = approach(variant.approach)
        data = evaluation_data(shown, variant, shards, params)
        metrics = score(shown, EvaluationContext(built.model, built.codec, data, params, folder, provenance, device, name))
        spent = counts.of_network(variant, built.model, counts.stored()) or costs.of_variant(variant)  # counting takes two seconds
        metrics |= {"params_m": spent.params / 1e6, "gmacs": spent.macs / 1e9}
        scored_on = settings.data().source
        metrics |= {"scored_on": scored_on} if scored_on != variant.dataset else {}
        metrics |= _printed(variant.paper) if scored_on == variant.dataset else {}
        shown_metrics = units.named(tracking.numbers(metrics))
        run.metrics(shown_metrics)
        run.note(f"{in_words(metrics)}\n\n{units.described(shown_metrics)}")
        for picture in sorted(folder.glob("*.png")):
            run.artifact(picture)
        write_json(paths.RESULTS / "evaluate" / f"{name}.json" if output is None else folder / "metrics.json", metrics)
        print(f"{name}: {in_words(metrics)} Perfect targets: AP {100 * metrics['target_AP']:.1f} %. Pictures in {folder}")


def _printed(paper: Any) -> dict[str, float]:
    """What the variant's paper prints as its leading number, under the key that a comparison shows."""
    from components.evaluate.leading import AP, PCKH

    found = {AP: paper.ap, PCKH: paper.pckh50}
    return {f"paper_{number.name}": value / 100 for number, value in found.items() if value is not None}


def trained(variant: Any, weights: Path) -> Any:
    """The variant with trained weights, as `zoo.Built`."""
    from components.models import zoo
    from components.models.weights import load_weights

    built = zoo.build(variant)
    built.model.load_state_dict(load_weights(weights, variant))
    return built


def evaluation_data(shown: Any, variant: Any, shards: str, params: Any) -> Any:
    """What a variant is scored on: a shard's inputs, the persons and the images of the split."""
    from components.datasets.fetch import PERSONS_FILE
    from components.evaluate.approach import EvaluationData
    from components.pose.images import IMAGES_FILE, read_images
    from components.pose.persons import Persons

    images = read_images(paths.PERSONS / IMAGES_FILE)
    return EvaluationData(
        inputs=shown.inputs(paths.SHARDS / shards, variant, params, params.split),
        persons=Persons.read(paths.PERSONS / PERSONS_FILE).split(params.split),
        images=images[images["split"] == params.split],
        data_root=paths.DATA / settings.data().source,
        degrade=settings.degrade(),
        split=params.split,
        evaluator=settings.data().files.evaluator,
    )


def compare() -> None:
    """All variants' numbers, and those of other networks' predictions → one table and its plots; one more of all conditions."""
    import platform

    from components.base.files import atomic_directory
    from components.evaluate.by_condition import by_condition
    from components.evaluate.compare import compare as tabulate
    from components.evaluate.leading import leading, leading_value
    from components.registry import tracking
    from pipelines import comparing

    pipeline = settings.load()
    listing.check(pipeline)
    names = list(pipeline.variants)
    with tracking.run("compare", params={"variants": ", ".join(names)}, tags={"kind": "compare"}) as run:
        rows = [comparing.row(name) for name in names]
        note = f"Data: {settings.data().source}. Trained on {', '.join(sorted({row['device'] for row in rows}))}, {platform.machine()}."
        with atomic_directory(paths.COMPARISON) as folder:
            others, peers = comparing.peer_rows(pipeline, folder / comparing.PEERS)
            tabulate([*rows, *others], folder, note, comparing.matches(names, peers))
            conditions = settings.evaluation().conditions
            by_condition([*rows, *others], folder, comparing.condition_matches(conditions, names, peers))
        run.artifact(paths.COMPARISON)
        run.metrics({f"{leading(row).label} percent {row['variant']}": 100 * leading_value(row) for row in (*rows, *others)})
        write_json(paths.RESULTS / "comparison.json", {row["variant"]: _kept(row) for row in (*rows, *others)})
        table = (paths.COMPARISON / "comparison.md").read_text()
        run.note(table)
        print(table)


def _kept(row: dict[str, Any]) -> dict[str, Any]:
    """What `results/` keeps of a row."""
    from components.evaluate.headline import headline
    from components.evaluate.leading import leading_key

    mains = dict.fromkeys((leading_key(row), f"AP_{headline(row)}"))
    keys = (*(f"{main}{end}" for main in mains for end in ("", "_low", "_high")), "target_AP", "bound_AP", "params_m", "gmacs")
    return {key: row[key] for key in keys if key in row}


def report() -> None:
    """What was compared → one HTML page, with the numbers behind it."""
    from components.base.files import atomic_directory
    from components.registry import tracking
    from pipelines import reporting

    with tracking.run("report", params={"evaluate": settings.evaluation()}, tags={"kind": "report"}) as run:
        with atomic_directory(paths.REPORT) as folder:
            said = reporting.make(folder)
        run.artifact(paths.REPORT / reporting.PAGE)
        run.note(f"{said}. The page is at Artifacts, {reporting.PAGE}; it needs no other file.")
        print(said)


def register(name: str | None = None) -> None:
    """One variant's model, or every one of the pipeline → MLflow's registry, with its card and the alias `challenger`."""
    from pipelines import registration

    pipeline = settings.load()
    for variant in [name] if name else pipeline.variants:
        registration.register(variant, pipeline.shards_of(variant))


def _history(path: Path, rows: list[dict[str, Any]]) -> None:
    """Losses and validation APs per epoch as CSV, for `dvc plots`."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_file(path) as temporary, open(temporary, "w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()} for row in rows)


def _metrics(name: str, values: dict[str, Any], run: Any = None) -> None:
    """Write a metrics file under results/pipeline/, and to MLflow if there is a run."""
    write_json(paths.RESULTS / name, values)
    if run is not None:
        run.metrics(values)


def _name_shards(run: Any, shards: str, context: str) -> None:
    """Say in MLflow what a stage uses; that it is missing is the stage's own to say."""
    about = paths.SHARDS / shards / "shard.json"
    if about.is_file():
        run.used_shards(shards, sha256_of(about), context)


@contextlib.contextmanager
def _recorded_job(name: str, parameters: dict[str, Any], tags: dict[str, str], processes: int = 1) -> Iterator[tuple[Any, str]]:
    """MLflow's run of a stage, and the device that it has to itself (the first one, of several processes)."""
    from components.registry import tracking

    with devices.taken(processes) as device, tracking.run(name, params={**parameters, "device": device}, tags=tags) as run:
        yield run, device


STAGES: dict[str, Callable[..., None]] = {
    "plan": plan,
    "fetch": fetch,
    "validate": validate,
    "degrade": degrade,
    "train": train,
    "evaluate": evaluate,
    "compare": compare,
    "report": report,
    "register": register,
}
WITH_ITEM = ("degrade", "train", "evaluate", "register")
ITEM_OPTIONAL = ("register",)


def run_stage(name: str, item: str | None = None) -> None:
    """Run one stage by name.

    Args:
        item: the shards of `degrade`, the variant of `train`, `evaluate` and `register` (all variants if None); None for the others.
    Raises:
        FarposeError: unknown stage, or an item too few or too many; what the stage raises.
    """
    if name not in STAGES:
        raise unknown_name("stage", name, STAGES)
    if (name in WITH_ITEM) != (item is not None) and not (name in ITEM_OPTIONAL and item is None):
        raise FarposeError(f"stage {name} takes {'one item' if name in WITH_ITEM else 'no item'}", fix=f"`farpose stage {name} ...`")
    address = f"{name}@{item}" if item is not None else name
    with locks.working_on(address), interrupted.noted(address), fanned_out(settings.fan_out()):
        STAGES[name](*([item] if item is not None else []))


def main(arguments: list[str]) -> int:
    """Exit code of `python -m pipelines.stages NAME [ITEM]`."""
    from pipelines.cli import main as farpose

    return farpose(["stage", *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
