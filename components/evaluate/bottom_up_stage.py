"""Evaluate a bottom-up model: all persons of whole images, the numbers with interval and ceiling, curves by size, a gallery."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from components.base.errors import FarposeError
from components.base.files import write_json
from components.degrade.params import DegradeParams
from components.evaluate import curves
from components.evaluate.bottom_up import predict_images
from components.evaluate.headline import PROTOCOLS, SUFFIX_OF_FIT
from components.evaluate.image_ceiling import image_ceiling
from components.evaluate.image_gallery import image_gallery
from components.evaluate.image_oks import assign
from components.evaluate.image_overview import image_overview
from components.evaluate.oks import match, summarise
from components.evaluate.params import EvaluateParams
from components.evaluate.predictions import Predictions, write_coco_results
from components.evaluate.significance import bootstrap_ap, write_matches
from components.evaluate.stage import HEIGHT_LABEL, REDUCTION_LABEL

if TYPE_CHECKING:
    from components.degrade.image_shards import EvalImages


@dataclass(frozen=True)
class ImageEvaluationData:
    """What bottom-up models are scored on.

    Attributes:
        images: every image of the split, with or without persons, in the geometry that `bottom_up.fit` names.
        data_root: the folder that image paths are relative to.
        degrade: how images are degraded at other test scales; as the shard was made.
    """

    images: EvalImages
    data_root: Path
    degrade: DegradeParams = field(default_factory=DegradeParams)


def evaluate_images(
    model: nn.Module,
    codec: Any,
    data: ImageEvaluationData,
    params: EvaluateParams,
    out: Path,
    provenance: Mapping[str, Any],
    device: str | torch.device = "cpu",
    title: str = "",
) -> dict[str, float]:
    """Score a bottom-up model and write everything about it into the directory `out`.

    Files: metrics.json, predictions.json, by_height and by_reduction as .json, .csv and .png, gallery.png, overview.png.

    Args:
        provenance: what made the model; repeated in every record of predictions.json, with how the images were seen.
        title: heading of the pictures, such as the variant's name.
    Returns:
        Flat numbers, S being `no_boxes`, or `no_boxes_letterbox` with the published letterboxing: `AP_S`, `AP_S_low` and
        `AP_S_high` (95 %), the other nine as `AP50_S` …, `mean_OKS_S` (of the labelled persons, 0 for those not found),
        `ceiling_AP`, `ceiling_AP50`, `ceiling_AP75`, `persons` (labelled), `images`, `found_persons` (predicted). A number
        without persons to be found is left out.
    Raises:
        FarposeError: what `predict_images` and `write_coco_results` raise, or images of another fit than the params say.
    """
    images, fit = data.images, params.bottom_up.fit
    if images.geometry.fit != fit:
        problem = f"images are fitted by {images.geometry.fit}, the parameters say {fit}"
        raise FarposeError(problem, where="evaluate.bottom_up.fit", fix="open the images with the same fit")
    out.mkdir(parents=True, exist_ok=True)
    predictions, scores = predict_images(model, codec, images, params, device, params.bf16, data.data_root, data.degrade)
    write_coco_results(out / "predictions.json", predictions, scores, {**provenance, **_seen(images, params)})
    metrics = _score(images, predictions, scores, params, SUFFIX_OF_FIT[fit], out)
    persons = images.persons.labelled()
    oks, given = assign(persons, predictions)
    metrics |= {f"mean_OKS_{SUFFIX_OF_FIT[fit]}": float(oks.mean())} if len(persons) else {}
    metrics |= {"persons": len(persons), "images": len(images), "found_persons": len(predictions)}
    limit = image_ceiling(codec, images, device)
    metrics |= {f"ceiling_{name}": limit[name] for name in ("AP", "AP50", "AP75") if limit[name] >= 0}
    heights = _write_curves(images, predictions, scores, params, out, title or "model")
    shown, drawn_above = (images, predictions, scores, oks), codec.detection_threshold
    image_gallery(out / "gallery.png", _heading(title, metrics, fit), *shown, drawn_above, data.data_root, params.gallery_size)
    image_overview(out / "overview.png", title, *shown, given, drawn_above, data.data_root, heights)
    write_json(out / "metrics.json", metrics)
    return metrics


def _seen(images: EvalImages, params: EvaluateParams) -> dict[str, Any]:
    """How the images were shown to the model, for the provenance of its predictions."""
    how = params.bottom_up
    boxes = {"boxes": SUFFIX_OF_FIT[how.fit], "input_size": images.geometry.size, "protocol": images.protocol}
    return boxes | {"fit": how.fit, "scales": list(how.scales), "flip": params.flip, "oks_nms_threshold": how.oks_nms_threshold}


def _score(
    images: EvalImages, predictions: Predictions, scores: np.ndarray, params: EvaluateParams, suffix: str, out: Path
) -> dict[str, float]:
    matches = match(images.persons, predictions, scores, images.image_id)
    write_matches(out / "matches.npz", matches)
    interval = bootstrap_ap(matches, params.bootstrap_resamples, params.bootstrap_seed)
    numbers = {f"{name}_{suffix}": value for name, value in summarise(matches).items() if value >= 0}
    ends = {f"AP_{suffix}_low": interval.low, f"AP_{suffix}_high": interval.high}
    return numbers | {name: value for name, value in ends.items() if np.isfinite(value)}


def _heading(title: str, metrics: Mapping[str, float], fit: str) -> str:
    suffix = SUFFIX_OF_FIT[fit]
    ap = f"AP {metrics[f'AP_{suffix}']:.3f}" if f"AP_{suffix}" in metrics else "no labelled persons"
    return f"{title}: {ap}, boxes given: {PROTOCOLS[suffix]}".removeprefix(": ")


def _write_curves(
    images: EvalImages, predictions: Predictions, scores: np.ndarray, params: EvaluateParams, out: Path, label: str
) -> list[dict[str, Any]]:
    """Write the curves by size; returns the bins by height. A predicted person's height is that of its joints' extent."""
    persons = images.persons
    reduction = reductions(images)
    of_persons, of_predictions = (reduction[_places(images, table)] for table in (persons.frame["image_id"], predictions.image_id))
    measures = {
        "by_height": (curves.heights(persons, predictions), params.height_bins_px, HEIGHT_LABEL),
        "by_reduction": ((of_persons, of_predictions), params.reduction_bins, REDUCTION_LABEL),
    }
    written: dict[str, list[dict[str, Any]]] = {}
    for name, (sizes, edges, size_label) in measures.items():
        resampling = params.bootstrap_resamples, params.bootstrap_seed
        points = curves.by_size(persons, predictions, scores, sizes, edges, images.image_id, *resampling)
        curves.write_points(out, name, points)
        written[name] = [asdict(point) for point in points]
        curves.plot(out / f"{name}.png", {label: written[name]}, size_label)
    return written["by_height"]


def reductions(images: EvalImages) -> np.ndarray:
    """(I,) image px per px of the network's input: above 1 the image was reduced."""
    factors = [
        images.geometry.image_to_input(int(width), int(height))[0, 0] for width, height in zip(images.width, images.height, strict=True)
    ]
    return 1 / np.array(factors, np.float64)


def _places(images: EvalImages, image_id: Any) -> np.ndarray:
    """Index of each row's image."""
    order = np.argsort(images.image_id, kind="stable")
    return order[np.searchsorted(images.image_id, np.asarray(image_id, np.int64), sorter=order)]
