"""The report: gathers what is evaluated, asks for curves and errors, and writes one page."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.base.errors import FarposeError
from components.base.files import read_json, sha256_of, write_json
from components.degrade.images import read_image
from components.evaluate import error_gains, error_pictures, report, usefulness
from components.evaluate.by_condition import title_of
from components.evaluate.headline import PROTOCOLS, headline
from components.evaluate.leading import label_of, leading, leading_value
from components.evaluate.params import EvaluateParams
from components.evaluate.ranking import merged, ranked
from components.evaluate.report import Picture, Section
from components.evaluate.resampling import Outcome
from components.evaluate.scoring import Truth
from components.evaluate.table import columns, name_of, notes_of
from components.evaluate.usefulness_plot import plot
from components.pose.draw import draw_joints
from components.pose.persons import Persons
from components.registry import lineage
from pipelines import asked, comparing, curves, paths, settings
from pipelines.asked import Asked

PAGE = "report.html"
SHOWN = 12  # annotated persons on the page
Read = Callable[[int], np.ndarray]


def reader(images: Path | None, data: Path | None, persons: Persons) -> Read:
    """A function from an image's id to its px, (H, W, 3) uint8 RGB, as the persons' coordinates take them.

    Args:
        images: the folder that the tables' paths are relative to; None: data/<source>.
        data: of the tables; None: the pipeline's.
    """
    root, known = images or paths.DATA / settings.data().source, asked.image_paths(data)
    return lambda image: np.ascontiguousarray(read_image(root / known[image], persons.upright)[..., ::-1])


def make(folder: Path, images: Path | None = None) -> str:
    """Write the page into `folder`, and its numbers as curve.csv, curve.json and errors/NAME.json; a sentence on what it holds.

    Args:
        images: the folder that the table's image paths are relative to; None: data/<source>.
    Raises:
        FarposeError: nothing is evaluated, or what reading predictions and images raises.
    """
    given, params = curves.everything(), settings.evaluation()
    split = curves.one_split(given, None, params.split)
    truth = asked.truth_of(None, split)
    read = reader(images, None, truth.persons)
    rows, matches = _rows(given)
    whole, runs = merged(rows, matches)
    order = ranked(whole, runs)
    models = [curves.model(one, truth) for one in given]
    best = order[0]
    lead = [
        f"{_count(order)} on split {split} of {settings.data().source}: {len(truth.persons.labelled()):,} persons on "
        f"{len(truth.image_ids):,} images. Best: {name_of(best)} with {leading(best).label} {100 * leading_value(best):.1f}."
    ]
    sections = [
        Section("leaderboard", "Leaderboard", tables=[report.leaderboard(order, notes_of(order))], pictures=_comparison(label_of(order))),
        _differences(order, runs, params),
        *_conditions(),
        _curves(folder, truth, models, params),
        _errors(folder, truth, given, models, params, read),
        _data(truth, read),
        *_degradation(),
        _provenance(given, rows),
    ]
    report.write(folder / PAGE, f"Farpose report: {settings.data().source}", lead, sections)
    return f"{_count(order)}; best: {name_of(best)}, {leading(best).label} {100 * leading_value(best):.1f}"


def _rows(given: Sequence[Asked]) -> tuple[list[dict[str, Any]], dict[str, Outcome]]:
    """The comparison's rows of what is evaluated, and their matches."""
    rows: list[dict[str, Any]] = []
    matches: dict[str, Outcome] = {}
    for one in given:
        if one.folder is not None:
            rows.append(_row(one.name, one.folder))
            matches |= comparing.matches([one.name])
        elif (paths.COMPARISON / comparing.PEERS / one.name / "metrics.json").is_file():
            ((row, match),) = comparing.evaluated(one.name)
            rows.append(row)
            matches[one.name] = match
    if not rows:
        raise FarposeError("nothing is evaluated yet", fix="`farpose run`")
    return rows, matches


def _row(name: str, folder: Path) -> dict[str, Any]:
    """The comparison's row of a variant; without what its training would say where that was not a stage of the pipeline."""
    if all((paths.RESULTS / stage / f"{name}.json").is_file() for stage in ("train", "evaluate")):
        return comparing.row(name)
    return {**read_json(folder / "metrics.json"), **comparing.identity(name)}


def _count(rows: Sequence[Any]) -> str:
    return f"{len(rows)} model{'' if len(rows) == 1 else 's'}"


def _comparison(label: str) -> list[Picture]:
    known = {"comparison.png": f"{label} with its interval, marks as the legend says, and beside it the differences to the best."}
    return [report.png(paths.COMPARISON / name, caption) for name, caption in known.items() if (paths.COMPARISON / name).is_file()]


def _differences(order: Sequence[Mapping[str, Any]], runs: Mapping[str, Sequence[Outcome]], params: EvaluateParams) -> Section:
    """Of all pairs of rows that were given the same boxes."""
    tables = []
    for suffix, boxes in PROTOCOLS.items():
        names = [str(row["variant"]) for row in order if headline(row) == suffix and row["variant"] in runs]
        table = report.pairs({name: runs[name] for name in names}, params, f"Boxes given: {boxes}.", label_of(order))
        tables += [table] if table else []
    return Section("differences", "Paired differences", [] if tables else ["No two models with the same boxes to compare."], tables)


def _conditions() -> list[Section]:
    """The tables of the last comparison under further conditions."""
    path = paths.COMPARISON / "conditions.json"
    if not path.is_file():
        return []
    parts = []
    for name, rows in read_json(path).items():
        shown = columns(rows, wide=False)
        table = report.table_of([one.heading for one in shown], [[one.text(row) for one in shown] for row in rows])
        parts.append(Section(name, title_of(name), tables=[table]))
    return [Section("conditions", "Further conditions", ["The same weights on other inputs of the same persons."], parts=parts)]


