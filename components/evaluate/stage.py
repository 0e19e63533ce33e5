"""Evaluate one model: predictions, the numbers with their intervals and ceiling, curves by size and a gallery."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from components.base.files import write_json
from components.codecs.codec import Codec
from components.degrade.params import DegradeParams, ShardSpec
from components.degrade.shards import EvalCrops
from components.evaluate import curves
from components.evaluate.ceiling import ceiling
from components.evaluate.detector import detector_crops
from components.evaluate.gallery import gallery
from components.evaluate.nms import suppress
from components.evaluate.oks import match, summarise
from components.evaluate.overview import overview
from components.evaluate.params import EvaluateParams
from components.evaluate.predict import predict
from components.evaluate.predictions import Predictions, write_coco_results
from components.evaluate.rescoring import person_scores
from components.evaluate.significance import bootstrap_ap, write_matches
from components.pose.persons import Persons

GT, DETECTOR = "gt_boxes", "detector_boxes"  # end of a metric's name: whose boxes were cropped
HEIGHT_LABEL, REDUCTION_LABEL = "person height, px of the image", "image px per px of the network's input"


@dataclass(frozen=True)
class EvaluationData:
    """What models are scored on.

    Attributes:
        crops: the labelled persons' crops, in the model's convention.
        persons: all rows of the split, crowd regions and persons without labelled joints included.
        images: `image_id` and `image_path` of every image of the split, with or without persons.
        data_root: the folder that image paths are relative to.
        degrade: how detector boxes are cropped; as the crops were made.
    """

    crops: EvalCrops
    persons: Persons
    images: pd.DataFrame
    data_root: Path
    degrade: DegradeParams = field(default_factory=DegradeParams)


def evaluate(
    model: nn.Module,
    codec: Codec,
    data: EvaluationData,
    params: EvaluateParams,
    out: Path,
    provenance: Mapping[str, Any],
    device: str | torch.device = "cpu",
    title: str = "",
) -> dict[str, float]:
    """Score a model and write everything about it into the directory `out`.

    Files: metrics.json, predictions.json (and predictions_detector_boxes.json), by_height and by_reduction as .json, .csv
    and .png, gallery.png, overview.png.

    Args:
        provenance: what made the model; repeated in every record of the prediction files.
        title: heading of the gallery, such as the variant's name.
    Returns:
        Flat numbers: `AP_gt_boxes`, `AP_gt_boxes_low` and `_high` (95 %), the other nine as `AP50_gt_boxes` …, the same
        with `_detector_boxes` where asked for, `ceiling_AP`, `mean_OKS_gt_boxes`, `persons`, `images`. A number without
        persons to be found (such as AP_L of a set of far people) is left out.
    Raises:
        FarposeError: what `predict`, `detector_crops` and `write_coco_results` raise.
    """
    out.mkdir(parents=True, exist_ok=True)
    predictions = predict(model, codec, data.crops, params.flip, params.batch_size, device, params.bf16)
    oks = curves.similarity_to_own_person(data.persons, predictions)
    metrics = _score(predictions, codec, data, params, out / "predictions.json", provenance, GT)
    metrics |= {"mean_OKS_gt_boxes": float(np.nanmean(oks)), "persons": len(data.crops), "images": len(data.images)}
    limit = ceiling(codec, data.persons, data.images["image_id"].to_numpy(), data.crops)
    metrics |= {f"ceiling_{name}": limit[name] for name in ("AP", "AP50", "AP75")}
    if params.boxes == "detector":
        metrics |= _score_detector(model, codec, data, params, out, provenance, device)
    heights = _write_curves(predictions, codec, data, params, out, title or "model")
    heading = f"{title}: AP {metrics['AP_gt_boxes']:.3f}, annotated boxes".removeprefix(": ")
    gallery(out / "gallery.png", heading, data.crops, predictions, oks, data.data_root, params.gallery_size)
    overview(out / "overview.png", title, data.crops, predictions, oks, data.data_root, heights)
    write_json(out / "metrics.json", metrics)
    return metrics


def finish(predictions: Predictions, params: EvaluateParams, sigmas: np.ndarray, codec: Codec) -> tuple[Predictions, np.ndarray]:
    """Score the persons and suppress repeats: what is left, and the (N,) person scores."""
    scores = person_scores(predictions.keypoint_scores, predictions.box_scores, params.visible_above(codec))
    kept = suppress(
        predictions.image_id,
        predictions.keypoints_image,
        scores,
        predictions.areas,
        sigmas,
        params.oks_nms_threshold,
        params.soft_nms,
    )
    return predictions.select(kept), scores[kept]


def _score(
    predictions: Predictions,
    codec: Codec,
    data: EvaluationData,
    params: EvaluateParams,
    path: Path,
    provenance: Mapping[str, Any],
    boxes: str,
) -> dict[str, float]:
    kept, scores = finish(predictions, params, np.asarray(data.persons.skeleton.sigmas), codec)
    write_coco_results(path, kept, scores, {**provenance, "boxes": boxes})
    matches = match(data.persons, kept, scores, data.images["image_id"].to_numpy())
    write_matches(path.with_name(path.name.replace("predictions", "matches")).with_suffix(".npz"), matches)
    interval = bootstrap_ap(matches, params.bootstrap_resamples, params.bootstrap_seed)
    numbers = {f"{name}_{boxes}": value for name, value in summarise(matches).items() if value >= 0}
    ends = {f"AP_{boxes}_low": interval.low, f"AP_{boxes}_high": interval.high}
    return numbers | {name: value for name, value in ends.items() if np.isfinite(value)}


def _score_detector(
    model: nn.Module,
    codec: Codec,
    data: EvaluationData,
    params: EvaluateParams,
    out: Path,
    provenance: Mapping[str, Any],
    device: str | torch.device,
) -> dict[str, float]:
    own = data.crops
    spec = ShardSpec(own.geometry.input_size, own.protocol)
    crops, scores = detector_crops(
        data.data_root / str(params.detections),
        data.images,
        data.data_root,
        own.geometry.convention,
        spec,
        data.degrade,
        own.skeleton,
        params.detector_score_threshold,
    )
    predictions = predict(model, codec, crops, params.flip, params.batch_size, device, params.bf16, scores)
    predictions = replace(predictions, annotation_id=np.full(len(predictions), -1))
    metrics = _score(predictions, codec, data, params, out / f"predictions_{DETECTOR}.json", provenance, DETECTOR)
    return metrics | {"detections": len(predictions)}


def _write_curves(
    predictions: Predictions, codec: Codec, data: EvaluationData, params: EvaluateParams, out: Path, label: str
) -> list[dict[str, Any]]:
    """Write the curves by size; returns the bins by height."""
    kept, scores = finish(predictions, params, np.asarray(data.persons.skeleton.sigmas), codec)
    measures = {
        "by_height": (curves.heights(data.persons, kept), params.height_bins_px, HEIGHT_LABEL),
        "by_reduction": (curves.reductions(data.persons, kept, codec.geometry), params.reduction_bins, REDUCTION_LABEL),
    }
    written: dict[str, list[dict[str, Any]]] = {}
    for name, (sizes, edges, size_label) in measures.items():
        points = curves.by_size(
            data.persons,
            kept,
            scores,
            sizes,
            edges,
            data.images["image_id"].to_numpy(),
            params.bootstrap_resamples,
            params.bootstrap_seed,
        )
        curves.write_points(out, name, points)
        written[name] = [asdict(point) for point in points]
        curves.plot(out / f"{name}.png", {label: written[name]}, size_label)
    return written["by_height"]
