"""Skeletons painted on pictures: one palette and one brush for galleries, overviews and `farpose predict`."""

from __future__ import annotations

import colorsys
import math
from pathlib import Path
from typing import Any

import numpy as np

from components.base.errors import FarposeError
from components.base.files import atomic_file
from components.pose.skeleton import Skeleton

Colour = tuple[int, int, int]  # RGB

TRUTH, DARK = (255, 255, 255), (20, 20, 20)
LEFT, RIGHT, MIDDLE = (30, 140, 240), (250, 110, 40), (60, 180, 60)  # of the person
TURN_OF_HUE = 0.381966  # share of the circle between the colours of two persons: the golden angle, so that no hue repeats
TONES = ((0.55, 1.0), (0.95, 1.0), (0.8, 0.75))  # saturation and brightness in turn, so that near hues still differ
BRIGHTNESS = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)
SUBPIXEL = 4  # bits of sub-pixel drawing
SHOWN_SIDE = 900  # px; smaller images are enlarged by a whole factor, so that the joints of far persons are apart
SHOWN_PERSON = 96  # px; where half of the persons are smaller, the image is enlarged further
LARGEST_SIDE = 2400  # px; pictures are not enlarged beyond this
PERSON_PER_LINE = 130  # px of a person's size per px of line width
THICKEST = 30  # px
LETTER_PX, SIDE_PER_LETTER = 10, 110  # smallest height of the scores' digits, px; px of the picture's longer side per px of that height


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
) -> None:
    """Draw one person onto a picture (H, W, 3) uint8 RGB: the `visible` (K,) ones of `points` (K, 2), px of the picture.

    Args:
        colour: of all limbs; None: the person's left and right have different colours.
        thickness: of the limbs, px.
        rim: draw a dark line around them, so that they are visible on any picture.
    """
    import cv2

    fixed = np.round(np.clip(points, -1e4, 1e4) * (1 << SUBPIXEL)).astype(int)
    options: dict[str, Any] = {"lineType": cv2.LINE_AA, "shift": SUBPIXEL}
    paint = lambda a, b: colour or _side_colour(skeleton, a, b)  # noqa: E731
    for dark in (True, False) if rim else (False,):
        for a, b in skeleton.limb_indices:
            if visible[a] and visible[b]:
                cv2.line(picture, fixed[a].tolist(), fixed[b].tolist(), DARK if dark else paint(a, b), thickness + 2 * dark, **options)
        for k in np.flatnonzero(visible).tolist():
            cv2.circle(picture, fixed[k].tolist(), (thickness + 1 + dark) << SUBPIXEL, DARK if dark else paint(k, k), -1, **options)


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


def draw_persons(picture: np.ndarray, points: np.ndarray, found: np.ndarray, scores: np.ndarray, skeleton: Skeleton) -> None:
    """Draw persons (N, K, 2), px of the picture, onto (H, W, 3) RGB, each in its own colour, the best scores (N,) on top.

    Args:
        found: (N, K) bool, the joints to draw.
    """
    for rank, person in _weakest_first(scores):
        drawn = points[person], found[person]
        draw_joints(picture, *drawn, skeleton, colour=colour_of(rank), thickness=line_width(drawn[0][drawn[1]]))


def enlarged(image: np.ndarray, keypoints: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H', W', 3) uint8, the image enlarged by a whole factor without smoothing, and the joints (N, K, 2) in its px."""
    longer = max(image.shape[:2])
    extents = [np.ptp(joints[drawn], axis=0).max() for joints, drawn in zip(keypoints, found, strict=True) if drawn.any()]
    for_persons = math.ceil(SHOWN_PERSON / max(np.median(extents), 1.0)) if extents else 1
    factor = max(math.ceil(SHOWN_SIDE / longer), min(for_persons, LARGEST_SIDE // longer))
    return np.ascontiguousarray(image.repeat(factor, 0).repeat(factor, 1)), (keypoints + 0.5) * factor - 0.5


def picture_of_sides(image: np.ndarray, keypoints: np.ndarray, found: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """The image (H, W, 3) RGB, enlarged, with each person's left in blue and right in orange.

    Args:
        keypoints: (N, K, 2) px of the image.
        found: (N, K) bool, the joints to draw.
    """
    picture, points = enlarged(image, keypoints, found)
    for joints, drawn in zip(points, found, strict=True):
        draw_joints(picture, joints, drawn, skeleton)
    return picture


def picture_of_persons(image: np.ndarray, keypoints: np.ndarray, found: np.ndarray, scores: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """The image (H, W, 3) RGB, enlarged, with each person in its own colour and its score (N,) next to it.

    Args:
        keypoints: (N, K, 2) px of the image.
        found: (N, K) bool, the joints to draw.
    """
    picture, points = enlarged(image, keypoints, found)
    draw_persons(picture, points, found, scores, skeleton)
    for rank, person in _weakest_first(scores):  # above all limbs
        if found[person].any():
            _write_score(picture, points[person][found[person]], scores[person], colour_of(rank))
    return picture


def _weakest_first(scores: np.ndarray) -> list[tuple[int, int]]:
    """(rank, row) of every person; rank 0 is the best."""
    return [(len(scores) - 1 - place, int(row)) for place, row in enumerate(np.argsort(scores, kind="stable"))]


def _write_score(picture: np.ndarray, points: np.ndarray, score: float, colour: Colour) -> None:
    """The score above the person's topmost joint, or inside the picture where there is no room above."""
    import cv2

    text, font = f"{score:.2f}", cv2.FONT_HERSHEY_SIMPLEX
    letter = max(LETTER_PX, max(picture.shape) // SIDE_PER_LETTER)
    stroke = max(1, letter // LETTER_PX)
    scale = cv2.getFontScaleFromHeight(font, letter, stroke)
    (width, height), _ = cv2.getTextSize(text, font, scale, stroke)
    top = points[points[:, 1].argmin()]
    x = int(np.clip(top[0] - width / 2, 2, max(picture.shape[1] - width - 3, 2)))
    y = int(np.clip(top[1] - 8, height + 3, max(picture.shape[0] - 3, height + 3)))
    cv2.rectangle(picture, (x - 2, y - height - 2), (x + width + 1, y + 2), colour, -1)
    bright = np.dot(colour, BRIGHTNESS) > 115
    cv2.putText(picture, text, (x, y), font, scale, DARK if bright else TRUTH, stroke, cv2.LINE_AA)


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB, whole or not at all."""
    import cv2

    done, content = cv2.imencode(".png", picture[..., ::-1])
    if not done:
        raise FarposeError("the drawing cannot be encoded", where=path)
    with atomic_file(path) as temporary:
        temporary.write_bytes(content.tobytes())
