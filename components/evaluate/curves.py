"""AP, or PCKh where that leads, and OKS against the size of the person: height in the image, and image px per px of the network's input."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from components.base.files import atomic_file, write_json
from components.evaluate.leading import AP, PCKH, Number
from components.evaluate.matching import object_keypoint_similarity, rows_of
from components.evaluate.oks import Ranges, match, ranges_of
from components.evaluate.predictions import Predictions
from components.evaluate.resampling import Shares
from components.evaluate.significance import bootstrap_ap
from components.pose.crop import CropGeometry
from components.pose.persons import Persons

HEIGHT_LABEL = "person height, px of the image"


@dataclass(frozen=True)
class Point:
    """One bin [low, high) of person size.

    Attributes:
        low, high: edges; high is None for the last bin, which is open.
        middle: median size of the bin's persons; None without persons.
        persons: persons to be found.
        AP, AP_low, AP_high: AP with its 95 % bootstrap interval; persons of other sizes are ignored, as in AP(M); None
            without persons.
        mean_OKS: of the predictions on the bin's annotated boxes; None for detector boxes and without boxes.
        PCKh_50: with its interval, where it leads (`leading.leads`).
    """

    low: float
    high: float | None
    middle: float | None
    persons: int
    AP: float | None
    AP_low: float | None
    AP_high: float | None
    mean_OKS: float | None
    PCKh_50: float | None = None
    PCKh_50_low: float | None = None
    PCKh_50_high: float | None = None

    def plain(self) -> dict[str, Any]:
        """As JSON values, without PCKh where that is not known."""
        return {key: value for key, value in asdict(self).items() if self.PCKh_50 is not None or not key.startswith(PCKH.name)}


def by_size(
    persons: Persons,
    predictions: Predictions,
    scores: np.ndarray,
    sizes: tuple[np.ndarray, np.ndarray],
    edges: Sequence[float],
    image_ids: np.ndarray | None = None,
    resamples: int = 1000,
    seed: int = 0,
    joints: tuple[np.ndarray, np.ndarray] | None = None,
) -> list[Point]:
    """AP by any measure of size, and PCKh where that leads.

    Args:
        sizes: of the persons (P,) and of the predictions (N,).
        edges: ascending inner edges of the bins; the outer bins reach from 0 and to infinity.
        joints: (P, K) bool of the labelled persons, near and counted, where a share of joints leads (`Evaluator.joints`).
    """
    lows, highs = [0.0, *edges], [*edges, np.inf]
    ranges: Ranges = ranges_of(*sizes, tuple((low, float(np.nextafter(high, 0))) for low, high in zip(lows, highs, strict=True)))
    matches = match(persons, predictions, scores, image_ids, ranges)
    counted = persons.labelled_rows()
    oks = similarity_to_own_person(persons, predictions)
    points = []
    for i, (low, high) in enumerate(zip(lows, highs, strict=True)):
        inside = sizes[0][counted & ~ranges.persons_outside[i]]
        interval = bootstrap_ap(matches, resamples, seed, index=i)
        own = oks[np.isfinite(oks) & ~ranges.predictions_outside[i]]
        points.append(
            Point(
                low=float(low),
                high=float(high) if np.isfinite(high) else None,
                middle=float(np.median(inside)) if len(inside) else None,
                persons=int(matches.positives[i].sum()),
                AP=_known(interval.value),
                AP_low=_known(interval.low),
                AP_high=_known(interval.high),
                mean_OKS=float(own.mean()) if len(own) else None,
                **_share(persons, joints, (sizes[0] >= low) & (sizes[0] < high), (image_ids, resamples, seed)),
            )
        )
    return points


def _share(
    persons: Persons, joints: tuple[np.ndarray, np.ndarray] | None, inside: np.ndarray, draws: tuple[np.ndarray | None, int, int]
) -> dict[str, float | None]:
    """PCKh of the persons `inside` (P,) with its interval; nothing where it does not lead."""
    if joints is None:
        return {}
    labelled, (image_ids, resamples, seed) = persons.labelled_rows(), draws
    image = persons.frame["image_id"].to_numpy()[labelled]
    images = np.unique(image if image_ids is None else image_ids)
    place, part = rows_of(images, image), inside[labelled]
    sums = [np.bincount(place[part], values[part].sum(1), len(images)).astype(np.int64) for values in joints]
    interval = bootstrap_ap(Shares(images, *sums), resamples, seed)
    ends = zip(("", "_low", "_high"), (interval.value, interval.low, interval.high), strict=True)
    return {f"{PCKH.name}{end}": _known(value) for end, value in ends}


def heights(persons: Persons, predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Box heights of persons (P,) and predictions (N,), px of the image."""
    return persons.bbox_xywh[:, 3], predictions.bbox_xywh[:, 3]


