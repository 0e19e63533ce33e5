"""One picture that says what a bottom-up model does: a far person, what the network saw and found, and AP against person height."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.base.files import atomic_file
from components.degrade.images import read_image
from components.evaluate.image_gallery import draw_persons
from components.evaluate.overview import FAR_PX, RANK, draw_curve
from components.evaluate.predictions import Predictions
from components.pose.crop import compose, invert
from components.pose.persons import Persons

if TYPE_CHECKING:
    from components.degrade.image_shards import EvalImages

VIEW = 3.0  # side of the network's view around the person, in heights of the person
VIEW_PX = 460  # its side in the picture


def image_overview(
    path: str | Path,
    title: str,
    images: EvalImages,
    predictions: Predictions,
    scores: np.ndarray,
    oks: np.ndarray,
    given: np.ndarray,
    threshold: float,
    data_root: Path,
    by_height: Sequence[Mapping[str, Any]],
) -> bool:
    """Draw the picture as PNG; False, and nothing written, where the data hold no far person.

    Args:
        scores: (N,) of the predicted persons.
        oks, given: (P,) of the labelled persons, see `image_oks.assign`.
        threshold: score above which a joint is drawn.
        by_height: `curves.Point` mappings.
    """
    persons = images.persons.labelled()
    far = far_persons(persons, oks)
    if not len(far):
        return False
    from matplotlib.figure import Figure

    person = int(far[round(RANK * (len(far) - 1))])
    index = int(np.flatnonzero(images.image_id == persons.frame["image_id"].to_numpy()[person])[0])
    figure = Figure(figsize=(13, 4.1), dpi=110, facecolor="white", layout="constrained")
    scene, seen, curve = figure.subplots(1, 3, width_ratios=[1.45, 1.0, 1.3])
    corner, side = _view(persons.bbox_xywh[person], int(images.width[index]), int(images.height[index]))
    _draw_scene(scene, read_image(data_root / str(images.image_path[index])), corner, side, persons.bbox_xywh[person, 3])
    seen.imshow(draw_view(images, index, predictions, scores, threshold, corner, side))
    seen.set_axis_off()
    height, width = images.input_sizes[index]
    found = f"OKS {oks[person]:.2f}" if given[person] >= 0 else "not found"
    about = f"{found}; median of far persons {np.median(oks[far]):.2f}"
    seen.set_title(f"what the network sees there (its whole input: {width}×{height} px) and finds\n{about}")
    draw_curve(curve, by_height)
    for axes in (scene, seen, curve):
        axes.title.set_fontsize(9)
    figure.suptitle(f"{title}\nwhite: annotation · colours: predicted persons" if title else "", fontsize=10)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")
    return True


def far_persons(persons: Persons, oks: np.ndarray) -> np.ndarray:
    """Rows of far persons with at least two joints in three labelled, worst first."""
    height, labelled = persons.bbox_xywh[:, 3], (persons.keypoints[..., 2] > 0).mean(1)
    rows = np.flatnonzero((height >= FAR_PX[0]) & (height <= FAR_PX[1]) & (labelled >= 2 / 3))
    return rows[np.argsort(oks[rows], kind="stable")]


def draw_view(
    images: EvalImages, index: int, predictions: Predictions, scores: np.ndarray, threshold: float, corner: np.ndarray, side: float
) -> np.ndarray:
    """(`VIEW_PX`, `VIEW_PX`, 3) uint8 RGB: a square of the image as the network saw it, enlarged without smoothing, and drawn on.

    Args:
        corner: (2,) left and top of the square, image px.
        side: image px.
    """
    import cv2

    factor = VIEW_PX / side
    image_to_view = np.array([[[factor, 0, -factor * corner[0]], [0, factor, -factor * corner[1]]]])
    image_to_input = images.geometry.image_to_input(int(images.width[index]), int(images.height[index]))[None]
    pixels = np.ascontiguousarray(images.pixels(index).transpose(1, 2, 0))
    picture = cv2.warpAffine(pixels, compose(image_to_view, invert(image_to_input))[0], (VIEW_PX, VIEW_PX), flags=cv2.INTER_NEAREST)
    own, truth = np.flatnonzero(predictions.image_id == images.image_id[index]), images.persons.labelled()
    truth = truth.select(truth.frame["image_id"].to_numpy() == images.image_id[index])
    draw_persons(picture, image_to_view, truth.keypoints, predictions.select(own), scores[own], threshold, images.skeleton)
    return picture


def _view(bbox_xywh: np.ndarray, width: int, height: int) -> tuple[np.ndarray, float]:
    """Corner and side of the square around a person, image px; inside of the image."""
    side = min(VIEW * float(bbox_xywh[2:].max()), width, height)
    corner = bbox_xywh[:2] + bbox_xywh[2:] / 2 - side / 2
    return np.clip(corner, 0, np.array([width, height]) - side), side


def _draw_scene(axes: Any, image: np.ndarray, corner: np.ndarray, side: float, height: float) -> None:
    """The whole image, with the square that the network's view shows."""
    from matplotlib.patches import Rectangle

    axes.imshow(image[..., ::-1], interpolation="antialiased")
    axes.add_patch(Rectangle(tuple(corner), side, side, fill=False, edgecolor="#ffdd00", linewidth=1.8))
    axes.set_xlim(-0.5, image.shape[1] - 0.5)
    axes.set_ylim(image.shape[0] - 0.5, -0.5)
    axes.set_title(f"a person far away: {height:.0f} px high")
    axes.set_axis_off()
