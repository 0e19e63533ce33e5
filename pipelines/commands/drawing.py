"""Predicted persons drawn on users' images."""

from __future__ import annotations

import colorsys
import math
from pathlib import Path

import numpy as np

from components.base.errors import FarposeError
from components.base.files import atomic_file
from components.evaluate.gallery import SUBPIXEL, draw_joints
from components.pose.skeleton import Skeleton

SHOWN_SIDE = 900  # px; smaller images are enlarged by a whole factor, so that joints of far persons can be told apart
SHOWN_PERSON = 96  # px; where half of the persons are smaller, the image is enlarged further,
LARGEST_SIDE = 2400  # px, as far as the picture stays below this
PERSON_PER_LINE = 110  # px of the picture that a person measures for each px of a line's width
THICKEST = 30  # px
TURN_OF_HUE = 0.381966  # of the circle between a person's colour and the next one's: the golden angle, which never returns
TONES = ((0.55, 1.0), (0.95, 1.0), (0.8, 0.75))  # saturation and brightness in turn, so that near hues still differ
DARK, LIGHT = (20, 20, 20), (255, 255, 255)
BRIGHTNESS = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)
LETTER_PX, SIDE_PER_LETTER = 10, 110  # height of the scores' digits: at least, and px of the picture's longer side for each px of it


def enlarged(image: np.ndarray, keypoints: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H', W', 3) uint8, the image enlarged by a whole factor without smoothing, and the joints (N, K, 2) in px of it."""
    longer = max(image.shape[:2])
    extents = [np.ptp(joints[drawn], axis=0).max() for joints, drawn in zip(keypoints, found, strict=True) if drawn.any()]
    for_persons = math.ceil(SHOWN_PERSON / max(np.median(extents), 1.0)) if extents else 1
    factor = max(math.ceil(SHOWN_SIDE / longer), min(for_persons, LARGEST_SIDE // longer))
    return np.ascontiguousarray(image.repeat(factor, 0).repeat(factor, 1)), (keypoints + 0.5) * factor - 0.5


def draw_sides(image: np.ndarray, keypoints: np.ndarray, found: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """The image (H, W, 3) RGB, enlarged, with each person's left in blue and right in orange.

    Args:
        keypoints: (N, K, 2) px of the image.
        found: (N, K) bool, the joints to draw.
    """
    picture, points = enlarged(image, keypoints, found)
    for joints, drawn in zip(points, found, strict=True):
        draw_joints(picture, joints, drawn, skeleton)
    return picture


def draw_persons(image: np.ndarray, keypoints: np.ndarray, found: np.ndarray, scores: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """The image (H, W, 3) RGB, enlarged, with each person in a colour of its own and its score beside it; the best lie on top.

    Args:
        keypoints: (N, K, 2) px of the image.
        found: (N, K) bool, the joints to draw.
        scores: (N,).
    """
    picture, points = enlarged(image, keypoints, found)
    weakest_first = np.argsort(scores, kind="stable")
    for rank, person in enumerate(weakest_first):
        _draw_person(picture, points[person], found[person], skeleton, colour_of(len(scores) - 1 - rank))
    for rank, person in enumerate(weakest_first):  # above all limbs
        if found[person].any():
            _write_score(picture, points[person][found[person]], scores[person], colour_of(len(scores) - 1 - rank))
    return picture


def colour_of(rank: int) -> tuple[int, int, int]:
    """RGB of the person of this rank (0: the best); neighbours in rank are far apart on the circle of hues."""
    saturation, brightness = TONES[rank % len(TONES)]
    red, green, blue = colorsys.hsv_to_rgb(0.58 + rank * TURN_OF_HUE, saturation, brightness)
    return round(255 * red), round(255 * green), round(255 * blue)


def _draw_person(picture: np.ndarray, points: np.ndarray, found: np.ndarray, skeleton: Skeleton, colour: tuple[int, int, int]) -> None:
    """Limbs and joints, as wide as the person's size in the picture asks for: a far person must stay visible under them."""
    import cv2

    if not found.any():
        return
    fixed = np.round(np.clip(points, -1e4, 1e4) * (1 << SUBPIXEL)).astype(int)
    width = int(np.clip(np.ptp(points[found], axis=0).max() / PERSON_PER_LINE, 1, THICKEST))
    for rim in (2, 0):  # a dark rim first, so that lines stand out on any picture
        for a, b in skeleton.limb_indices:
            if found[a] and found[b]:
                ends = fixed[a].tolist(), fixed[b].tolist()
                cv2.line(picture, *ends, DARK if rim else colour, width + rim, cv2.LINE_AA, SUBPIXEL)
        for k in np.flatnonzero(found).tolist():
            radius = ((width + 1 + rim // 2) << SUBPIXEL) - (1 << SUBPIXEL - 1)
            cv2.circle(picture, fixed[k].tolist(), radius, DARK if rim else colour, -1, cv2.LINE_AA, SUBPIXEL)


def _write_score(picture: np.ndarray, points: np.ndarray, score: float, colour: tuple[int, int, int]) -> None:
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
    cv2.putText(picture, text, (x, y), font, scale, DARK if bright else LIGHT, stroke, cv2.LINE_AA)


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB, whole or not at all."""
    import cv2

    done, content = cv2.imencode(".png", picture[..., ::-1])
    if not done:
        raise FarposeError("the drawing cannot be encoded", where=path)
    with atomic_file(path) as temporary:
        temporary.write_bytes(content.tobytes())
