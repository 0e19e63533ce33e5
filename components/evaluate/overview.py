"""One picture that says what the model does: a far person, what the network saw and said, and AP against person height."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.base.files import atomic_file
from components.degrade.images import read_image
from components.evaluate.curves import top_of
from components.evaluate.gallery import LEFT, RIGHT, draw_prediction
from components.evaluate.predictions import Predictions

if TYPE_CHECKING:
    from components.degrade.shards import EvalCrops

FAR_PX = (24.0, 64.0)  # heights that count as far away, px of the image
RANK = 0.75  # of the far persons by OKS, the one shown: better than three in four, and the caption says so
FIELD = 6.0  # width of the view around the person, in padded boxes


def overview(
    path: str | Path,
    title: str,
    crops: EvalCrops,
    predictions: Predictions,
    oks: np.ndarray,
    data_root: Path,
    by_height: Sequence[Mapping[str, Any]],
) -> bool:
    """Draw the picture as PNG; False, and nothing written, where the data hold no far person.

    Args:
        crops: the crops predicted on, row by row.
        oks: (N,) OKS of each prediction with its person.
        by_height: `curves.Point` mappings.
    """
    far = far_persons(crops, oks)
    if not len(far):
        return False
    from matplotlib.figure import Figure

    person = int(far[round(RANK * (len(far) - 1))])
    figure = Figure(figsize=(12.5, 4.1), dpi=110, facecolor="white", layout="constrained")
    scene, seen, curve = figure.subplots(1, 3, width_ratios=[1.45, 0.78, 1.3])
    _draw_scene(scene, crops, person, data_root)
    _draw_crop(seen, crops, predictions, person)
    height, width = crops.geometry.input_size
    seen.set_title(
        f"what the network sees ({width}×{height} px) and finds\nOKS {oks[person]:.2f}; median of far persons {_median(oks, far):.2f}"
    )
    draw_curve(curve, by_height)
    for axes in (scene, seen, curve):
        axes.title.set_fontsize(9)
    figure.suptitle(title, fontsize=10)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")
    return True


def far_persons(crops: EvalCrops, oks: np.ndarray) -> np.ndarray:
    """Rows of far persons with at least two joints in three labelled, worst first."""
    height, labelled = crops.bbox_xywh[:, 3], (crops.keypoints_image[..., 2] > 0).mean(1)
    rows = np.flatnonzero((height >= FAR_PX[0]) & (height <= FAR_PX[1]) & (labelled >= 2 / 3) & np.isfinite(oks))
    return rows[np.argsort(oks[rows], kind="stable")]


def _median(oks: np.ndarray, rows: np.ndarray) -> float:
    return float(np.median(oks[rows]))


def _draw_scene(axes: Any, crops: EvalCrops, person: int, data_root: Path) -> None:
    """The image around the person (all of it, if it is small), with the person's box."""
    from matplotlib.patches import Rectangle

    image = read_image(data_root / str(crops.image_path[person]))[..., ::-1]
    (left, top, width, height), center = crops.bbox_xywh[person], crops.center[person]
    half = FIELD * crops.size[person].max() / 2
    axes.imshow(image, interpolation="nearest")
    axes.set_xlim(max(center[0] - half, 0) - 0.5, min(center[0] + half, image.shape[1]) - 0.5)
    axes.set_ylim(min(center[1] + half, image.shape[0]) - 0.5, max(center[1] - half, 0) - 0.5)
    axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor="#ffdd00", linewidth=1.8))
    axes.set_title(f"a person far away: {height:.0f} px high")
    axes.set_axis_off()


def _draw_crop(axes: Any, crops: EvalCrops, predictions: Predictions, person: int) -> None:
    from matplotlib.lines import Line2D

    axes.imshow(draw_prediction(crops, predictions, person))
    axes.set_axis_off()
    colours = {"person's left": LEFT, "right": RIGHT, "annotation": (255, 255, 255)}
    lines = [Line2D([], [], color=np.array(colour) / 255, linewidth=3) for colour in colours.values()]
    axes.legend(lines, colours, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=3, fontsize=7, frameon=True, facecolor="0.8")


def draw_curve(axes: Any, by_height: Sequence[Mapping[str, Any]]) -> None:
    """AP and its interval against person height; far away is marked."""
    known = [point for point in by_height if point["AP"] is not None]
    x = [point["middle"] for point in known]
    axes.plot(x, [point["AP"] for point in known], "o-", color="#4c78a8", markersize=4)
    axes.fill_between(x, [p["AP_low"] for p in known], [p["AP_high"] for p in known], color="#4c78a8", alpha=0.18, linewidth=0)
    axes.axvspan(*FAR_PX, color="#ffdd00", alpha=0.15, linewidth=0)
    axes.set(xlabel="person height, px of the image", ylabel="AP, with its 95 % interval", ylim=(0, top_of([by_height])))
    axes.set_title("how far away still works")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
