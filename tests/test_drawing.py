"""Persons on pictures: what is drawn of them, and words that do not cover them."""

from __future__ import annotations

import numpy as np
import pytest

from components.pose import draw, labels
from components.pose.sheet import CELL, Sheet
from components.pose.skeleton import COCO_17
from tests.tiny_shard import STANDING

GREY = 90


def test_forty_persons_have_forty_colours_that_can_be_told_apart():
    colours = np.array([draw.colour_of(rank) for rank in range(40)], float)
    apart = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + 1e3 * np.eye(40)
    assert apart.min() > 12 and np.diagonal(apart, 1).min() > 90  # any two, and neighbours in rank
    assert (colours.max(1) > 180).all()


def test_only_the_joints_that_were_found_are_drawn():
    image = np.full((400, 1000, 3), 90, np.uint8)
    persons = np.stack([STANDING * 300 + place for place in ([200, 40], [700, 40])])
    found = np.zeros((2, 17), bool)
    found[0] = True
    picture = draw.picture_of_persons(image, persons, found, np.array([0.4, 0.9]), COCO_17)
    assert picture.shape == image.shape and (picture[:, 500:] == 90).all()
    assert (picture[:, :500] == draw.colour_of(1)).all(-1).any()  # the second best


@pytest.mark.parametrize(
    ("size", "person", "side"), [((300, 200), 250, 900), ((600, 800), 20, 2400), ((1500, 2000), 20, 2000), ((5, 5), 4, 900)]
)
def test_pictures_are_large_enough_for_far_persons(size, person, side):
    picture, points = draw.enlarged(np.zeros((*size, 3), np.uint8), STANDING[None] * person, np.ones((1, 17), bool))
    factor = picture.shape[0] // size[0]
    assert max(picture.shape) == side and picture.shape[:2] == (size[0] * factor, size[1] * factor)
    np.testing.assert_allclose((points + 0.5) / factor, STANDING[None] * person + 0.5)  # pixel centres meet


def canvas(height: int = 400, width: int = 500) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def test_unsure_joints_are_hollow_and_their_limbs_dashed():
    points, seen = STANDING * 300 + (150, 40), np.ones(17, bool)
    sure = np.ones(17, bool)
    wrist, elbow = COCO_17.index("left_wrist"), COCO_17.index("left_elbow")
    sure[wrist] = False
    solid, dashed = canvas(), canvas()
    draw.draw_joints(solid, points, seen, COCO_17, thickness=4)
    draw.draw_joints(dashed, points, seen, COCO_17, thickness=4, sure=sure)
    x, y = points[wrist].round().astype(int)
    assert (solid[y, x] == draw.LEFT).all() and (dashed[y, x] != draw.LEFT).any()
    along = points[elbow] + np.linspace(0.15, 0.8, 60)[:, None] * (points[wrist] - points[elbow])
    columns, rows = along.round().astype(int).T
    blue = [(picture[rows, columns] == draw.LEFT).all(-1).mean() for picture in (solid, dashed)]
    assert blue[0] == 1 and 0.2 < blue[1] < 0.8


@pytest.mark.parametrize("length", [0.0, 1.0, 7.0, 300.0])
def test_dashes_begin_and_end_with_the_line(length):
    start, end = np.array([3.0, 4.0]), np.array([3.0 + length, 4.0])
    found = draw.dashes(start, end, 3)
    assert len(found) >= 2
    np.testing.assert_allclose([found[0, 0], found[-1, 1]], [start, end])
    lengths = np.linalg.norm(found[:, 1] - found[:, 0], axis=1)
    assert np.ptp(lengths) < 1e-9 and lengths.sum() == pytest.approx(length * len(found) / (2 * len(found) - 1))


@pytest.mark.parametrize("tall", [40, 150, 900])
def test_the_joints_of_a_face_do_not_hide_each_other(tall):
    points, seen = STANDING * tall, np.ones(17, bool)
    sure = np.arange(17) % 2 == 0
    width = draw.line_width(points)
    radii = draw.radii_apart(points, seen, sure, width)
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1) + 1e6 * np.eye(17)
    assert ((radii < apart.min(1) / 2) | (radii == draw.SMALLEST_JOINT)).all()
    alone = draw.radii_apart(points * 1e3, seen, sure, width)
    assert set(alone[sure]) == {width + 1.0} and (alone[~sure] >= alone[sure][0]).all()  # hollow ones are no smaller
    seen[1:] = False
    assert draw.radii_apart(points, seen, sure, width)[0] == width + 1.0  # joints that are not drawn hide nothing


