"""Skeletons painted on pictures: one palette and one brush for galleries, overviews and `farpose predict`."""

from __future__ import annotations

import colorsys
import math
from pathlib import Path
from typing import Any

import numpy as np

from components.base.errors import FarposeError
from components.base.files import atomic_file
from components.pose.labels import PAPER, with_legend, write_tags
from components.pose.skeleton import Skeleton

Colour = tuple[int, int, int]  # RGB

TRUTH, DARK = (255, 255, 255), (20, 20, 20)
LEFT, RIGHT, MIDDLE = (30, 140, 240), (250, 110, 40), (60, 180, 60)  # of the person
TURN_OF_HUE = 0.381966  # share of the circle between the colours of two persons: the golden angle, so that no hue repeats
TONES = ((0.55, 1.0), (0.95, 1.0), (0.8, 0.75))  # saturation and brightness in turn, so that near hues still differ
SUBPIXEL = 4  # bits of sub-pixel drawing
SHOWN_SIDE = 900  # px; smaller images are enlarged by a whole factor, so that the joints of far persons are apart
SHOWN_PERSON = 96  # px; where half of the persons are smaller, the image is enlarged further
LARGEST_SIDE = 2400  # px; pictures are not enlarged beyond this
PERSON_PER_LINE = 130  # px of a person's size per px of line width
THICKEST = 30  # px
DRAWN = 0.25  # score above which a joint is drawn, of codecs that let every joint count; half of those near it are no joints
UNSURE = 2.0  # a joint that scores less than this many times the threshold of drawing is drawn as unsure
APART = 0.45  # radius of a joint, at most, in distances to its nearest neighbour
SMALLEST_JOINT = 1.5  # radius, px of the picture
DASH = 3  # length of a dash and of a gap, in line widths


def colour_of(rank: int) -> Colour:
    """RGB of the person of this rank (0: the best); neighbours in rank are far apart on the circle of hues."""
    saturation, brightness = TONES[rank % len(TONES)]
    red, green, blue = colorsys.hsv_to_rgb(0.58 + rank * TURN_OF_HUE, saturation, brightness)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_joints(
    picture: np.ndarray,
    points: np.ndarray,
    visible: np.ndarray,
    skeleton: Skeleton,
    colour: Colour | None = None,
    thickness: int = 2,
    rim: bool = True,
    sure: np.ndarray | None = None,
    radii: np.ndarray | None = None,
) -> None:
    """Draw one person onto a picture (H, W, 3) uint8 RGB: the `visible` (K,) ones of `points` (K, 2), px of the picture.

    Args:
        colour: of all limbs; None: the person's left and right have different colours.
        thickness: of the limbs, px.
        rim: draw a dark line around them, so that they are visible on any picture.
        sure: (K,) bool; the other joints are hollow and their limbs dashed. None: all are.
        radii: (K,) of the joints, px, without the dark line. None: by the thickness.
    """
    import cv2

    sure = np.ones(len(points), bool) if sure is None else sure
    radii = _wanted_radii(sure, thickness) if radii is None else radii
    places = np.clip(points, -1e4, 1e4)
    fixed = np.round(places * (1 << SUBPIXEL)).astype(int)
    options: dict[str, Any] = {"lineType": cv2.LINE_AA, "shift": SUBPIXEL}
    paint = lambda a, b: colour or _side_colour(skeleton, a, b)  # noqa: E731
    for dark in (True, False) if rim else (False,):
        for a, b in skeleton.limb_indices:
            if visible[a] and visible[b]:
                ends = places[[a, b]][None] if sure[a] and sure[b] else dashes(places[a], places[b], thickness)
                for start, end in np.round(ends * (1 << SUBPIXEL)).astype(int).tolist():
                    cv2.line(picture, start, end, DARK if dark else paint(a, b), thickness + 2 * dark, **options)
        for k in np.flatnonzero(visible).tolist():
            radius = radii[k] + dark
            cv2.circle(picture, fixed[k].tolist(), round(radius * (1 << SUBPIXEL)), DARK if dark else paint(k, k), -1, **options)
            if not sure[k] and not dark:  # hollow, whatever the limbs' ends have painted
                hole = radius - min(max(1.0, 0.6 * thickness), 0.4 * radius)
                cv2.circle(picture, fixed[k].tolist(), round(hole * (1 << SUBPIXEL)), TRUTH, -1, **options)


