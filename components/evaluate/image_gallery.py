"""One page of the best, the median and the worst images of a bottom-up evaluation, all persons drawn on the original image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.base.files import atomic_file
from components.degrade.images import read_image
from components.evaluate.gallery import choose, draw_joints
from components.evaluate.image_oks import mean_by_image
from components.evaluate.predictions import Predictions
from components.pose.crop import transform

if TYPE_CHECKING:
    from components.degrade.image_shards import EvalImages

TILE = (480, 640)  # height and width of one picture, px; an image is fitted into it
MOST_DRAWN = 20  # persons of an image, the best ones: those that COCO's evaluation counts
CROWDED = 4  # labelled persons from which an image shows grouping as well as any: images with less than half are shown last


def image_gallery(
    path: str | Path,
    title: str,
    images: EvalImages,
    predictions: Predictions,
    scores: np.ndarray,
    oks: np.ndarray,
    threshold: float,
    data_root: Path,
    size: int,
) -> None:
    """Draw `size` images of each group as PNG, ranked by the mean OKS of their labelled persons.

    White is the annotation; each predicted person has a colour of its own, so that joints given to the wrong person can be
    seen.

    Args:
        scores: (N,) of the predicted persons.
        oks: (P,) OKS of each labelled person with the prediction it was given, see `image_oks.assign`.
        threshold: score above which a joint counts as found; others are not drawn.
    """
    from matplotlib.figure import Figure

    person_image = images.persons.labelled().frame["image_id"].to_numpy()
    quality = mean_by_image(images.image_id, person_image, oks)
    persons = (images.image_id[:, None] == person_image).sum(1) if len(person_image) else np.zeros(len(images), np.int64)
    groups = choose(quality, np.minimum(persons, CROWDED), size)
    width = max(1, *map(len, groups.values()))
    figure = Figure(figsize=(width * (2.65 * TILE[1] / TILE[0] + 0.1) + 0.25, 3 * 2.85 + 0.6), dpi=120, facecolor="white")
    figure.suptitle(f"{title}\nwhite: annotation · colours: predicted persons", fontsize=10)
    axes = figure.subplots(3, width, squeeze=False)
    for row, (name, chosen) in enumerate(groups.items()):
        for column in range(width):
            axes[row][column].set_axis_off()
        for column, image in enumerate(chosen):
            own = np.flatnonzero(predictions.image_id == images.image_id[image])
            axes[row][column].imshow(drawn_image(images, image, predictions.select(own), scores[own], threshold, data_root))
            caption = f"mean OKS {quality[image]:.2f} · {_count(int(persons[image]), 'person')}, {len(own)} found"
            axes[row][column].set_title(caption, fontsize=8, pad=3, color="0.15")
        axes[row][0].text(-0.03, 0.5, name, transform=axes[row][0].transAxes, rotation=90, va="center", ha="right", fontsize=11)
    figure.subplots_adjust(left=0.25 / width, right=0.995, top=0.92, bottom=0.01, wspace=0.03, hspace=0.1)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")


def drawn_image(
    images: EvalImages, index: int, predictions: Predictions, scores: np.ndarray, threshold: float, data_root: Path
) -> np.ndarray:
    """(H, W, 3) uint8 RGB: an original image fitted into `TILE`, its annotated and predicted persons drawn on it."""
    import cv2

    image = read_image(data_root / str(images.image_path[index]))
    factor = min(TILE[0] / image.shape[0], TILE[1] / image.shape[1])
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    picture = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    picture = np.ascontiguousarray(picture[..., ::-1])
    image_to_tile = np.array([[[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2]]])  # pixels' middles on each other
    own = images.persons.labelled()
    own = own.select(own.frame["image_id"].to_numpy() == images.image_id[index])
    draw_persons(picture, image_to_tile, own.keypoints, predictions, scores, threshold, images.skeleton)
    return picture


def draw_persons(
    picture: np.ndarray,
    image_to_picture: np.ndarray,
    truth: np.ndarray,
    predictions: Predictions,
    scores: np.ndarray,
    threshold: float,
    skeleton: Any,
) -> None:
    """Draw annotated persons (P, K, 3) in white and over them the best predicted ones of one image, in thin lines.

    Args:
        image_to_picture: (1, 2, 3) affine matrix from image px to px of the picture.
    """
    for joints in truth:
        draw_joints(picture, transform(image_to_picture, joints[None, :, :2])[0], joints[:, 2] > 0, skeleton, truth=True, thickness=1)
    for rank, row in enumerate(np.argsort(-scores, kind="stable")[:MOST_DRAWN].tolist()):
        points = transform(image_to_picture, predictions.keypoints_image[row][None])[0]
        draw_joints(picture, points, predictions.keypoint_scores[row] > threshold, skeleton, colour=colour_of(rank), thickness=1)


def colour_of(rank: int) -> tuple[int, int, int]:
    """RGB of the person of this rank in its image; ten colours in turn."""
    from matplotlib import colormaps

    red, green, blue = colormaps["tab10"](rank % 10)[:3]
    return round(255 * red), round(255 * green), round(255 * blue)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
