"""Degradation protocols: area means are true, crops do not move the person, noise is repeatable and as strong as stated."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from components.degrade.area import area_mean
from components.degrade.params import DegradeParams, ShardSpec
from components.degrade.protocol import View
from components.degrade.protocol import protocol as protocol_of
from components.degrade.shard import eval_input
from components.pose.crop import transform
from tests.degrade_cases import SIZE, each_convention, each_protocol
from tests.tiny_people import texture

# ---------------------------------------------------------------- area reduction


@pytest.mark.parametrize("factor", [1, 2, 3, 5, 8])
def test_area_mean_is_the_box_average_for_whole_factors(factor):
    image = texture(16 * factor, 12 * factor, np.random.default_rng(factor))
    start = (factor - 1) / 2
    expected = image.reshape(16, factor, 12, factor, 3).astype(float).mean((1, 3))
    np.testing.assert_allclose(area_mean(image, (start, start), (factor, factor), (16, 12)), expected, atol=1e-9)


def box_average_oracle(image, start, step, size):
    """The same mean by weighing every source pixel with the length that it shares with the footprint."""
    weights = []
    for axis in (1, 0):  # rows, then columns; start and step are (x, y)
        half, length = max(step[axis], 1) / 2, image.shape[1 - axis]
        matrix = np.zeros((size[1 - axis], length))
        for i in range(size[1 - axis]):
            middle = start[axis] + step[axis] * i
            for j in range(length):
                matrix[i, j] = max(min(middle + half, j + 0.5) - max(middle - half, j - 0.5), 0) / (2 * half)
        weights.append(matrix)
    return np.einsum("iy,yxc,jx->ijc", weights[0], image.astype(float), weights[1])


@pytest.mark.parametrize("step", [(2.5, 2.5), (7.3, 4.1), (0.4, 0.7), (1.0, 1.0)])
@pytest.mark.parametrize("start", [(0.0, 0.0), (-6.2, 3.7), (20.5, -9.9)])
def test_area_mean_is_true_for_any_step_and_black_outside(start, step):
    image = texture(30, 40, np.random.default_rng(1))
    np.testing.assert_allclose(area_mean(image, start, step, (9, 11)), box_average_oracle(image, start, step, (9, 11)), atol=1e-9)


def test_area_mean_of_a_place_beside_the_image_is_black():
    assert not area_mean(texture(20, 20, np.random.default_rng(1)), (500.0, 3.0), (2.0, 2.0), (8, 6)).any()


# ---------------------------------------------------------------- protocols


@each_convention
def test_antialias_averages_around_the_places_that_direct_samples(people, convention):
    """On an image that is linear in x and y both protocols see the same values, so joints stay where they are."""
    y, x = np.mgrid[0:200, 0:200]
    image = np.stack([x, y, (x + y) / 2], 2).round().astype(np.uint8)
    spec, crops = ShardSpec(SIZE), []
    matrix = spec.geometry(convention).image_to_crop(np.array([[100.0, 100.0]]), np.array([[90.0, 120.0]]))[0]
    for protocol in ("direct", "antialias"):
        crops.append(eval_input(image, View(matrix, SIZE, convention), protocol, DegradeParams(), (1, 1)).astype(int))
    assert np.abs(crops[0] - crops[1]).max() <= 1


@each_protocol
@each_convention
def test_crops_do_not_move_the_person(convention, protocol):
    """A blob's centre of mass lies where the geometry puts it, in every protocol."""
    y, x = np.mgrid[0:240, 0:240]
    place = np.array([[[131.3, 118.6]]])
    image = np.repeat(220 * np.exp(-((x - 131.3) ** 2 + (y - 118.6) ** 2) / (2 * 14**2))[..., None], 3, 2).astype(np.uint8)
    spec = ShardSpec(SIZE, protocol)
    matrix = spec.geometry(convention).image_to_crop(np.array([[128.0, 120.0]]), np.array([[120.0, 160.0]]))
    params = DegradeParams(protocols={"sensor": {"read_noise": 0.0, "shot_noise": 0.0, "jpeg_quality": 100}})
    crop = eval_input(image, View(matrix[0], SIZE, convention), protocol, params, (1, 1))[0].astype(float)
    rows, columns = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
    found = [(columns * crop).sum() / crop.sum(), (rows * crop).sum() / crop.sum()]
    np.testing.assert_allclose(found, transform(matrix, place)[0, 0], atol=0.08)


def sensor(image, start, step, size, identity=(0, 1, 2), **settings):
    """(h, w, 3) BGR of protocol `sensor`; start and step (x, y) in image px."""
    matrix = np.array([[1 / step, 0, -start / step], [0, 1 / step, -start / step]])
    how = protocol_of("sensor")
    return how.crop(image, View(matrix, size), how.settings(**settings), identity)


def test_sensor_without_faults_is_the_area_mean_up_to_jpeg():
    image = cv2.GaussianBlur(texture(128, 96, np.random.default_rng(2)), (0, 0), 4)
    seen = sensor(image, 1.5, 4, SIZE, psf_sigma=0.0, shot_noise=0.0, read_noise=0.0, jpeg_quality=100)
    luma = (seen - area_mean(image, (1.5, 1.5), (4, 4), SIZE)) @ [0.114, 0.587, 0.299]  # JPEG halves the colours' resolution
    assert np.abs(luma).max() < 2


@pytest.mark.parametrize("step", [0.8, 1.5, 4.0])
def test_the_point_spread_has_the_stated_width(step):
    """An edge becomes as wide as point spread, image px and target px together (variances), however coarse the image's px are."""
    image = np.zeros((160, 160, 3), np.uint8)
    image[:, 80:] = 200
    seen = sensor(image, 4.3, step, (16, int(150 / step)), psf_sigma=1.2, shot_noise=0.0, read_noise=0.0, jpeg_quality=100)
    edge = round((79.5 - 4.3) / step)
    profile = np.diff(seen[8, :, 1].astype(float))[edge - 7 : edge + 7]
    x = np.arange(len(profile))
    variance = (profile * x**2).sum() / profile.sum() - ((profile * x).sum() / profile.sum()) ** 2
    image_px = 1 / (12 * step**2)
    assert variance == pytest.approx(1.2**2 + image_px + max(image_px, 1 / 12), rel=0.07)


@pytest.mark.parametrize("level", [40, 130, 220])
def test_sensor_noise_has_the_stated_deviation(level):
    image = np.full((400, 400, 3), level, np.uint8)
    seen = sensor(image, 1.0, 2, (190, 190), psf_sigma=0.7, shot_noise=9.0, read_noise=4.0, jpeg_quality=100).astype(float)
    luma = seen @ [0.114, 0.587, 0.299]
    stated = np.sqrt(9.0**2 * level / 255 + 4.0**2) * np.sqrt(0.114**2 + 0.587**2 + 0.299**2)
    assert luma.mean() == pytest.approx(level, abs=0.3)
    assert luma.std() == pytest.approx(stated, rel=0.06)


def test_sensor_noise_depends_on_seed_and_identity_alone():
    image = texture(100, 100, np.random.default_rng(3))

    def see(*identity):
        return sensor(image, 0.0, 3, SIZE, identity)

    assert np.array_equal(see(0, 1, 2), see(0, 1, 2))
    assert not np.array_equal(see(0, 1, 2), see(0, 2, 1)) and not np.array_equal(see(0, 1, 2), see(1, 1, 2))
