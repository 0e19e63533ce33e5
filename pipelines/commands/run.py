"""`run`, `stage`, `train`, `evaluate`: make results, and show them."""

from __future__ import annotations

import argparse
from pathlib import Path

from components.base.errors import FarposeError
from pipelines import paths, settings, terminal


def run(options: argparse.Namespace) -> None:
    """The whole graph, or the part that was asked for, as a Prefect flow; ends with the table and where to look next."""
    from pipelines.commands.flows import prepared, require_server

    if options.over:
        require_server("farpose run --over")
    flows = prepared()
    from pipelines.commands.models import print_table
    from pipelines.reproduction import in_words

    results = flows.run(options.targets or None, verify=not options.no_verify, over=options.over)
    print(f"\n{in_words(results)}")
    if not options.targets:
        print_table()
        _where_next()


def stage(options: argparse.Namespace) -> None:
    """One stage's code in this process, which ends with the DVC that runs it."""
    from pipelines import lifeline, stages

    lifeline.follow()
    stages.run_stage(options.name, options.item)


def train(options: argparse.Namespace) -> None:
    """One variant's train stage; a variant that is not in the pipeline goes to scratch/."""
    if not _is_outside(options):
        return _reproduce("train", options.variant)
    from pipelines import locks, stages

    folder = paths.SCRATCH / options.variant / "model"
    with locks.working_on(f"train@{options.variant}"):
        stages.train(options.variant, options.shards, folder)
    print(f"weights in {paths.shown(folder)}; next: farpose evaluate {options.variant} --shards {options.shards}")
    return None


def evaluate(options: argparse.Namespace) -> None:
    """One variant's evaluate stage; of given weights, or for a variant that is not in the pipeline, it writes into scratch/.

    Raises:
        FarposeError: both a variant and --results, neither, or an option that does not go with them; what the scoring raises.
    """
    if options.results is not None:
        return _score(options)
    if options.on is not None:
        return _judge(options)
    if options.variant is None:
        raise FarposeError("nothing to evaluate", fix="name a variant, or another network's predictions with --results FILE")
    for name in ("name", "split", "data"):
        if getattr(options, name) is not None:
            fix = "leave it out" if name != "split" else "leave it out, or name a data set with --on"
            raise FarposeError(f"--{name} goes with --results", where=options.variant, fix=fix)
    if not _is_outside(options) and options.weights is None:
        return _reproduce("evaluate", options.variant)
    from pipelines import stages

    folder = paths.SCRATCH / options.variant
    weights = options.weights or folder / "model" / "model.safetensors"
    stages.evaluate(options.variant, options.shards, weights, folder / "evaluation")
    return None


def _score(options: argparse.Namespace) -> None:
    """Score another network's predictions into scratch/NAME/evaluation."""
    import dataclasses

    from components.base.files import atomic_directory
    from components.evaluate.headline import boxes_of, headline
    from components.evaluate.leading import beside, leading, leading_key
    from components.evaluate.peers import score_results
    from components.models import zoo
    from pipelines import comparing

    for name in ("variant", "shards", "weights"):
        if getattr(options, name) is not None:
            raise FarposeError(f"--results takes no {name}: the predictions are scored as they are", fix="leave it out")
    params = settings.evaluation()
    params = dataclasses.replace(params, split=options.split or params.split)
    name = options.name or options.results.name.removesuffix(".gz").removesuffix(".json")
    if name in zoo.load_variants() or Path(name).name != name:
        raise FarposeError(f"{name!r} cannot name predictions: it is a variant or no file name", fix="give another --name")
    truth = comparing.truth_of(options.data or paths.PERSONS, params.split)
    with atomic_directory(paths.SCRATCH / name / "evaluation") as folder:
        found = score_results(options.results, truth, params, folder, name)
    boxes = headline(found)
    value, low, high = (100 * found[f"{leading_key(found)}{end}"] for end in ("", "_low", "_high"))
    others = "".join(f", {label} {100 * other:.1f}" for label, other in beside(found).items())
    oks = f", mean OKS {found[f'mean_OKS_{boxes}']:.3f}" if f"mean_OKS_{boxes}" in found else ""
    led = f"{leading(found).label} {value:.1f} ({low:.1f}–{high:.1f}){others}{oks}"
    print(f"{name}: {led}, {found['persons']:,} persons, boxes given: {boxes_of(found)}")
    print(f"written to {paths.shown(paths.SCRATCH / name / 'evaluation')}; next: farpose compare {name} VARIANT")


