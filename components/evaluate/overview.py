"""One picture that says what a model does: a far person, what the network saw and found, and AP (of MPII PCKh) against person height."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.base.files import atomic_file
from components.evaluate.approach import Look
from components.evaluate.curves import led_by, top_of
from components.pose.persons import Persons

FAR_PX = (24.0, 64.0)  # heights that count as far away, px of the image


def overview(
    path: str | Path, title: str, persons: Persons, oks: np.ndarray, look: Callable[[int], Look], by_height: Sequence[Mapping[str, Any]]
) -> bool:
    """Draw the picture as PNG; False, and nothing written, where the data hold no far person.

    The person shown is the median one: half of the far persons have a lower OKS, so the picture is what a user can expect.

    Args:
        persons: (P) the labelled ones.
        oks: (P,) with the prediction that is the person's.
        look: at one of the persons.
        by_height: `curves.Point` mappings.
    """
    far = far_persons(persons, oks)
    if not len(far):
        return False
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    person = int(far[len(far) // 2])
    view = look(person)
    left, top, right, bottom = view.part
    widths = [(right - left) / (bottom - top), view.seen.shape[1] / view.seen.shape[0], 1.5]  # in heights of the pictures
    figure = Figure(figsize=(3.1 * sum(widths) + 1.0, 4.3), dpi=110, facecolor="white", layout="constrained")
    scene, seen, curve = figure.subplots(1, 3, width_ratios=widths)
    scene.imshow(view.image)
    scene.set(xlim=(left - 0.5, right - 0.5), ylim=(bottom - 0.5, top - 0.5))
    x, y, width, height = view.frame_xywh
    scene.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor="#ffdd00", linewidth=1.8))
    scene.set_title(f"a person far away: {persons.bbox_xywh[person, 3]:.0f} px high")
    seen.imshow(view.seen)
    found = f"OKS {oks[person]:.2f}" if oks[person] > 0 else "not found"
    seen.set_title(f"{view.caption}\n{found}: the median of {len(far)} far persons")
    draw_curve(curve, by_height)
    for axes in (scene, seen):
        axes.set_axis_off()
    for axes in (scene, seen, curve):
        axes.title.set_fontsize(9)
    figure.suptitle(f"{title}\n{view.legend}".strip(), fontsize=10)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")
    return True


def far_persons(persons: Persons, oks: np.ndarray) -> np.ndarray:
    """Rows of far persons with at least two joints in three labelled, worst first."""
    height, labelled = persons.bbox_xywh[:, 3], (persons.keypoints[..., 2] > 0).mean(1)
    rows = np.flatnonzero((height >= FAR_PX[0]) & (height <= FAR_PX[1]) & (labelled >= 2 / 3) & np.isfinite(oks))
    return rows[np.argsort(oks[rows], kind="stable")]


def draw_curve(axes: Any, by_height: Sequence[Mapping[str, Any]]) -> None:
    """The leading number and its interval against person height; far away is marked."""
    led = led_by([by_height])
    known = [point for point in by_height if point.get(led.name) is not None]
    x = [point["middle"] for point in known]
    axes.plot(x, [point[led.name] for point in known], "o-", color="#4c78a8", markersize=4)
    low, high = ([point[f"{led.name}_{end}"] for point in known] for end in ("low", "high"))
    axes.fill_between(x, low, high, color="#4c78a8", alpha=0.18, linewidth=0)
    axes.axvspan(*FAR_PX, color="#ffdd00", alpha=0.15, linewidth=0)
    axes.set(xlabel="person height, px of the image", ylabel=f"{led.label}, with its 95 % interval", ylim=(0, top_of([by_height])))
    axes.set_title("how far away still works")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
