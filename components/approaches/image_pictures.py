"""Pictures of whole images: the part where persons are, all annotated and predicted persons drawn on it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from components.degrade.image_shards import EvalImages
from components.degrade.images import read_image
from components.evaluate.approach import Found, Look, Tiles
from components.evaluate.assignment import mean_by_image
from components.pose.crop import compose, invert, transform
from components.pose.draw import TRUTH, colour_of, draw_joints, line_width

TILE = (360, 480)  # height and width of one picture, px
SMALLEST_VIEW = 0.3  # of the image's sides, that a picture shows at least
MARGIN = 0.12  # around the persons, of the view
MOST_DRAWN = 20  # persons of an image, the best ones: those that COCO's evaluation counts
THICKEST = 3  # px of a limb
CROWDED = 4  # labelled persons that suffice to show grouping; images with fewer than half of it are shown last
VIEW, VIEW_PX = 3.0, 460  # side of the overview's square around a person: in heights of the person, and in px of the picture
LEGEND = "white: annotation · colours: predicted persons"


def tiles(images: EvalImages, found: Found, threshold: float, data_root: Path) -> Tiles:
    """Per image the part where persons are, ranked by their mean OKS; each predicted person has a colour of its own, so that
    joints assigned to the wrong person are visible.

    Args:
        threshold: score above which a joint is drawn; the others were filled in and are unreliable.
    """
    person_image = found.persons.frame["image_id"].to_numpy()
    quality = mean_by_image(images.image_id, person_image, found.oks)
    counts = (images.image_id[:, None] == person_image).sum(1) if len(person_image) else np.zeros(len(images), np.int64)

    def caption(image: int) -> str:
        number = int((found.predictions.image_id == images.image_id[image]).sum())
        return f"mean OKS {quality[image]:.2f} · {_count(int(counts[image]), 'person')}, {number} found"

    draw = lambda image: _tile(images, image, found, threshold, data_root)  # noqa: E731
    return Tiles(quality, np.minimum(counts, CROWDED), TILE, draw, caption, LEGEND)


def look(images: EvalImages, found: Found, person: int, threshold: float, data_root: Path) -> Look:
    """At one labelled person: the whole image, and a square around the person as the network saw it."""
    row = int(np.flatnonzero(images.image_id == found.persons.frame["image_id"].to_numpy()[person])[0])
    width, height = int(images.width[row]), int(images.height[row])
    bbox = found.persons.bbox_xywh[person]
    side = min(VIEW * float(bbox[2:].max()), width, height)
    corner = np.clip(bbox[:2] + bbox[2:] / 2 - side / 2, 0, np.array([width, height]) - side)
    input_height, input_width = images.input_sizes[row]
    return Look(
        image=read_image(data_root / str(images.image_path[row]), images.upright)[..., ::-1],
        part=(0, 0, width, height),
        frame_xywh=(*corner.tolist(), side, side),
        seen=_view(images, row, found, threshold, corner, side),
        caption=f"what the network sees there (its whole input: {input_width}×{input_height} px) and finds",
        legend=LEGEND,
    )


def _tile(images: EvalImages, row: int, found: Found, threshold: float, data_root: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB: the part of an original image where persons are, as large as `TILE` allows, with the persons drawn on it."""
    truth = found.persons.bbox_xywh[found.persons.frame["image_id"].to_numpy() == images.image_id[row]]
    boxes = np.concatenate([truth, found.predictions.bbox_xywh[found.predictions.image_id == images.image_id[row]]])
    left, top, width, height = view_of(boxes, int(images.width[row]), int(images.height[row]))
    part = read_image(data_root / str(images.image_path[row]), images.upright)[top : top + height, left : left + width, ::-1]
    factor = min(TILE[0] / height, TILE[1] / width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    picture = cv2.resize(np.ascontiguousarray(part), size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    middle = (factor - 1) / 2  # pixel centres coincide
    image_to_tile = np.array([[[factor, 0, middle - factor * left], [0, factor, middle - factor * top]]])
    _draw(picture, image_to_tile, images, row, found, threshold)
    return picture


def view_of(boxes: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, width and height, image px, of the part that shows all `boxes` (N, 4) with a margin, in the tile's aspect ratio."""
    limits = np.array([width, height], np.float64)
    low, high = np.clip(boxes[:, :2], 0, limits), np.clip(boxes[:, :2] + boxes[:, 2:], 0, limits)
    if not len(boxes):
        return 0, 0, width, height
    first, last = low.min(0), high.max(0)
    size = np.maximum((last - first) * (1 + 2 * MARGIN), SMALLEST_VIEW * limits)
    size = np.minimum(np.maximum(size, size[::-1] * np.array([TILE[1] / TILE[0], TILE[0] / TILE[1]])), limits).round().clip(1)
    corner = np.clip((first + last - size) / 2, 0, limits - size).round()
    return int(corner[0]), int(corner[1]), int(size[0]), int(size[1])


def _view(images: EvalImages, row: int, found: Found, threshold: float, corner: np.ndarray, side: float) -> np.ndarray:
    """(`VIEW_PX`, `VIEW_PX`, 3) uint8 RGB: a square of the image as the network saw it, enlarged without smoothing, and drawn on.

    Args:
        corner: (2,) left and top of the square, image px.
        side: image px.
    """
    factor = VIEW_PX / side
    image_to_view = np.array([[[factor, 0, -factor * corner[0]], [0, factor, -factor * corner[1]]]])
    image_to_input = images.geometry.image_to_input(int(images.width[row]), int(images.height[row]))[None]
    pixels = np.ascontiguousarray(images.pixels(row).transpose(1, 2, 0))
    picture = cv2.warpAffine(pixels, compose(image_to_view, invert(image_to_input))[0], (VIEW_PX, VIEW_PX), flags=cv2.INTER_NEAREST)
    _draw(picture, image_to_view, images, row, found, threshold)
    return picture


def _draw(picture: np.ndarray, image_to_picture: np.ndarray, images: EvalImages, row: int, found: Found, threshold: float) -> None:
    """Draw one image's labelled persons in white and over them the best predicted ones, in thinner lines.

    Args:
        image_to_picture: (1, 2, 3) affine matrix from image px to px of the picture.
    """
    for joints in found.persons.keypoints[found.persons.frame["image_id"].to_numpy() == images.image_id[row]]:
        points, seen = transform(image_to_picture, joints[None, :, :2])[0], joints[:, 2] > 0
        draw_joints(picture, points, seen, images.skeleton, TRUTH, line_width(points[seen], THICKEST) + 2, rim=False)
    own = np.flatnonzero(found.predictions.image_id == images.image_id[row])
    for rank, person in enumerate(own[np.argsort(-found.scores[own], kind="stable")][:MOST_DRAWN].tolist()):
        points = transform(image_to_picture, found.predictions.keypoints_image[person][None])[0]
        seen = found.predictions.keypoint_scores[person] > threshold
        draw_joints(picture, points, seen, images.skeleton, colour_of(rank), line_width(points[seen], THICKEST), rim=False)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
