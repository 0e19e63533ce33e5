"""Evaluate one model: predictions, metrics with their intervals, target AP and bound AP, curves by size and pictures."""

from __future__ import annotations

from typing import Any

import numpy as np

from components.base.files import write_json
from components.evaluate import curves
from components.evaluate.approach import Approach, EvaluationContext, Found
from components.evaluate.evaluators import evaluator
from components.evaluate.gallery import gallery
from components.evaluate.headline import PROTOCOLS
from components.evaluate.leading import leading, leading_value
from components.evaluate.oks import evaluate as coco_numbers
from components.evaluate.overview import overview
from components.evaluate.predictions import Predictions, write_coco_results
from components.evaluate.scoring import localisation, scored, write_curve
from components.evaluate.significance import MATCHES, SHARES

REDUCTION_LABEL = "image px per px of the network's input"
SPLITS = {"val": "validation split", "dev": "development split"}


def evaluate(approach: Approach, context: EvaluationContext) -> dict[str, Any]:
    """Score a model and write everything about it into the directory `context.out`.

    Files: metrics.json, predictions.json, matches.npz and, where the benchmark leads with a share of joints, shares.npz (and all
    with the suffix of further numbers, such as _detector_boxes),
    by_height and by_reduction as .json, .csv and .png, gallery.png, overview.png where the data hold a far person.

    Returns:
        `split`, and flat numbers, where B names the boxes that were given (`gt_boxes`, `no_boxes` or `no_boxes_letterbox`): `AP_B`,
        `AP_B_low` and `AP_B_high` (95 %), the other nine as `AP50_B` …, the same with `detector_boxes`, with `detector_boxes_x4` (the
        shipped detector's on images reduced four times), and under other decodings and conditions (`gt_boxes_h32`), where asked for;
        `mean_OKS_B` (of the labelled persons, 0 for those not found) and `PCK_head_B` or `PCK_torso_B`, see `pck`; with the boxes of
        the main AP `target_AP`, `target_AP50`, `target_AP75` (of the method's own perfect targets) and `bound_AP` (the best AP over
        all maps that the decoder could be given); `persons` (labelled), `images`, and the approach's own counts. A number without
        persons to be found (such as AP_L of a set of far people) is left out. `data.evaluator` adds its benchmark's, see `evaluators`.
    Raises:
        FarposeError: what the approach's `predict`, the evaluator and `write_coco_results` raise.
    """
    data, out = context.data, context.out
    evaluator(data.evaluator).check(data.persons)
    out.mkdir(parents=True, exist_ok=True)
    found, *others = approach.predict(context)
    metrics: dict[str, Any] = {"split": data.split, **_scored(found, context), **_localised(found, context, "")}
    metrics |= {"persons": len(found.persons), "images": len(data.images), **found.counts}
    metrics |= _reachable("target", ("AP", "AP50", "AP75"), approach.perfect(context.codec, data, context.device), context)
    metrics |= _reachable("bound", ("AP",), approach.bound(context.codec, data), context)
    for other in others:
        metrics |= _scored(other, context, f"_{other.boxes}") | dict(other.counts)
        metrics |= _localised(other, context, f"_{other.boxes}") if len(other.persons) else {}
    by_height = _write_curves(approach, context, found)
    title = f"{context.title}, {SPLITS[data.split]}".removeprefix(", ")
    gallery(out / "gallery.png", f"{title}: {_main(metrics, found.boxes)}", approach.tiles(context, found), context.params.gallery_size)
    look = lambda person: approach.look(context, found, person)  # noqa: E731
    overview(out / "overview.png", title, found.persons, found.oks, look, by_height)
    write_json(out / "metrics.json", metrics)
    return metrics


def _scored(found: Found, context: EvaluationContext, end: str = "") -> dict[str, float]:
    """Write predictions<end>.json and matches<end>.npz; the evaluator's numbers."""
    data, out = context.data, context.out
    write_coco_results(
        out / f"predictions{end}.json",
        found.predictions,
        found.scores,
        {**context.provenance, **found.seen},
        category_id=data.persons.category_id,
    )
    return scored(found.predictions, found.scores, found.boxes, data.truth, context.params, out / MATCHES.format(end))


def _localised(found: Found, context: EvaluationContext, end: str) -> dict[str, float]:
    path = context.out / SHARES.format(end)
    return localisation(found.boxes, found.oks, context.data.truth, found.before, context.params, path)


def _reachable(kind: str, names: tuple[str, ...], reached: tuple[Predictions, np.ndarray], context: EvaluationContext) -> dict[str, float]:
    """AP of the persons that a decoder returns from maps without error."""
    numbers = coco_numbers(context.data.persons, *reached, context.data.image_ids)
    return {f"{kind}_{name}": numbers[name] for name in names if numbers[name] >= 0}


def _main(metrics: dict[str, Any], boxes: str) -> str:
    led = f"{leading(metrics).label} {leading_value(metrics):.3f}" if f"AP_{boxes}" in metrics else "no labelled persons"
    return f"{led}, boxes given: {PROTOCOLS[boxes]}"


def _write_curves(approach: Approach, context: EvaluationContext, found: Found) -> list[dict[str, Any]]:
    """Write the curves by size; returns the bins by height. Without boxes a person's height is that of its joints' extent."""
    data, params = context.data, context.params
    measures = {
        "by_height": (curves.heights(data.persons, found.predictions), params.height_bins_px, curves.HEIGHT_LABEL),
        "by_reduction": (approach.reductions(context, found), params.reduction_bins, REDUCTION_LABEL),
    }
    both, truth = (found.predictions, found.scores), data.truth
    written = {
        name: write_curve(name, sizes, edges, both, truth, params, context.out, (context.title or "model", label), found.before)
        for name, (sizes, edges, label) in measures.items()
    }
    return written["by_height"]
