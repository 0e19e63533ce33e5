"""How often each kind of error is made, by person height and by joint, and what AP (of MPII PCKh@0.5) would be without it."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from components.base.files import atomic_file, write_json
from components.evaluate import errors as taxonomy
from components.evaluate.errors import BACKGROUND, INVERSION, JITTER, KINDS, MISS, REPEAT, SWAP, Errors
from components.evaluate.evaluators import evaluator
from components.evaluate.leading import AP, PCKH, Number, leads
from components.evaluate.matching import rows_of
from components.evaluate.oks import match, ranges_of
from components.evaluate.params import EvaluateParams
from components.evaluate.predictions import Predictions
from components.evaluate.resampling import Measure, average_precision, ends, once, resampled, share
from components.evaluate.scoring import Truth
from components.pose.skeleton import Skeleton

JOINT_KINDS = {"jitter": (JITTER,), "inversion": (INVERSION,), "swap": (SWAP,), "miss": (MISS,)}
ALL_JOINTS = "all joint errors"
IN_WORDS = {
    "good": "near enough",
    "jitter": "near, but not exact",
    "inversion": "left and right exchanged",
    "swap": "at another person's joint",
    "miss": "at no such joint",
    ALL_JOINTS: "the four together",
    "background": "a prediction where nobody is, or a second one of a person",
    "not found": "a person without a prediction",
    "ranking": "scores that do not rank predictions by their OKS",
}
Found = tuple[Predictions, np.ndarray]  # and their (N,) scores


def diagnose(truth: Truth, found: Found, params: EvaluateParams) -> tuple[dict[str, Any], Errors]:
    """The errors of predictions, counted, and what correcting each kind would gain, all others kept.

    Returns:
        A mapping: `AP`, or what else the data set leads with, and `leads`, its key; `kinds`, a list with `kind`, `errors` (joints, or
        persons), `share` (of the labelled joints of persons with a prediction) and `gain` (in that number, with `gain_low` and
        `gain_high`, 95 % over images); `by_height`, a list of bins with `low`, `high`, `persons`, `joints`, that number, and mappings
        `share`, `gain` and `persons_wrong` by kind; `by_joint`, a list with `joint` (both sides together), `joints`, `share` by kind and
        `gain` without its four joint errors.
    Raises:
        FarposeError: what `errors.classify` raises.
    """
    predictions, scores = found
    errors = taxonomy.classify(truth, predictions, scores)
    edges = [0.0, *params.height_bins_px, np.inf]
    variants = {"": (truth, predictions, scores), **_corrections(truth, found, errors)}
    pairs = joint_pairs(truth.persons.skeleton)
    by_joint = {name: (truth, taxonomy.corrected(truth, predictions, errors, _all_kinds(), mask), scores) for name, mask in pairs.items()}
    led, images = leads(truth.evaluator), len(truth.image_ids)
    measures = {name: _measures(*of, edges) for name, of in variants.items()}
    joints = {name: once(_measures(*of, edges[:1])[0], images) for name, of in by_joint.items()}
    rows = max((len(of[1]) for of in variants.values()), default=1)
    wholes = {name: of_bins[0] for name, of_bins in measures.items()}
    draws = resampled(wholes, images, params.bootstrap_resamples, params.bootstrap_seed, rows)
    whole = {name: once(one, images) for name, one in wholes.items()}
    result = {
        "leads": led.name,
        led.name: whole[""],
        "persons": int(taxonomy.counted_persons(truth.persons).sum()),
        "predictions": len(predictions),
        "kinds": [_kind(name, errors, whole[name] - whole[""], draws[name] - draws[""]) for name in measures if name],
        "by_height": _by_height(truth, predictions, errors, measures, edges),
        "by_joint": [_joint(name, mask, errors.kind, joints[name] - whole[""]) for name, mask in pairs.items()],
    }
    return result, errors


def led_by(result: Mapping[str, Any]) -> tuple[Number, float]:
    """The number that the gains are in, and its value."""
    led = PCKH if result.get("leads") == PCKH.name else AP
    return led, float(result[led.name])


def _all_kinds() -> tuple[int, ...]:
    return tuple(kind for kinds in JOINT_KINDS.values() for kind in kinds)


def _corrections(truth: Truth, found: Found, errors: Errors) -> dict[str, tuple[Truth, Predictions, np.ndarray]]:
    """By kind of error: what is scored when it is corrected."""
    predictions, scores = found
    mended = {name: taxonomy.corrected(truth, predictions, errors, kinds) for name, kinds in JOINT_KINDS.items()}
    mended[ALL_JOINTS] = taxonomy.corrected(truth, predictions, errors, _all_kinds())
    made = {name: (truth, joints, scores) for name, joints in mended.items()}
    kept = ~np.isin(errors.fate, (BACKGROUND, REPEAT))
    made["background"] = truth, predictions.select(kept), scores[kept]
    made["not found"] = replace(truth, persons=truth.persons.select(~errors.not_found)), predictions, scores
    made["ranking"] = truth, predictions, errors.oks
    return made


def _measures(truth: Truth, predictions: Predictions, scores: np.ndarray, edges: Sequence[float]) -> list[Measure]:
    """The leading number of all heights, then of each bin."""
    judge, limits = evaluator(truth.evaluator), [(0.0, np.inf), *itertools.pairwise(edges)]
    if judge.joints is None:
        closed = tuple((low, float(np.nextafter(high, 0)) if index else np.inf) for index, (low, high) in enumerate(limits))
        ranges = ranges_of(truth.persons.bbox_xywh[:, 3], predictions.bbox_xywh[:, 3], closed)
        matches = match(truth.persons, predictions, scores, truth.image_ids, ranges)
        return [average_precision(matches, index) for index in range(len(limits))]
    labelled, joints = truth.persons.labelled(), judge.joints(truth.persons, predictions)
    place, heights = rows_of(truth.image_ids, labelled.frame["image_id"].to_numpy()), labelled.bbox_xywh[:, 3]
    inside = [(heights >= low) & (heights < high) & (place >= 0) for low, high in limits]
    return [share(*(np.bincount(place[part], one[part].sum(1), len(truth.image_ids)) for one in joints)) for part in inside]


def _kind(name: str, errors: Errors, gain: float, draws: np.ndarray) -> dict[str, Any]:
    low, high = ends(draws)
    count, of = _count(name, errors), int((errors.kind >= 0).sum())
    share = count / of if of and count is not None and name in (*JOINT_KINDS, ALL_JOINTS) else None
    return {"kind": name, "errors": count, "share": share, "gain": _known(gain), "gain_low": low, "gain_high": high}


def _count(name: str, errors: Errors) -> int | None:
    """Joints or persons with an error of this kind; None for the ranking, which is no error of one of them."""
    if name == "not found":
        return int(errors.not_found.sum())
    if name == "background":
        return int(np.isin(errors.fate, (BACKGROUND, REPEAT)).sum())
    if name == "ranking":
        return None
    return int(np.isin(errors.kind, _all_kinds() if name == ALL_JOINTS else JOINT_KINDS[name]).sum())


def _by_height(
    truth: Truth, predictions: Predictions, errors: Errors, measures: Mapping[str, Sequence[Measure]], edges: Sequence[float]
) -> list[dict[str, Any]]:
    heights, counted = truth.persons.bbox_xywh[:, 3], taxonomy.counted_persons(truth.persons)
    of_predictions = np.where(errors.person >= 0, heights[errors.person], predictions.bbox_xywh[:, 3])
    images, bins = len(truth.image_ids), []
    for index, (low, high) in enumerate(itertools.pairwise(edges), start=1):
        kind = errors.kind[(of_predictions >= low) & (of_predictions < high)]
        fate = errors.fate[(of_predictions >= low) & (of_predictions < high)]
        inside = (heights >= low) & (heights < high) & counted
        values = {name: once(of_bins[index], images) for name, of_bins in measures.items()}
        bins.append(
            {
                "low": low,
                "high": None if np.isinf(high) else high,
                "middle": float(np.median(heights[inside])) if inside.any() else None,
                "persons": int(inside.sum()),
                "joints": int((kind >= 0).sum()),
                leads(truth.evaluator).name: _known(values[""]),
                "share": shares(kind),
                "gain": {name: _known(value - values[""]) for name, value in values.items() if name},
                "persons_wrong": {
                    "background": int(np.isin(fate, (BACKGROUND, REPEAT)).sum()),
                    "not found": int((errors.not_found & inside).sum()),
                },
            }
        )
    return bins


def _joint(name: str, mask: np.ndarray, kind: np.ndarray, gain: float) -> dict[str, Any]:
    own = kind[:, mask]
    return {"joint": name, "joints": int((own >= 0).sum()), "share": shares(own), "gain": _known(gain)}


def shares(kind: np.ndarray) -> dict[str, float | None]:
    """By kind of a joint, `good` included: its share of the labelled ones."""
    count = int((kind >= 0).sum())
    return {name: float((kind == number).sum() / count) if count else None for number, name in enumerate(KINDS)}


def joint_pairs(skeleton: Skeleton) -> dict[str, np.ndarray]:
    """Name → (K,) mask of a joint and its partner: `elbow` of left_elbow and right_elbow; both names where they share none."""
    pairs: dict[str, np.ndarray] = {}
    for k, partner in enumerate(skeleton.flip_permutation):
        names = [skeleton.keypoint_names[i] for i in sorted({k, partner})]
        bases = {name.removeprefix("left_").removeprefix("right_") for name in names}
        mask = np.zeros(len(skeleton), bool)
        mask[[k, partner]] = True
        pairs.setdefault(bases.pop() if len(bases) == 1 else " / ".join(names), mask)
    return pairs


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def write(folder: Path, result: Mapping[str, Any]) -> None:
    """Write errors.json, and errors.csv with one line per kind, kind and height, and kind and joint."""
    write_json(folder / "errors.json", dict(result))
    lines = [
        {"by": "all", "kind": row["kind"], "errors": row["errors"], "share": row["share"], "gain": row["gain"]} for row in result["kinds"]
    ]
    for row in result["by_height"]:
        end = "" if row["high"] is None else f"{row['high']:g}"
        for kind in {**row["share"], **row["gain"]}:
            part = {"by": "height", "of": f"{row['low']:g}-{end}", "kind": kind, "errors": row["persons_wrong"].get(kind)}
            lines.append(part | {"share": row["share"].get(kind), "gain": row["gain"].get(kind)})
    for row in result["by_joint"]:
        lines += [{"by": "joint", "of": row["joint"], "kind": kind, "share": share} for kind, share in row["share"].items()]
        lines.append({"by": "joint", "of": row["joint"], "kind": ALL_JOINTS, "gain": row["gain"]})
    with atomic_file(folder / "errors.csv") as temporary, open(temporary, "w", newline="") as stream:
        writer = csv.DictWriter(stream, ("by", "of", "kind", "errors", "share", "gain"), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def in_words(name: str, result: Mapping[str, Any]) -> str:
    """What fixing what would gain, the most first."""
    rows = sorted((row for row in result["kinds"] if row["gain"] is not None), key=lambda row: -row["gain"])
    named = [row for row in rows if row["kind"] != ALL_JOINTS and row["gain_high"]]
    if not named:
        return f"{name}: {title_of(result)}; no correction changes it."
    told = ", ".join(f"{row['kind']} +{100 * row['gain']:.1f} ({_range(row)})" for row in named[:3])
    return f"{name}: {title_of(result)}. What a perfect correction of one kind of error alone would add: {told}."


def title_of(result: Mapping[str, Any]) -> str:
    """The leading number in percent."""
    led, value = led_by(result)
    return f"{led.label} {100 * value:.1f}"


def _range(row: Mapping[str, Any]) -> str:
    return "no interval" if row["gain_low"] is None else f"{100 * row['gain_low']:.1f}–{100 * row['gain_high']:.1f}"


def table(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells for people, the largest gain first."""
    rows = sorted(result["kinds"], key=lambda row: -(row["gain"] or 0.0))
    percent = lambda value: "" if value is None else f"{100 * value:.1f}"  # noqa: E731
    cells = [
        [row["kind"], IN_WORDS[row["kind"]], "" if row["errors"] is None else f"{row['errors']:,}", percent(row["share"])]
        + [f"{percent(row['gain'])} ({_range(row)})"]
        for row in rows
    ]
    return [
        "error",
        "meaning",
        "joints or persons",
        "share of joints, %",
        f"{led_by(result)[0].label} gained if corrected (95 % interval)",
    ], cells