def _judge(options: argparse.Namespace) -> None:
    """Score a registered model on a data set into scratch/judged/DATASET/MODEL."""
    from components.base.files import atomic_directory
    from components.registry import promotion
    from components.registry.model_card import in_words
    from pipelines import judging

    if options.variant is None:
        raise FarposeError("--on needs a registered model", where=options.on, fix="name it, such as NAME@champion")
    for name in ("shards", "weights", "name", "data"):
        if getattr(options, name) is not None:
            raise FarposeError(f"--on takes no {name}: a registered model says itself how its inputs are made", fix="leave it out")
    version = promotion.find(options.variant)
    split = options.split or settings.evaluation().split
    print(f"scoring {promotion.label(version)} on {options.on}, {split}", flush=True)  # tables and crops may take minutes
    ground = judging.on(options.on, split)
    output = judging.JUDGED / options.on / f"{version.name}_version_{version.version}" / split
    with atomic_directory(output) as folder:
        found = judging.judge(promotion.read(version), ground, split, folder)
    print(f"{promotion.label(version)} on {options.on}, {split}: {in_words(found)}")
    print(f"written to {paths.shown(output)}; next: farpose compare {paths.shown(output)} OTHER")


def _is_outside(options: argparse.Namespace) -> bool:
    """Whether the variant is not in the pipeline; then its shards must be named."""
    from components.datasets.params import require_reader
    from components.models import zoo

    pipeline = settings.load()
    variant = zoo.variant(options.variant)  # an unknown name raises; one that is only not planned does not
    require_reader(variant.dataset, f"variant {variant.name}")
    if options.variant in pipeline.variants:
        if options.shards not in (None, pipeline.variants[options.variant].shards):
            raise FarposeError("--shards contradicts params/pipeline.yaml", where=options.variant, fix="leave it out")
        return False
    if options.shards is None:
        made = sorted(path.name for path in paths.SHARDS.glob("*")) if paths.SHARDS.is_dir() else []
        fix = f"add it there, or name its crops with --shards (there now: {', '.join(made) or 'none'})"
        raise FarposeError("variant is not in params/pipeline.yaml", where=options.variant, fix=fix)
    return True


def _reproduce(kind: str, variant: str) -> None:
    from pipelines import graph
    from pipelines.driver import Driver

    name = f"{kind}@{variant}"
    stages = {stage.name: stage for stage in graph.load()}
    driver = Driver(paths.REPOSITORY, settings.load().flow.stage_timeout_hours * 3600, print)
    try:
        driver.reproduce(stages["plan"])  # decides whether there is anything to do
        result = driver.reproduce(stages[name])
    finally:
        driver.stop()
    print(f"{name}: {result.outcome}")


def _where_next() -> None:
    """Print it."""
    from components.evaluate.leading import leads

    places = {
        "all of it on one page": paths.REPORT / "report.html",
        "table and plots of all variants": paths.COMPARISON / "comparison.html",
        f"{leads(settings.data().files.evaluator).label} against person height": paths.COMPARISON / "by_height.png",
        "best, median and worst predictions": paths.EVALUATIONS / "*" / "gallery.png",
        "what the networks see": paths.SHARDS / "*" / "contact_sheet.png",
        "verdict on the data": paths.VALIDATION / "docs" / "index.html",
    }
    lines = [(f"  {text}", paths.shown(path)) for text, path in places.items()]
    commands = {
        "runs, models and the flow in a browser": "make ui",
        "joints of your own image": "farpose predict IMAGE --variant NAME",
        "change a parameter, run what depends on it": "edit params/, then `farpose run` or `dvc repro`",
    }
    lines += [(f"  {text}", command) for text, command in commands.items()]
    terminal.say("\nWhere to look next", "bold")
    terminal.listed(lines, 47, "cyan")