def test_a_photograph_is_enlarged_smoothly():
    ramp = np.repeat(np.linspace(0, 250, 101).round().astype(np.uint8)[None, :, None], 60, 0).repeat(3, 2)
    picture, _ = draw.enlarged(ramp, np.zeros((0, 17, 2)), np.zeros((0, 17), bool))
    factor = picture.shape[1] // ramp.shape[1]
    assert factor == 9 and np.diff(picture[0, :, 0].astype(int)).max() <= 2  # not squares, whose edges are 2 or 3 levels high
    centres = picture[factor // 2 :: factor, factor // 2 :: factor].astype(int)
    assert np.abs(centres - ramp).max() <= 1  # a pixel's centre stays where it was


def test_sides_have_their_colours_and_a_legend_below_the_picture():
    image = np.full((900, 500, 3), GREY, np.uint8)
    persons, found = STANDING[None] * 600 + (100, 150), np.ones((1, 17), bool)
    picture = draw.picture_of_sides(image, persons, found, COCO_17, np.array([0.7]))
    assert picture.shape[1] == 500 and 900 < picture.shape[0] < 960
    for name, colour in (("left_knee", draw.LEFT), ("right_knee", draw.RIGHT), ("nose", draw.MIDDLE)):
        x, y = persons[0, COCO_17.index(name)].round().astype(int)
        assert (picture[y, x] == colour).all(), name
        assert (picture[900:] == colour).all(-1).any(), name
    nobody = draw.picture_of_sides(image, persons, ~found, COCO_17, np.array([0.7]))
    np.testing.assert_array_equal(nobody, image)


def test_lines_are_as_thick_as_persons_are_large():
    widths = [draw.line_width(STANDING * tall) for tall in (20, 300, 1500, 90_000)]
    assert widths == sorted(widths) and widths[0] == 1 and widths[2] > 3 and widths[3] == draw.THICKEST


@pytest.mark.parametrize("place", [(200, 100), (3, 3), (430, 5), (2, 290), (440, 290)])
def test_a_tag_covers_no_person_and_stays_in_the_picture(place):
    """A neighbour stands beside the person, and there is room elsewhere."""
    persons = [STANDING * 100 + place, STANDING * 100 + (place[0] - 60 if place[0] > 100 else place[0] + 60, place[1])]
    picture = canvas()
    labels.write_tags(picture, persons, ["1: 0.91", "2: 0.42"], [labels.PAPER] * 2)
    changed = (picture != GREY).any(-1)
    assert changed.sum() > 2 * 300  # both tags are there
    for joints in persons:
        left, top, right, bottom = (*joints.min(0), *joints.max(0))
        inside = changed[max(int(top), 0) : int(bottom), max(int(left), 0) : int(right)]
        assert inside.mean() < 0.02


@pytest.mark.parametrize("size", [(1, 1), (6, 400), (400, 6)])
def test_a_tag_on_a_picture_that_is_too_small_for_it_is_no_error(size):
    picture = np.full((*size, 3), GREY, np.uint8)
    labels.write_tags(picture, [np.array([[0.0, 0.0], [1.0, 1.0]]), np.zeros((0, 2))], ["1: 0.50", "2: 0.40"], [labels.PAPER] * 2)
    assert picture.shape == (*size, 3)


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (3, 2, 2), (30, 5, 6)])
def test_a_contact_sheet_shows_every_picture_whole(count, columns, rows):
    sheet = Sheet()
    for number in range(count):
        sheet.add(np.full((90, 40 + number, 3), (10, 20 + number, 30), np.uint8), "a name that is longer than a caption may be " * 3)
    page = sheet.page()
    assert page.shape[1] // CELL[1] == columns and page.shape[0] // CELL[0] == rows
    for number in range(count):
        assert (page == (10, 20 + number, 30)).all(-1).sum() >= CELL[0] * (CELL[0] * (40 + number) // 90 - 1)
