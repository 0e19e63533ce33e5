"""AP, AR and PCK against what decides them in use: the height of natively small persons, the height that large persons are reduced to,
and the size of the network's input; and the height below which a method stops being useful. MPII's curves lead with PCKh@0.5.

Rule: a method is useful down to the height at which its AP, or what else leads (`leading.leads`), falls under a share (one half) of its AP
at large heights, which is that of the highest bin, or of the persons that are not reduced. Between the points AP is interpolated over the
logarithm of the height. Resampled images give the interval; both AP are of the same images in a draw. Bins with fewer than 20 persons
decide nothing, and a method whose AP at large heights is under 10 is useful at no height.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np

from components.base.files import atomic_file, write_json
from components.evaluate import resampling
from components.evaluate.error_gains import Found
from components.evaluate.evaluators import evaluator
from components.evaluate.leading import AP, PCKH, Number, leads
from components.evaluate.matching import rows_of
from components.evaluate.oks import match, ranges_of
from components.evaluate.params import EvaluateParams
from components.evaluate.pck import joints_near
from components.evaluate.resampling import Measure, ends, precision_and_recall
from components.evaluate.scoring import Truth
from components.pose.persons import Persons

NATIVE, DEGRADED, INPUT = "native", "degraded", "input"  # what a curve runs over, in `SIZES`
SIZES = {
    NATIVE: "height of natively small persons, px of the image",
    DEGRADED: "height that large persons are reduced to, px",
    INPUT: "height of the network's input, px",
}
HALF = 0.5
AR, PCK = Number("AR", "AR"), Number("PCK", "PCK")
LEAST = 0.1  # the leading number at large heights under which a method is useful at no height
FEWEST = 20  # persons of a bin that may decide where a method stops being useful


@dataclass(frozen=True)
class Model:
    """One set of predictions of a split.

    Attributes:
        found: the predictions and their (N,) scores.
        limited: by the height that no person exceeds, px: the predictions of the same persons then.
        input_size: height and width of the network's input, px, if known.
        family: models that differ in their input alone share it; their points by input size are joined.
        peer: another network, drawn dashed.
    """

    name: str
    found: Found
    limited: Mapping[int, Found] = field(default_factory=dict)
    input_size: tuple[int, int] | None = None
    family: str = ""
    peer: bool = False


@dataclass(frozen=True)
class Point:
    """One point of a curve; numbers are None where there is nothing to count.

    Attributes:
        size: what the curve runs over, px: the bin's median height, the limit, or the input's height.
        low, high: edges of a bin of heights, px; high is None for the last one.
        persons: to be found.
        AP, AR, PCK, PCKh_50: each with its 95 % interval over images; the last one where it leads.
    """

    model: str
    over: str
    size: float
    low: float | None
    high: float | None
    persons: int
    AP: float | None = None
    AP_low: float | None = None
    AP_high: float | None = None
    AR: float | None = None
    AR_low: float | None = None
    AR_high: float | None = None
    PCK: float | None = None
    PCK_low: float | None = None
    PCK_high: float | None = None
    PCKh_50: float | None = None
    PCKh_50_low: float | None = None
    PCKh_50_high: float | None = None


@dataclass(frozen=True)
class Limit:
    """Where a method stops being useful.

    Attributes:
        height: px; None where the leading number stays above the share down to the smallest size.
        height_low, height_high: ends of the 95 % interval; 0 where it stays above in such a draw.
        reference, reference_size: its value at large heights, and the size that it was taken at, px.
        smallest: the smallest size with enough persons, px.
        label: of the number.
    """

    model: str
    over: str
    height: float | None
    height_low: float | None
    height_high: float | None
    reference: float | None
    reference_size: float
    smallest: float
    label: str = AP.label

    def sentence(self, share: float = HALF) -> str:
        """In words."""
        what = "natively small persons" if self.over == NATIVE else "persons reduced in size"
        part = "half" if share == HALF else f"{100 * share:g} %"
        if self.reference is None:
            return f"{self.model}, {what}: no {self.label} at large heights to compare with, so nothing can be said."
        if self.reference < LEAST:
            return f"{self.model}, {what}: {self.label} {100 * self.reference:.1f} at {self.reference_size:.0f} px; useful at no height."
        large = f"its {self.label} of {100 * self.reference:.1f} at {self.reference_size:.0f} px"
        if self.height is None:
            end = f"; in some draws only down to {self.height_high:.0f} px" if self.height_high else ""
            smallest = f"{self.smallest:.0f} px, the smallest with enough persons{end}"
            return f"{self.model}, {what}: {self.label} stays above {part} of {large} down to {smallest}."
        low = f"{self.height_low:.0f}" if self.height_low else f"under {self.smallest:.0f}"
        interval = f"95 % interval {low}–{self.height_high:.0f} px"
        below = f"stops being useful below {self.height:.0f} px ({interval})"
        return f"{self.model}, {what}: {below}, where {self.label} falls under {part} of {large}."


@dataclass(frozen=True)
class Curves:
    """All points, and the limits of the curves over height.

    Attributes:
        pck: the length behind PCK, head or torso.
        shown: three numbers, the leading one first.
    """

    points: list[Point]
    limits: list[Limit]
    pck: str
    shown: tuple[Number, ...] = (AP, AR, PCK)

    @property
    def heading(self) -> str:
        """The numbers of a cell of `tables`, in words."""
        return " / ".join(number.label for number in self.shown)


def curves(truth: Truth, models: Sequence[Model], params: EvaluateParams, share: float = HALF) -> Curves:
    """The curves of all models; a model without limited predictions or input size has none of these.

    The large persons of the second curve are those higher than the largest limit of any model, the same at every limit and for every model.
    """
    points: list[Point] = []
    limits: list[Limit] = []
    largest = max((height for model in models for height in model.limited), default=0)
    for model in models:
        natively = _native(truth, model, params)
        reduced = _degraded(truth, model, params, largest) if model.limited else []
        for measured in (natively, reduced):
            points += [point for point, _ in measured]
            sure = [one for one in measured if one[0].persons >= FEWEST]
            limits += [limit(sure, share, leads(truth.evaluator))] if sure else []
        if model.input_size:
            points.append(_at_input(truth, model, params))
    kind = joints_near(truth.persons, models[0].found[0])[0] if models else ""
    led = leads(truth.evaluator)
    return Curves(points, limits, kind, (AP, AR, PCK) if led is AP else (led, AP, AR))  # PCKh is a PCK


Measured = tuple[Point, np.ndarray]  # a point, and (R,) its leading number over resampled images


def _native(truth: Truth, model: Model, params: EvaluateParams) -> list[Measured]:
    edges = [0.0, *params.height_bins_px, np.inf]
    return _of_bins(truth, model, model.found, list(itertools.pairwise(edges)), params)


def _degraded(truth: Truth, model: Model, params: EvaluateParams, largest: int) -> list[Measured]:
    """The points at each limit, and one of the same persons as they are, at their median height."""
    inside = [(float(np.nextafter(largest, np.inf)), np.inf)]
    measured = []
    for height, found in sorted(model.limited.items()):
        for point, draws in _of_bins(truth, model, found, inside, params, DEGRADED):
            measured.append((_moved(point, float(height)), draws))
    return measured + _of_bins(truth, model, model.found, inside, params, DEGRADED) if measured else []


def _moved(point: Point, size: float) -> Point:
    return Point(**(asdict(point) | {"size": size}))


def _at_input(truth: Truth, model: Model, params: EvaluateParams) -> Point:
    assert model.input_size is not None
    ((point, _),) = _of_bins(truth, model, model.found, [(0.0, np.inf)], params, INPUT)
    return _moved(point, float(model.input_size[0]))


def _of_bins(
    truth: Truth, model: Model, found: Found, bins: Sequence[tuple[float, float]], params: EvaluateParams, over: str = NATIVE
) -> list[Measured]:
    """A point per bin [low, high) of person height that has persons."""
    (predictions, scores), persons, images = found, truth.persons, len(truth.image_ids)
    limits = tuple((low, float(np.nextafter(high, 0))) for low, high in bins)
    ranges = ranges_of(persons.bbox_xywh[:, 3], predictions.bbox_xywh[:, 3], limits)
    matches = match(persons, predictions, scores, truth.image_ids, ranges)
    near = {PCK.name: joints_near(persons, predictions)[1:3]}
    led, judge = leads(truth.evaluator), evaluator(truth.evaluator)
    near |= {led.name: judge.joints(persons, predictions)} if judge.joints else {}
    labelled, points = persons.labelled(), []
    heights = labelled.bbox_xywh[:, 3]
    for index, (low, high) in enumerate(bins):
        inside = (heights >= low) & (heights < high)
        if not inside.any():
            continue
        shares = {name: _share(*joints, inside, labelled, truth.image_ids) for name, joints in near.items()}
        measures = {AP.name: precision_and_recall(matches, index), **shares}
        draws = resampling.resampled(measures, images, params.bootstrap_resamples, params.bootstrap_seed, len(matches.image))
        ones = np.ones((1, images), np.int64)
        whole = {name: measure(ones)[0] for name, measure in shares.items()}
        whole |= dict(zip((AP.name, AR.name), measures[AP.name](ones)[0], strict=True))
        drawn = {**draws, AP.name: draws[AP.name][:, 0], AR.name: draws[AP.name][:, 1]}
        numbers: dict[str, float | None] = {}
        for name, value in whole.items():
            numbers |= {name: _known(value)} | dict(zip((f"{name}_low", f"{name}_high"), ends(drawn[name]), strict=True))
        edge = None if np.isinf(high) else high
        point = Point(model.name, over, float(np.median(heights[inside])), low, edge, int(inside.sum()), **numbers)
        points.append((point, drawn[led.name]))
    return points


def _share(near: np.ndarray, counted: np.ndarray, inside: np.ndarray, labelled: Persons, image_ids: np.ndarray) -> Measure:
    """PCK of the persons `inside` (P,)."""
    place = rows_of(image_ids, labelled.frame["image_id"].to_numpy())
    sums = [np.bincount(place[inside], values[inside].sum(1), minlength=len(image_ids)) for values in (near, counted)]
    return resampling.share(*sums)


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def limit(measured: Sequence[Measured], share: float = HALF, led: Number = AP) -> Limit:
    """Where a curve's leading number falls under a share of its last point's, going down from there.

    Args:
        measured: by ascending size, at least one.
    """
    points = [point for point, _ in measured]
    sizes, last = np.array([point.size for point in points]), points[-1]
    values = np.array([_value(point, led) for point in points], np.float64)  # None becomes NaN
    found = crossing(sizes, values, share)
    drawn = np.array([crossing(sizes, draw, share) for draw in np.stack([draws for _, draws in measured], 1)])
    low, high = ends(drawn)
    height = found if found > 0 else None
    return Limit(last.model, last.over, height, low, high, _value(last, led), last.size, float(sizes[0]), led.label)


def _value(point: Point, number: Number) -> float | None:
    value: float | None = getattr(point, number.name)
    return value


def crossing(sizes: np.ndarray, values: np.ndarray, share: float) -> float:
    """The size below which `values` (S,) first fall under `share` of their last one, seen from there; 0 where they do not.

    NaN where the last value is not known or 0. Points without a value are skipped.
    """
    if not values[-1] > 0:
        return math.nan
    wanted, known = share * values[-1], np.isfinite(values)
    sizes, values = sizes[known], values[known]
    for i in range(len(sizes) - 2, -1, -1):
        if values[i] < wanted:
            part = (wanted - values[i]) / (values[i + 1] - values[i])
            return float(np.exp(np.log(sizes[i]) + part * (np.log(sizes[i + 1]) - np.log(sizes[i]))))
    return 0.0


def write(folder: Path, found: Curves, share: float = HALF) -> None:
    """Write curve.csv, one line per point, and curve.json, with the limits and their sentences."""
    limits = [asdict(one) | {"sentence": one.sentence(share)} for one in found.limits]
    unused = () if found.shown[0] is PCKH else tuple(f"{PCKH.name}{end}" for end in ("", "_low", "_high"))
    points = [{key: value for key, value in asdict(point).items() if key not in unused} for point in found.points]
    write_json(folder / "curve.json", {"share": share, "pck": found.pck, "limits": limits, "points": points})
    with atomic_file(folder / "curve.csv") as temporary, open(temporary, "w", newline="") as stream:
        writer = csv.DictWriter(stream, [one.name for one in fields(Point) if one.name not in unused], lineterminator="\n")
        writer.writeheader()
        writer.writerows(points)


def tables(found: Curves) -> dict[str, tuple[list[str], list[list[str]]]]:
    """By what the curve runs over: headings and cells, a line per model, the three numbers in percent at each size."""
    made = {}
    for over in SIZES:
        points = [point for point in found.points if point.over == over]
        names = list(dict.fromkeys(_column(point) for point in sorted(points, key=lambda one: one.size)))
        lines = {
            model: {_column(p): _cell(p, found.shown) for p in points if p.model == model}
            for model in dict.fromkeys(p.model for p in points)
        }
        if points:
            made[over] = ["model", *names], [[model, *(cells.get(name, "") for name in names)] for model, cells in lines.items()]
    return made


def _column(point: Point) -> str:
    if point.over == NATIVE:
        return f"from {point.low:g}" if point.high is None else f"{point.low:g}–{point.high:g}"
    return f"{point.size:.0f} px"


def _cell(point: Point, shown: Sequence[Number]) -> str:
    values = [_value(point, number) for number in shown]
    return " / ".join("–" if value is None else f"{100 * value:.0f}" for value in values)