def reductions(persons: Persons, predictions: Predictions, geometry: CropGeometry) -> tuple[np.ndarray, np.ndarray]:
    """Image px per px of the network's input, of persons (P,) and predictions (N,): above 1 the crop is a reduction."""
    padded = (geometry.box_to_center_size(table.bbox_xywh)[1] for table in (persons, predictions))
    of_persons, of_predictions = (size[:, 1] / geometry.input_size[0] for size in padded)
    return of_persons, of_predictions


def similarity_to_own_person(persons: Persons, predictions: Predictions) -> np.ndarray:
    """(N,) OKS of each prediction with the labelled person whose box was cropped; NaN for a detector's boxes."""
    result = np.full(len(predictions), np.nan)
    own = rows_of(persons.frame["annotation_id"].to_numpy(), predictions.annotation_id)
    known = np.flatnonzero(np.append(persons.frame["num_keypoints"].to_numpy(), 0)[own] > 0)  # row -1 has none
    own = own[known]
    result[known] = object_keypoint_similarity(
        predictions.keypoints_image[known],
        persons.keypoints[own],
        persons.frame["area"].to_numpy(np.float64)[own],
        persons.bbox_xywh[own],
        np.asarray(persons.skeleton.sigmas),
    )
    return result


def write_points(folder: Path, name: str, points: list[Point]) -> None:
    """Write <name>.json and <name>.csv."""
    write_json(folder / f"{name}.json", [point.plain() for point in points])
    unused = () if any(point.PCKh_50 is not None for point in points) else tuple(f"{PCKH.name}{end}" for end in ("", "_low", "_high"))
    with atomic_file(folder / f"{name}.csv") as temporary, open(temporary, "w", newline="") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Point) if field.name not in unused])
        writer.writeheader()
        writer.writerows(point.plain() for point in points)


def plot(path: str | Path, curves: Mapping[str, Sequence[Mapping[str, Any]]], size_label: str, dashed: Collection[str] = ()) -> None:
    """Draw AP, or PCKh where that leads, against size as PNG: a line and its interval per curve; for one also mean OKS and bins' persons.

    Args:
        curves: per label the bins, as `asdict(Point)` or as read back from JSON.
        dashed: labels of curves that are drawn dashed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.6), dpi=130, layout="constrained")
    axes = figure.subplots()
    led = led_by(curves.values())
    for label, bins in curves.items():
        known = [point for point in bins if point.get(led.name) is not None]
        x = [point["middle"] for point in known]
        style = "o--" if label in dashed else "o-"
        (line,) = axes.plot(x, [point[led.name] for point in known], style, markersize=4, linewidth=1.8, label=label)
        low, high = ([point[key] for point in known] for key in (f"{led.name}_low", f"{led.name}_high"))
        axes.fill_between(x, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        if len(curves) == 1:
            _details(axes, known)
    if any(point.get(led.name) is not None for bins in curves.values() for point in bins):
        tick_sizes(axes, _ticks([point["middle"] for bins in curves.values() for point in bins if point["middle"]]))
    axes.set(xlabel=size_label, ylabel=f"{led.label}, with its 95 % interval")
    axes.set_ylim(0, 1 if len(curves) == 1 else top_of(curves.values()))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")


def tick_sizes(axes: Any, ticks: Sequence[float]) -> None:
    """A logarithmic x axis that names these sizes."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(ticks)


def led_by(curves: Iterable[Sequence[Mapping[str, Any]]]) -> Number:
    """The number that the bins lead with."""
    return PCKH if any(point.get(PCKH.name) is not None for bins in curves for point in bins) else AP


def top_of(curves: Collection[Sequence[Mapping[str, Any]]]) -> float:
    """Upper end of an axis of the leading number that shows all intervals large: a multiple of 0.1, at most 1."""
    key = f"{led_by(curves).name}_high"
    highest = max((point[key] for bins in curves for point in bins if point.get(key) is not None), default=1.0)
    return float(min(1.0, np.ceil(10 * highest + 0.5) / 10))


def _details(axes: Any, known: list[Mapping[str, Any]]) -> None:
    with_oks = [point for point in known if point["mean_OKS"] is not None]
    axes.plot([p["middle"] for p in with_oks], [p["mean_OKS"] for p in with_oks], "--", color="0.45", linewidth=1.2, label="mean OKS")
    for point in known:
        axes.annotate(f"{point['persons']}", (point["middle"], 1.01), ha="center", fontsize=7, color="0.4", annotation_clip=False)
    axes.annotate("persons:", (-0.005, 1.01), xycoords="axes fraction", ha="right", fontsize=7, color="0.4")


def _ticks(middles: list[float]) -> list[float]:
    """Round numbers that span the data: 1, 2 and 5 times the powers of ten, without crowding."""
    low, high = min(middles), max(middles)
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    every = [factor * 10.0**power for power in powers for factor in (1, 1.5, 2, 3, 5, 7)]
    return [tick for tick in every if low / 1.2 <= tick <= high * 1.2]


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