def _curves(folder: Path, truth: Truth, models: Sequence[usefulness.Model], params: EvaluateParams) -> Section:
    found = usefulness.curves(truth, models, params)
    usefulness.write(folder, found)
    tables, pictures = [], []
    for over, (headings, cells) in usefulness.tables(found).items():
        length = f", PCK of ½ {found.pck}" if usefulness.PCK in found.shown else ""
        note = f"{found.heading} in percent{length}, by the {usefulness.SIZES[over]}."
        tables.append(report.table_of(headings, cells, [note]))
        one = dataclasses.replace(found, points=[point for point in found.points if point.over == over])
        path = folder / f"curve_{over}.png"
        if plot(path, one, models):
            marks = f"other networks' predictions are dashed, bins of fewer than {usefulness.FEWEST} persons hollow"
            caption = f"By the {usefulness.SIZES[over]}, with 95 % intervals; {marks}."
            pictures.append(report.png(path, caption, wide=False))
    led = found.shown[0].label
    rule = f"A method is called useful down to the height at which its {led} falls under half of its {led} at large heights."
    return Section("curves", "How far away still works", [rule, *(one.sentence() for one in found.limits)], tables, pictures)


def _errors(
    folder: Path, truth: Truth, given: Sequence[Asked], models: Sequence[usefulness.Model], params: EvaluateParams, read: Read
) -> Section:
    parts, sentences = [], []
    for one, model in zip(given, models, strict=True):
        result, found = error_gains.diagnose(truth, model.found, params)
        path = folder / "errors" / f"{one.name}.png"
        error_pictures.plot(path, f"{one.name}: {error_gains.title_of(result)}", result)
        write_json(folder / "errors" / f"{one.name}.json", {"name": one.name, **result})
        worst = error_pictures.worst(truth, model.found, found, read, params.gallery_size)
        tiles = [report.photograph(shown.picture, f"{shown.kind}: {shown.caption}") for shown in worst]
        texts = [error_pictures.LEGEND[0].upper() + error_pictures.LEGEND[1:] + "."] if tiles else []
        table = report.table_of(*error_gains.table(result))
        parts.append(Section(one.name, one.name, texts, [table], [report.png(path, "Shares and gains by joint and by height.")], tiles))
        sentences.append(error_gains.in_words(one.name, result))
    why = "Kinds of error after Ronchi and Perona (2017); a correction leaves all other errors as they are. Below: the worst of each kind."
    return Section("errors", "Errors", [why, *sentences], parts=parts)


def _data(truth: Truth, read: Read) -> Section:
    """Annotated persons of all heights, evenly spread, the tallest first."""
    persons = truth.persons.labelled()
    rich = persons.select((persons.keypoints[..., 2] > 0).mean(1) >= 0.5)
    persons = rich if len(rich) >= SHOWN else persons
    order = np.argsort(-persons.bbox_xywh[:, 3], kind="stable")
    chosen = order[np.unique(np.linspace(0, len(order) - 1, SHOWN).round().astype(int))] if len(order) else []
    tiles = [_annotated(persons, int(row), read) for row in chosen]
    heights = persons.bbox_xywh[:, 3]
    text = f"Annotated persons, evenly spread over the heights from {heights.max():.0f} to {heights.min():.0f} px; left blue, right orange."
    return Section("data", "Data", [text], tiles=tiles)


def _annotated(persons: Persons, row: int, read: Read) -> Picture:
    joints, visible = persons.keypoints[row, :, :2], persons.keypoints[row, :, 2] > 0
    picture, place = error_pictures.around(read(int(persons.frame["image_id"].iloc[row])), persons.bbox_xywh[row], joints[visible])
    draw_joints(picture, place(joints), visible, persons.skeleton, thickness=2)
    return report.photograph(picture, f"{persons.bbox_xywh[row, 3]:.0f} px high")


def _degradation() -> list[Section]:
    import cv2

    sheets = []
    for name in settings.load().shards:
        sheet = cv2.imread(str(paths.SHARDS / name / "contact_sheet.png"))
        if sheet is not None:
            sheets.append(report.photograph(np.ascontiguousarray(sheet[..., ::-1]), f"{name}: what the networks see.", wide=True))
    return [Section("inputs", "Inputs", pictures=sheets)] if sheets else []


def _provenance(given: Sequence[Asked], rows: Sequence[Mapping[str, Any]]) -> Section:
    """Contents only, so that whoever makes the page again has the same bytes; its MLflow run names the commit."""
    data_digest = {"data (DVC's MD5)": lineage.data_digest() or "none"}
    noted = {str(row["variant"]): row for row in rows}
    models = []
    for one in given:
        facts = {"predictions (SHA-256)": sha256_of(one.file), **(_made_by(one) if one.folder else {})}
        if noted.get(one.name, {}).get("peer_note"):
            facts["origin"] = noted[one.name]["peer_note"]
        models.append(Section(one.name, one.name, facts={key: str(value) for key, value in facts.items()}))
    data = settings.data()
    source = dataclasses.asdict(data)["sources"][data.source]
    parameters = [
        Section("evaluate", "Parameters of the evaluation", facts=lineage.flat(settings.evaluation())),
        Section(
            "source", f"Data set {data.source}", facts=lineage.flat({key: value for key, value in source.items() if key != "skeleton"})
        ),
    ]
    return Section("provenance", "Provenance", facts={**data_digest, **lineage.versions()}, parts=[*models, *parameters])


def _made_by(one: Asked) -> dict[str, str]:
    """What an evaluation's predictions say of their making."""
    records = read_json(one.file)
    said = records[0].get("provenance", {}) if records else {}
    return {key: said[key] for key in ("weights_sha256", "shards", "data_md5", "code") if key in said}
