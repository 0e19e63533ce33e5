"""Words on pictures: tags beside persons, and a legend below."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Colour = tuple[int, int, int]  # RGB

INK, PAPER = (20, 20, 20), (255, 255, 255)
LETTER_PX, SIDE_PER_LETTER = 10, 110  # smallest height of a digit, px; px of the picture's longer side per px of that height
SMALLEST, PERSON_PER_LETTER = 8, 8  # height of a digit among small persons, px, at least; and the median person's in such heights
MOST_COVERED = 0.3  # share of a tag that may lie on persons and other tags
PAD = 0.35  # around a tag's text, in letters
HEAD = 0.1  # how far a head goes on above its topmost joint, in heights of the person
NEAR = 0.02  # what a place less good than the one above the head counts for, in areas of the tag


def letter_px(picture: np.ndarray) -> int:
    """Height of a digit on a picture (H, W, 3), px."""
    return max(LETTER_PX, max(picture.shape[:2]) // SIDE_PER_LETTER)


def write_tags(picture: np.ndarray, persons: Sequence[np.ndarray], texts: Sequence[str], colours: Sequence[Colour]) -> None:
    """Write one text beside each person, on the picture (H, W, 3) uint8 RGB, where it covers persons and other tags least.

    In a crowd the texts are smaller, and one that would cover too much of others is left out: the first ones come first.

    Args:
        persons: per person the joints (n, 2) that are drawn, px of the picture; a person without any has no tag.
        texts: per person.
        colours: of the texts, on a dark ground.
    """
    taken = [_extent(joints) for joints in persons if len(joints)]
    letter = letter_px(picture)
    if taken:
        letter = int(np.clip(np.median(np.ptp(np.array(taken).reshape(-1, 2, 2), axis=1).max(1)) / PERSON_PER_LETTER, SMALLEST, letter))
    for joints, text, colour in zip(persons, texts, colours, strict=True):
        if not len(joints):
            continue
        size = np.array(_size(text, letter)) + round(2 * PAD * letter)
        places = [_inside(place, picture.shape) for place in _places(_extent(joints), size, letter)]
        covered = [_common(place, taken) / size.prod() + NEAR * rank for rank, place in enumerate(places)]
        if min(covered) > MOST_COVERED:
            continue
        place = places[int(np.argmin(covered))]
        taken.append(place)
        left, top, right, bottom = place.round().astype(int).tolist()
        ground = picture[top:bottom, left:right]
        ground[:] = (0.25 * ground + 0.75 * np.array(INK)).astype(np.uint8)
        _write(picture, text, (left + round(PAD * letter), bottom - round(PAD * letter)), letter, colour)


def with_legend(picture: np.ndarray, colours: Sequence[tuple[str, Colour]], hollow: str | None = None) -> np.ndarray:
    """The picture (H, W, 3) uint8 RGB and below it a strip that says what each colour is, and what a hollow joint is."""
    import cv2

    letter = letter_px(picture)
    height = 3 * letter
    strip = np.full((height, picture.shape[1], 3), PAPER, np.uint8)
    left, middle = letter, height // 2
    for text, colour in [*colours, *([(hollow, INK)] if hollow else [])]:
        filled = text != hollow
        stroke = -1 if filled else max(1, letter // 5)
        cv2.circle(strip, (left + letter // 2, middle), letter // 2, colour, stroke, cv2.LINE_AA)
        _write(strip, text, (left + round(1.5 * letter), middle + letter // 2), letter, INK)
        left += _size(text, letter)[0] + 3 * letter
    return np.concatenate([picture, strip])


def _extent(joints: np.ndarray) -> np.ndarray:
    return np.concatenate([joints.min(0), joints.max(0)])


def _places(person: np.ndarray, size: np.ndarray, letter: int) -> list[np.ndarray]:
    """Left, top, right, bottom of a tag: above the person, below, at both sides of the head and of the feet; the best first."""
    left, top, right, bottom = person
    gap = letter  # joints have a radius
    head = gap + HEAD * (bottom - top)
    middle = (left + right - size[0]) / 2
    corners = [(middle, top - head - size[1]), (middle, bottom + gap), (right + gap, top), (left - gap - size[0], top)]
    corners += [(right + gap, bottom - size[1]), (left - gap - size[0], bottom - size[1])]
    corners += [(middle, top - head - 2.2 * size[1]), (middle, bottom + gap + 1.2 * size[1])]  # beyond another tag
    return [np.array([x, y, x + size[0], y + size[1]]) for x, y in corners]


def _inside(place: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Moved into the picture; one that is larger than it begins at its left or top."""
    place = place - np.tile(np.clip(place[2:] - shape[1::-1], 0, None), 2)
    return place - np.tile(np.clip(place[:2], None, 0), 2)


def _common(place: np.ndarray, taken: list[np.ndarray]) -> float:
    """Area of a tag on persons and other tags, px²."""
    others = np.array(taken)
    return float(np.clip(np.minimum(place[2:], others[:, 2:]) - np.maximum(place[:2], others[:, :2]), 0, None).prod(1).sum())


def _font(letter: int) -> tuple[int, float, int]:
    """OpenCV's font, scale and stroke of digits of this height."""
    import cv2

    stroke = max(1, letter // LETTER_PX)
    return cv2.FONT_HERSHEY_SIMPLEX, cv2.getFontScaleFromHeight(cv2.FONT_HERSHEY_SIMPLEX, letter, stroke), stroke


def _size(text: str, letter: int) -> tuple[int, int]:
    """Width and height of a text, px."""
    import cv2

    (width, height), _ = cv2.getTextSize(text, *_font(letter))
    return width, height


def _write(picture: np.ndarray, text: str, place: tuple[int, int], letter: int, colour: Colour) -> None:
    """Write a text whose left end and base line are at `place`, px."""
    import cv2

    font, scale, stroke = _font(letter)
    cv2.putText(picture, text, place, font, scale, colour, stroke, cv2.LINE_AA)
