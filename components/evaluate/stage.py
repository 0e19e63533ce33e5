"""Evaluate one model: predictions, metrics with their intervals, target AP and bound AP, curves by size and pictures."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from components.base.files import write_json
from components.evaluate import curves
from components.evaluate.approach import Approach, EvaluationContext, Found
from components.evaluate.gallery import gallery
from components.evaluate.headline import PROTOCOLS
from components.evaluate.oks import evaluate as coco_numbers
from components.evaluate.oks import match, summarise
from components.evaluate.overview import overview
from components.evaluate.pck import pck
from components.evaluate.predictions import Predictions, write_coco_results
from components.evaluate.significance import bootstrap_ap, write_matches
from components.pose.persons import Persons

HEIGHT_LABEL, REDUCTION_LABEL = "person height, px of the image", "image px per px of the network's input"
SPLITS = {"val": "validation split", "dev": "development split"}


def evaluate(approach: Approach, context: EvaluationContext) -> dict[str, Any]:
    """Score a model and write everything about it into the directory `context.out`.

    Files: metrics.json, predictions.json and matches.npz (and both with _detector_boxes), by_height and by_reduction as .json, .csv
    and .png, gallery.png, overview.png where the data hold a far person.

    Returns:
        `split`, and flat numbers, where B names the boxes that were given (`gt_boxes`, `no_boxes` or `no_boxes_letterbox`): `AP_B`,
        `AP_B_low` and `AP_B_high` (95 %), the other nine as `AP50_B` …, the same with `detector_boxes` where asked for;
        `mean_OKS_B` (of the labelled persons, 0 for those not found) and `PCK_head_B` or `PCK_torso_B`, see `pck`; with the boxes of
        the main AP `target_AP`, `target_AP50`, `target_AP75` (of the method's own perfect targets) and `bound_AP` (the best AP over
        all maps that the decoder could be given); `persons` (labelled), `images`, and the approach's own counts. A number without
        persons to be found (such as AP_L of a set of far people) is left out.
    Raises:
        FarposeError: what the approach's `predict` and `write_coco_results` raise.
    """
    data, out = context.data, context.out
    out.mkdir(parents=True, exist_ok=True)
    found, *others = approach.predict(context)
    metrics: dict[str, Any] = {"split": data.split, **scored(found, context, out / "predictions.json"), **localisation(found, data.persons)}
    metrics |= {"persons": len(found.persons), "images": len(data.images), **found.counts}
    metrics |= _reachable("target", ("AP", "AP50", "AP75"), approach.perfect(context.codec, data, context.device), context)
    metrics |= _reachable("bound", ("AP",), approach.bound(context.codec, data), context)
    for other in others:
        metrics |= scored(other, context, out / f"predictions_{other.boxes}.json") | dict(other.counts)
    by_height = _write_curves(approach, context, found)
    title = f"{context.title}, {SPLITS[data.split]}".removeprefix(", ")
    gallery(out / "gallery.png", f"{title}: {_main(metrics, found.boxes)}", approach.tiles(context, found), context.params.gallery_size)
    look = lambda person: approach.look(context, found, person)  # noqa: E731
    overview(out / "overview.png", title, found.persons, found.oks, look, by_height)
    write_json(out / "metrics.json", metrics)
    return metrics


def scored(found: Found, context: EvaluationContext, path: Path) -> dict[str, float]:
    """Write the prediction file; the ten COCO numbers and the interval of AP."""
    params, data = context.params, context.data
    write_coco_results(path, found.predictions, found.scores, {**context.provenance, **found.seen})
    matches = match(data.persons, found.predictions, found.scores, data.image_ids)
    write_matches(path.with_name(path.name.replace("predictions", "matches")).with_suffix(".npz"), matches)
    interval = bootstrap_ap(matches, params.bootstrap_resamples, params.bootstrap_seed)
    numbers = {f"{name}_{found.boxes}": value for name, value in summarise(matches).items() if value >= 0}
    ends = {f"AP_{found.boxes}_low": interval.low, f"AP_{found.boxes}_high": interval.high}
    return numbers | {name: value for name, value in ends.items() if np.isfinite(value)}


def localisation(found: Found, persons: Persons) -> dict[str, float]:
    """How near the joints are, over the labelled persons and independent of the scores; persons not found count as wrong.

    Args:
        persons: all rows of the split.
    """
    known = np.isfinite(found.oks)
    numbers = {"mean_OKS": float(found.oks[known].mean())} if known.any() else {}
    return {f"{name}_{found.boxes}": value for name, value in (numbers | pck(persons, found.before)).items()}


def _reachable(kind: str, names: tuple[str, ...], reached: tuple[Predictions, np.ndarray], context: EvaluationContext) -> dict[str, float]:
    """AP of the persons that a decoder returns from maps without error."""
    numbers = coco_numbers(context.data.persons, *reached, context.data.image_ids)
    return {f"{kind}_{name}": numbers[name] for name in names if numbers[name] >= 0}


def _main(metrics: dict[str, Any], boxes: str) -> str:
    ap = f"AP {metrics[f'AP_{boxes}']:.3f}" if f"AP_{boxes}" in metrics else "no labelled persons"
    return f"{ap}, boxes given: {PROTOCOLS[boxes]}"


def _write_curves(approach: Approach, context: EvaluationContext, found: Found) -> list[dict[str, Any]]:
    """Write the curves by size; returns the bins by height. Without boxes a person's height is that of its joints' extent."""
    data, params = context.data, context.params
    measures = {
        "by_height": (curves.heights(data.persons, found.predictions), params.height_bins_px, HEIGHT_LABEL),
        "by_reduction": (approach.reductions(context, found), params.reduction_bins, REDUCTION_LABEL),
    }
    written: dict[str, list[dict[str, Any]]] = {}
    for name, (sizes, edges, size_label) in measures.items():
        resampling = params.bootstrap_resamples, params.bootstrap_seed
        points = curves.by_size(data.persons, found.predictions, found.scores, sizes, edges, data.image_ids, *resampling)
        curves.write_points(context.out, name, points)
        written[name] = [asdict(point) for point in points]
        curves.plot(context.out / f"{name}.png", {context.title or "model": written[name]}, size_label)
    return written["by_height"]
