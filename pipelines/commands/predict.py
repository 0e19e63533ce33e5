"""`predict`: the joints of the persons in images of your own."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.base.errors import FarposeError
from components.base.files import write_json
from pipelines import paths, photographs, settings, stages
from pipelines.photographs import Photograph

LISTED = 20  # persons that are printed one by one
DETECTED_ABOVE = 0.1  # person's score up to which a detected person is not drawn: one pose in seven is right; see results/detector
CROPS_ONLY = ("boxes", "whole_image", "score", "tile")  # options that say where persons are


@dataclass(frozen=True)
class Subject:
    """The model that predicts, and how its inputs are made.

    Attributes:
        built: `zoo.Built`.
        metadata: of its weights, for the provenance.
        spec, degrade, evaluate: a `ShardSpec`, `DegradeParams` and `EvaluateParams`.
    """

    built: Any
    metadata: dict[str, str]
    spec: Any
    degrade: Any
    evaluate: Any


def predict(options: argparse.Namespace) -> None:
    """Write predictions.json (COCO results), images.json (which number is which file) and one drawing per image.

    All coordinates are px of the upright image, as viewers show it. Every image is read before anything is written.
    """
    from components.approaches import approach
    from components.evaluate.approach import Files
    from components.evaluate.predictions import write_coco_results

    files = photographs.unique(options.images)
    drawings = photographs.drawings(options.output, files.values())
    _check(options)
    subject = chosen(options.variant, options.weights, lambda variant: _refuse(options, variant), options.model)
    shown = approach(subject.built.variant.approach)
    shots = {number: Photograph.of(path) for number, path in files.items()}
    located = _located(options, shots) if shown.takes_boxes else photographs.Located({}, None, "none")
    if shown.takes_boxes and not len(located):
        found, scores = _nobody(len(subject.built.variant.skeleton)), np.zeros(0)
    else:
        boxes = located.boxes if shown.takes_boxes else None
        given = Files(files, boxes, subject.spec, subject.degrade, located.scores)
        found, scores = shown.find(subject.built, given, subject.evaluate, stages.device_name())
    provenance = {"variant": subject.built.variant.name, "weights": subject.metadata, "boxes": located.origin}
    names = {number: shot.path.name for number, shot in shots.items()}
    write_coco_results(options.output / "predictions.json", found, scores, provenance, names, located.category_id)
    for note in located.notes:
        print(f"note: {note}")
    write_json(options.output / "images.json", {number: shot.record for number, shot in shots.items()})
    usual = shown.draw_above if located.scores is None else DETECTED_ABOVE
    strong = (usual if options.draw_above is None else options.draw_above) < scores
    if not options.no_draw:
        _draw(subject, {number: drawings[path] for number, path in files.items()}, shots, found, scores, strong)
    _print(options, subject, shots, found, scores, strong)


def _check(options: argparse.Namespace) -> None:
    if options.boxes and options.whole_image:
        raise FarposeError("--boxes and --whole-image exclude each other", fix="remove one")
    if options.score is not None and not 0 < options.score < 1:
        raise FarposeError(f"--score must lie between 0 and 1, got {options.score:g}", fix="such as 0.3")
    if options.tile is not None and options.tile != 0 and options.tile < 64:
        raise FarposeError(f"--tile must be at least 64 px, or 0 for none, got {options.tile}", fix="such as 416")


def _refuse(options: argparse.Namespace, variant: Any) -> None:
    """Refuse options that say where persons are, for a variant that finds them itself."""
    from components.approaches import approach

    if approach(variant.approach).takes_boxes:
        return
    for name in CROPS_ONLY:
        if getattr(options, name) not in (None, False):
            option = "--" + name.replace("_", "-")
            what = "boxes" if name == "boxes" else option
            problem = f"the variant finds the persons of whole images and takes no {what}"
            raise FarposeError(problem, where=variant.name, fix=f"remove {option}")


def chosen(name: str | None, weights: Path | None, check: Any = None, model: str | None = None) -> Subject:
    """The named variant or model; or else the registry's champion, or the released model where the store has none.

    Args:
        weights: of the named variant, if not those that `train` made.
        check: called with the variant before its weights are read.
        model: a released model, or a registered one as NAME@ALIAS or NAME@VERSION.
    Raises:
        FarposeError: the variant is not trained, no model has this name, both are named, or there is no model at all.
    """
    from components.models import zoo
    from components.models.weights import read_metadata

    check = check or (lambda variant: None)
    if name is not None and model is not None:
        raise FarposeError("--model and --variant both name what predicts", fix="give one of them")
    if name is not None:
        variant = zoo.variant(name)
        check(variant)
        weights = weights or weights_of(variant.name)
        built = stages.trained(variant, weights)
        return Subject(built, read_metadata(weights), _spec(variant), settings.degrade(), settings.evaluation())
    if weights is not None:
        raise FarposeError("--weights needs --variant", fix="name the variant that they belong to")
    found = _named(model) if model else _usual()
    check(found.variant)
    return Subject(found.build(), read_metadata(found.weights), found.spec, found.degrade, found.evaluate)


def _named(model: str) -> Any:
    """A registered or a released model, as a `Package`."""
    from components.registry import promotion, released

    return promotion.read(promotion.find(model)) if "@" in model else released.read(model, paths.RELEASED.parent)


def _usual() -> Any:
    """The registry's champion; where there is no store or no champion in it, the model that comes with the clone."""
    from components.registry import promotion, released, store

    version = promotion.champion() if store.exists() else None
    if version is not None:
        return promotion.read(version)
    if paths.RELEASED.is_dir():
        return released.read(paths.RELEASED.name, paths.RELEASED.parent)
    fix = f"name a trained variant by --variant; trained: {', '.join(_trained()) or 'none'}"
    raise FarposeError("no champion in the registry and no released model", where=paths.shown(paths.RELEASED), fix=fix)


