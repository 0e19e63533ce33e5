"""One page of the best, the median and the worst images of a bottom-up evaluation, all persons drawn on the original pixels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from components.base.files import atomic_file
from components.degrade.images import read_image
from components.evaluate.gallery import choose, draw_joints
from components.evaluate.image_oks import mean_by_image
from components.evaluate.predictions import Predictions
from components.pose.crop import transform
from components.pose.skeleton import Skeleton

if TYPE_CHECKING:
    from components.degrade.image_shards import EvalImages

TILE = (360, 480)  # height and width of one picture, px
DPI = 136  # shows a tile's px one to one
SMALLEST_VIEW = 0.3  # of the image's sides, that a picture shows at least
MARGIN = 0.12  # around the persons, of the view
PERSON_PER_LINE = 150  # px of the picture that a person measures for each px of a line's width
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
        threshold: score above which a joint is drawn; others were filled in and say little.
    """
    from matplotlib.figure import Figure

    person_image = images.persons.labelled().frame["image_id"].to_numpy()
    quality = mean_by_image(images.image_id, person_image, oks)
    persons = (images.image_id[:, None] == person_image).sum(1) if len(person_image) else np.zeros(len(images), np.int64)
    groups = choose(quality, np.minimum(persons, CROWDED), size)
    width = max(1, *map(len, groups.values()))
    figure = Figure(figsize=(width * (TILE[1] / DPI + 0.1) + 0.3, 3 * (TILE[0] / DPI + 0.25) + 0.6), dpi=DPI, facecolor="white")
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
    """(H, W, 3) uint8 RGB: the part of an original image where persons are, as large as `TILE` allows, and they drawn on it."""
    import cv2

    own = images.persons.labelled()
    own = own.select(own.frame["image_id"].to_numpy() == images.image_id[index])
    boxes = np.concatenate([own.bbox_xywh, predictions.bbox_xywh])
    left, top, width, height = view_of(boxes, int(images.width[index]), int(images.height[index]))
    part = read_image(data_root / str(images.image_path[index]))[top : top + height, left : left + width, ::-1]
    factor = min(TILE[0] / height, TILE[1] / width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    picture = cv2.resize(np.ascontiguousarray(part), size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    middle = (factor - 1) / 2  # the middles of pixels lie on each other
    image_to_tile = np.array([[[factor, 0, middle - factor * left], [0, factor, middle - factor * top]]])
    draw_persons(picture, image_to_tile, own.keypoints, predictions, scores, threshold, images.skeleton)
    return picture


def view_of(boxes: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, width and height, px of the image, of the part that shows all `boxes` (N, 4) with a margin, in the tile's shape."""
    limits = np.array([width, height], np.float64)
    low, high = np.clip(boxes[:, :2], 0, limits), np.clip(boxes[:, :2] + boxes[:, 2:], 0, limits)
    if not len(boxes):
        return 0, 0, width, height
    first, last = low.min(0), high.max(0)
    size = np.maximum((last - first) * (1 + 2 * MARGIN), SMALLEST_VIEW * limits)
    size = np.minimum(np.maximum(size, size[::-1] * np.array([TILE[1] / TILE[0], TILE[0] / TILE[1]])), limits).round().clip(1)
    corner = np.clip((first + last - size) / 2, 0, limits - size).round()
    return int(corner[0]), int(corner[1]), int(size[0]), int(size[1])


def draw_persons(
    picture: np.ndarray,
    image_to_picture: np.ndarray,
    truth: np.ndarray,
    predictions: Predictions,
    scores: np.ndarray,
    threshold: float,
    skeleton: Skeleton,
) -> None:
    """Draw annotated persons (P, K, 3) in white and over them the best predicted ones of one image, in thinner lines.

    Args:
        image_to_picture: (1, 2, 3) affine matrix from image px to px of the picture.
    """
    for joints in truth:
        points, seen = transform(image_to_picture, joints[None, :, :2])[0], joints[:, 2] > 0
        draw_joints(picture, points, seen, skeleton, truth=True, thickness=_line(points[seen]) + 2, rim=False)
    for rank, row in enumerate(np.argsort(-scores, kind="stable")[:MOST_DRAWN].tolist()):
        points, seen = transform(image_to_picture, predictions.keypoints_image[row][None])[0], predictions.keypoint_scores[row] > threshold
        draw_joints(picture, points, seen, skeleton, colour=colour_of(rank), thickness=_line(points[seen]), rim=False)


def _line(points: np.ndarray) -> int:
    """Width of a person's lines, px of the picture: a far person must stay visible under them."""
    return int(np.clip(np.ptp(points, axis=0).max() / PERSON_PER_LINE, 1, 3)) if len(points) else 1


def colour_of(rank: int) -> tuple[int, int, int]:
    """RGB of the person of this rank in its image; ten colours in turn."""
    from matplotlib import colormaps

    red, green, blue = colormaps["tab10"](rank % 10)[:3]
    return round(255 * red), round(255 * green), round(255 * blue)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