def _wanted_radii(sure: np.ndarray, thickness: int) -> np.ndarray:
    """(K,) px; hollow joints are larger, so that the hole is seen."""
    return np.where(sure, thickness + 1.0, thickness + 1.0 + thickness // 2)


def radii_apart(points: np.ndarray, visible: np.ndarray, sure: np.ndarray, thickness: int) -> np.ndarray:
    """(K,) px, radii of one person's joints that do not hide each other, such as those of a face.

    Args:
        points: (K, 2) px of the picture.
        visible: (K,) bool, the joints that are drawn.
        sure, thickness: see `draw_joints`.
    """
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
    apart[~visible] = apart[:, ~visible] = np.inf
    np.fill_diagonal(apart, np.inf)
    return np.maximum(np.minimum(_wanted_radii(sure, thickness), APART * apart.min(1)), SMALLEST_JOINT)


def dashes(start: np.ndarray, end: np.ndarray, thickness: int) -> np.ndarray:
    """(n, 2, 2) ends of the dashes of a line between two points (2,), px: at least two, at both ends of the line one."""
    length = float(np.linalg.norm(end - start))
    count = max(2, round(length / (DASH * thickness) / 2 + 0.5))
    along = start + np.linspace(0, 1, 2 * count)[:, None] * (end - start)
    return np.stack([along[0::2], along[1::2]], 1)


def _side_colour(skeleton: Skeleton, a: int, b: int) -> Colour:
    sides = {skeleton.keypoint_names[k].split("_")[0] for k in (a, b)}
    if "left" in sides and "right" not in sides:
        return LEFT
    return RIGHT if "right" in sides and "left" not in sides else MIDDLE


def line_width(points: np.ndarray, thickest: int = THICKEST) -> int:
    """Width of a person's lines, px of the picture, thin enough that a far person stays visible.

    Args:
        points: (N, 2) the joints to draw.
    """
    return int(np.clip(np.ptp(points, axis=0).max() / PERSON_PER_LINE, 1, thickest)) if len(points) else 1


def enlarged(image: np.ndarray, keypoints: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H', W', 3) uint8, the image enlarged smoothly by a whole factor, and the joints (N, K, 2) in its px."""
    import cv2

    longer = max(image.shape[:2])
    extents = [np.ptp(joints[drawn], axis=0).max() for joints, drawn in zip(keypoints, found, strict=True) if drawn.any()]
    for_persons = math.ceil(SHOWN_PERSON / max(np.median(extents), 1.0)) if extents else 1
    factor = max(math.ceil(SHOWN_SIDE / longer), min(for_persons, LARGEST_SIDE // longer))
    picture = image.copy() if factor == 1 else cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    return picture, (keypoints + 0.5) * factor - 0.5


def picture_of_sides(
    image: np.ndarray,
    keypoints: np.ndarray,
    found: np.ndarray,
    skeleton: Skeleton,
    scores: np.ndarray | None = None,
    sure: np.ndarray | None = None,
) -> np.ndarray:
    """The image (H, W, 3) RGB, enlarged, with each person's left in blue and right in orange, and a legend below it.

    Args:
        keypoints: (N, K, 2) px of the image.
        found: (N, K) bool, the joints to draw.
        scores: (N,) written next to each person, with the person's number, the best is 1; None: neither is written.
        sure: (N, K) bool; the other joints are hollow and their limbs dashed. None: all are.
    """
    picture, points = enlarged(image, keypoints, found)
    sure = np.ones_like(found) if sure is None else sure
    order = list(range(len(points))) if scores is None else [row for _, row in _weakest_first(scores)]
    _draw_sides(picture, points, found, sure, order, skeleton)
    if scores is not None:
        names = {row: f"{rank + 1}: {scores[row]:.2f}" for rank, row in _weakest_first(scores)[::-1]}
        write_tags(picture, [points[row][found[row]] for row in names], list(names.values()), [PAPER] * len(names))
    if not found.any():
        return picture
    return with_legend(picture, [("left", LEFT), ("right", RIGHT), ("middle", MIDDLE)], hollow="unsure" if (found & ~sure).any() else None)


def frame_of_sides(
    image: np.ndarray, keypoints: np.ndarray, found: np.ndarray, skeleton: Skeleton, sure: np.ndarray | None = None
) -> np.ndarray:
    """A video's frame (H, W, 3) RGB at its own size, each person's left in blue and right in orange; see `picture_of_sides`."""
    picture = np.ascontiguousarray(image).copy()
    _draw_sides(picture, keypoints, found, np.ones_like(found) if sure is None else sure, list(range(len(keypoints))), skeleton)
    return picture


def _draw_sides(picture: np.ndarray, points: np.ndarray, found: np.ndarray, sure: np.ndarray, order: list[int], skeleton: Skeleton) -> None:
    for row in order:
        width = line_width(points[row][found[row]])
        radii = radii_apart(points[row], found[row], sure[row], width)
        draw_joints(picture, points[row], found[row], skeleton, thickness=width, sure=sure[row], radii=radii)


def picture_of_persons(
    image: np.ndarray,
    keypoints: np.ndarray,
    found: np.ndarray,
    scores: np.ndarray,
    skeleton: Skeleton,
    sure: np.ndarray | None = None,
) -> np.ndarray:
    """The image (H, W, 3) RGB, enlarged, with each person in its own colour and its score (N,) next to it, the best on top.

    Args:
        keypoints: (N, K, 2) px of the image.
        found: (N, K) bool, the joints to draw.
        sure: (N, K) bool; the other joints are hollow and their limbs dashed. None: all are.
    """
    picture, points = enlarged(image, keypoints, found)
    sure = np.ones_like(found) if sure is None else sure
    order = _weakest_first(scores)
    for rank, row in order:
        width = line_width(points[row][found[row]])
        radii = radii_apart(points[row], found[row], sure[row], width)
        draw_joints(picture, points[row], found[row], skeleton, colour_of(rank), width, sure=sure[row], radii=radii)
    drawn = [points[row][found[row]] for _, row in order[::-1]]  # tags above all limbs
    write_tags(picture, drawn, [f"{scores[row]:.2f}" for _, row in order[::-1]], [colour_of(rank) for rank, _ in order[::-1]])
    return picture


def _weakest_first(scores: np.ndarray) -> list[tuple[int, int]]:
    """(rank, row) of every person; rank 0 is the best."""
    return [(len(scores) - 1 - place, int(row)) for place, row in enumerate(np.argsort(scores, kind="stable"))]


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB, whole or not at all."""
    import cv2

    done, content = cv2.imencode(".png", picture[..., ::-1])
    if not done:
        raise FarposeError("the drawing cannot be encoded", where=path)
    with atomic_file(path) as temporary:
        temporary.write_bytes(content.tobytes())