def weights_of(name: str) -> Path:
    """The variant's weights: the pipeline's, or those of `farpose train` in scratch/."""
    for folder in (paths.MODELS / name, paths.SCRATCH / name / "model"):
        if (folder / "model.safetensors").is_file():
            return folder / "model.safetensors"
    raise FarposeError(f"variant {name!r} is not trained", fix=f"`farpose train {name}`; trained: {', '.join(_trained()) or 'none'}")


def _trained() -> list[str]:
    return sorted(path.parent.name for path in paths.MODELS.glob("*/model.safetensors"))


def _spec(variant: Any) -> Any:
    """How inputs of the variant are made: as the shards it was trained on, or directly."""
    from components.approaches import approach

    pipeline = settings.load()
    plan = pipeline.variants.get(variant.name)
    return pipeline.shards[plan.shards] if plan else approach(variant.approach).spec(variant)


def _located(options: argparse.Namespace, shots: dict[int, Photograph]) -> photographs.Located:
    if options.boxes:
        return photographs.given(options.boxes, shots)
    if options.whole_image:
        return photographs.whole(shots)
    return photographs.detected(shots, options.score, options.tile)


def _nobody(joints: int) -> Any:
    from components.evaluate.predictions import Predictions

    ids, numbers = np.zeros(0, np.int64), np.zeros(0)
    return Predictions(ids, ids, np.zeros((0, joints, 2)), np.zeros((0, joints)), numbers, np.zeros((0, 4)), numbers)


def _draw(
    subject: Subject, places: dict[int, Path], shots: dict[int, Photograph], found: Any, scores: np.ndarray, strong: np.ndarray
) -> None:
    """One drawing per image of its strong persons (N,) bool, and of several images a page that shows them all."""
    from components.approaches import approach
    from components.degrade.images import read_image
    from components.pose.draw import write_png
    from components.pose.sheet import Sheet

    shown, sheet = approach(subject.built.variant.approach), Sheet()
    for number, shot in shots.items():
        own = found.image_id == number
        rows = own & strong
        image = read_image(shot.path, upright=True)[..., ::-1]
        picture = shown.picture(image, found.select(rows), scores[rows], subject.built, subject.evaluate)
        write_png(places[number], picture)
        if len(shots) >= photographs.SHEET_FROM:
            sheet.add(picture, f"{shot.path.name}: {_persons(int(rows.sum()), int((own & ~strong).sum()))}")
    if len(shots) >= photographs.SHEET_FROM:
        write_png(places[number].with_name(photographs.SHEET), sheet.page())


def _print(
    options: argparse.Namespace, subject: Subject, shots: dict[int, Photograph], found: Any, scores: np.ndarray, strong: np.ndarray
) -> None:
    """What was found: per image, and per person while they are few; of weak persons only how many they are."""
    from components.approaches import approach

    print(f"model: {subject.built.variant.name}")
    skeleton = subject.built.variant.skeleton
    shown = approach(subject.built.variant.approach)
    for number, shot in shots.items():
        own = found.image_id == number
        rows = np.flatnonzero(own & strong)
        print(f"{shot.path.name}, {shot.width}x{shot.height} px: {_persons(len(rows), int((own & ~strong).sum()))}")
        if strong.sum() <= LISTED:
            for rank, row in enumerate(rows[np.argsort(-scores[rows], kind="stable")].tolist(), start=1):
                sides = "{2:.0f}x{3:.0f} px at {0:.0f}, {1:.0f}".format(*found.bbox_xywh[row])
                box = f", box {found.box_scores[row]:.2f}" if shown.takes_boxes and not options.whole_image and not options.boxes else ""
                top = np.argsort(-found.keypoint_scores[row], kind="stable")[:3]
                surest = ", ".join(f"{skeleton.keypoint_names[k]} {found.keypoint_scores[row, k]:.2f}" for k in top.tolist())
                print(f"  {rank}: score {scores[row]:.2f}{box}, {sides}; surest: {surest}")
    weak = len(found) - int(strong.sum())
    hidden = f", {weak} of them too weak to be drawn or listed" if weak else ""
    print(f"{_count(len(found), 'person')} in {_count(len(shots), 'image')}{hidden}")
    print(f"all of them, with every joint: {options.output / 'predictions.json'}")
    if not options.no_draw:
        sheet = f"; all on one page: {options.output / photographs.SHEET}" if len(shots) >= photographs.SHEET_FROM else ""
        print(f"drawn: {options.output / (next(iter(shots.values())).path.stem + '.png')}{' and others' * (len(shots) > 1)}{sheet}")
    if not len(found):
        advice = "try a lower --score, a smaller --tile, or --boxes FILE" if shown.takes_boxes else "try another model"
        print(f"nobody was found: {advice}")


def _persons(strong: int, weak: int) -> str:
    return _count(strong, "person") + (f" and {weak} too weak to draw" if weak else "")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
