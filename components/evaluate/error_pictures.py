"""Errors drawn: their shares and gains as a plot, and the persons that suffer most from each kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.base.files import atomic_file
from components.evaluate import error_gains
from components.evaluate.error_gains import JOINT_KINDS, Found
from components.evaluate.errors import BACKGROUND, KINDS, REPEAT, Errors
from components.evaluate.leading import Number
from components.evaluate.predictions import Predictions
from components.evaluate.scoring import Truth
from components.pose.draw import DARK, TRUTH, draw_joints

COLOURS = {"good": "#d5dbe3", "jitter": "#f2c14e", "inversion": "#9b5de5", "swap": "#2a9d8f", "miss": "#d1495b"}
RING = {"jitter": (242, 193, 78), "inversion": (155, 93, 229), "swap": (42, 157, 143), "miss": (209, 73, 91)}
SIDE = 300  # px of a picture
FIELD, WIDEST = 1.5, 4.0  # of the person's longer side that a picture shows: at least, and at most where joints lie far off
LEGEND = "white: annotation · thin: prediction · rings: jitter yellow, inversion violet, swap green, miss red"


@dataclass(frozen=True)
class Worst:
    """One of the worst: its kind of error, a caption, and its picture (SIDE, SIDE, 3) uint8 RGB."""

    kind: str
    caption: str
    picture: np.ndarray


Read = Callable[[int], np.ndarray]  # an image's id → (H, W, 3) uint8 RGB


def worst(truth: Truth, found: Found, errors: Errors, read: Read, size: int) -> list[Worst]:
    """The `size` persons that suffer most from each kind of joint error, and the background predictions of highest score.

    A person counts the more, the larger the share of its labelled joints with the error is, then the lower its OKS. Persons with fewer
    than half of the most labelled joints are left out.

    Raises:
        FarposeError: what `read` raises.
    """
    predictions, scores = found
    chosen: list[tuple[str, int]] = []
    labelled = (errors.kind >= 0).sum(1)
    rich = labelled * 2 >= labelled.max(initial=0)
    for name in JOINT_KINDS:
        share = (errors.kind == KINDS.index(name)).sum(1) / np.maximum(labelled, 1)
        rows = np.flatnonzero((share > 0) & rich)
        order = np.lexsort((errors.oks[rows], -share[rows]))
        chosen += [(name, int(row)) for row in rows[order][:size]]
    rows = np.flatnonzero(np.isin(errors.fate, (BACKGROUND, REPEAT)))
    chosen += [("background", int(row)) for row in rows[np.argsort(-scores[rows], kind="stable")][:size]]
    return [
        Worst(name, _caption(name, row, errors, scores, truth), _picture(row, truth, predictions, errors, read)) for name, row in chosen
    ]


def _caption(name: str, row: int, errors: Errors, scores: np.ndarray, truth: Truth) -> str:
    if errors.person[row] < 0:
        return f"score {scores[row]:.2f}, nobody's"
    count = int((errors.kind[row] == KINDS.index(name)).sum())
    height = truth.persons.bbox_xywh[errors.person[row], 3]
    return f"{count} of {int((errors.kind[row] >= 0).sum())} joints, OKS {errors.oks[row]:.2f}, {height:.0f} px"


def _picture(row: int, truth: Truth, predictions: Predictions, errors: Errors, read: Read) -> np.ndarray:
    import cv2

    person = int(errors.person[row])
    box = truth.persons.bbox_xywh[person] if person >= 0 else predictions.bbox_xywh[row]
    joints, labelled = predictions.keypoints_image[row], errors.kind[row] >= 0
    picture, place = around(read(int(predictions.image_id[row])), box, joints[labelled] if labelled.any() else joints)
    skeleton = truth.persons.skeleton
    if person < 0:
        draw_joints(picture, place(joints), np.ones(len(joints), bool), skeleton, thickness=1)
        return picture
    annotated = truth.persons.keypoints[person]
    draw_joints(picture, place(annotated[:, :2]), labelled, skeleton, colour=TRUTH, thickness=2)
    draw_joints(picture, place(joints), labelled, skeleton, thickness=1)
    for k in np.flatnonzero(errors.kind[row] > 0).tolist():
        at = tuple(np.round(np.clip(place(joints[k]), -1e4, 1e4)).astype(int).tolist())
        for colour, width in ((DARK, 4), (RING[KINDS[errors.kind[row, k]]], 2)):
            cv2.circle(picture, at, 7, colour, width, cv2.LINE_AA)
    return picture


def around(image: np.ndarray, box: np.ndarray, joints: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """The image (H, W, 3) around a box (4,) xywh, with some room and the joints (n, 2) if they are not too far.

    Returns:
        (SIDE, SIDE, 3) uint8, grey beyond the image, and a function from px of the image to px of this picture.
    """
    import cv2

    longer, center = max(float(box[2:].max()), 4.0), box[:2] + box[2:] / 2
    reach = float(np.abs(joints - center).max(initial=0.0))
    scale = SIDE / float(np.clip(2.1 * reach, FIELD * longer, WIDEST * longer))
    shift = SIDE / 2 - scale * center
    flags = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    picture = cv2.warpAffine(image, matrix, (SIDE, SIDE), flags=flags, borderValue=(236, 236, 236))
    return picture, lambda points: points * scale + shift


def gallery(path: Path, title: str, pictures: Sequence[Worst]) -> None:
    """Write the pictures as PNG, a row per kind."""
    from matplotlib.figure import Figure

    rows = {kind: [one for one in pictures if one.kind == kind] for kind in dict.fromkeys(one.kind for one in pictures)}
    width = max(map(len, rows.values()))
    figure = Figure(figsize=(2.6 * width + 0.3, 2.85 * len(rows) + 0.6), dpi=110, facecolor="white")
    figure.suptitle(f"{title}\n{LEGEND}", fontsize=9)
    axes = figure.subplots(len(rows), width, squeeze=False)
    for row, (kind, ones) in enumerate(rows.items()):
        for column in range(width):
            axes[row][column].set_axis_off()
        for column, one in enumerate(ones):
            axes[row][column].imshow(one.picture)
            axes[row][column].set_title(one.caption, fontsize=7.5, pad=3, color="0.15")
        axes[row][0].text(-0.03, 0.5, kind, transform=axes[row][0].transAxes, rotation=90, va="center", ha="right", fontsize=11)
    figure.subplots_adjust(left=0.25 / width, right=0.995, top=1 - 0.75 / (2.85 * len(rows) + 0.6), bottom=0.01, wspace=0.03, hspace=0.12)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")


def plot(path: Path, title: str, result: Mapping[str, Any]) -> None:
    """Write the shares by height and by joint, and the gains with their intervals, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.5, 8.2), dpi=110, layout="constrained")
    figure.suptitle(title, fontsize=10)
    (shares, gains), (joints, by_height) = figure.subplots(2, 2)
    bins = [one for one in result["by_height"] if one["joints"]]
    _stack(shares, [f"{one['low']:g}–{one['high']:g}" if one["high"] else f"from {one['low']:g}" for one in bins], bins)
    shares.set_xlabel("person height, px of the image")
    named = [one for one in result["by_joint"] if one["joints"]]
    named = sorted(named, key=lambda one: one["share"]["good"])[:24]  # of 133 joints the worst
    _stack(joints, [one["joint"] for one in named], named)
    joints.tick_params(axis="x", labelrotation=60)
    led = error_gains.led_by(result)[0]
    _gains(gains, result["kinds"], led)
    _gains_by_height(by_height, result["by_height"], led)
    shares.legend(*shares.get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, 1.13), ncols=5, frameon=False, fontsize=8)
    for axes in (shares, gains, joints, by_height):
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _stack(axes: Any, labels: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    base = np.zeros(len(rows))
    for kind, colour in COLOURS.items():
        values = 100 * np.array([row["share"][kind] for row in rows])
        axes.bar(labels, values, bottom=base, color=colour, label=kind, width=0.8)
        base += values
    for place, row in enumerate(rows):
        axes.text(place, 101, f"{row['joints']:,}", ha="center", fontsize=6.5, color="0.4")
    axes.set(ylabel="share of labelled joints, %", ylim=(0, 106))
    axes.tick_params(labelsize=8)


def _gains(axes: Any, kinds: Sequence[Mapping[str, Any]], led: Number) -> None:
    known = [row for row in kinds if row["gain"] is not None][::-1]
    for place, row in enumerate(known):
        axes.barh(place, 100 * row["gain"], height=0.6, color=COLOURS.get(row["kind"], "#4c78a8"))
        if row["gain_low"] is not None:
            axes.plot([100 * row["gain_low"], 100 * row["gain_high"]], [place, place], color="#222", linewidth=1.4)
    axes.set_yticks(range(len(known)), [row["kind"] for row in known], fontsize=8)
    axes.set(xlabel=f"{led.label} points gained if this error alone is corrected, with the 95 % interval")
    axes.grid(axis="x", alpha=0.25)


def _gains_by_height(axes: Any, bins: Sequence[Mapping[str, Any]], led: Number) -> None:
    known = [one for one in bins if one[led.name] is not None and one["middle"] is not None]
    for kind in (*JOINT_KINDS, "background", "ranking"):
        points = [(one["middle"], 100 * one["gain"][kind]) for one in known if one["gain"][kind] is not None]
        if any(gain for _, gain in points):
            axes.plot(*zip(*points, strict=True), "o-", markersize=3.5, label=kind, color=COLOURS.get(kind))
    axes.set(xlabel="person height, px of the image", ylabel=f"{led.label} points gained in that bin", xscale="log")
    from matplotlib.ticker import NullFormatter

    axes.set_xticks([one["middle"] for one in known], [f"{one['middle']:.0f}" for one in known], fontsize=8)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
