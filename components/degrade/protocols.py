"""The three degradation protocols: an image and an affine matrix in, a crop out.

Matrices are those of `CropGeometry.image_to_crop`, float64, image px (BGR, centre of the first pixel at 0) to crop px.
What lies outside the image is black in all of them.
"""

from __future__ import annotations

import cv2
import numpy as np

from components.degrade.params import DegradeParams, SensorParams, ShardSpec
from components.pose.crop import Convention, invert


def eval_crop(
    image: np.ndarray, image_to_crop: np.ndarray, spec: ShardSpec, convention: Convention, params: DegradeParams, ids: tuple[int, int]
) -> np.ndarray:
    """(H, W, 3) uint8 RGB: an upright crop exactly as it is evaluated.

    Args:
        image: (H, W, 3) uint8 BGR.
        image_to_crop: (2, 3) without rotation.
        ids: image and annotation id; with the seed they decide the sensor's noise, whatever the order of work.
    """
    if spec.protocol == "direct":
        crop = direct(image, image_to_crop, spec.input_size, convention)
    else:
        step, start = upright_grid(image_to_crop)
        if spec.protocol == "antialias":
            crop = to_uint8(area_mean(image, start, step, spec.input_size))
        else:
            crop = sensor(image, start, step, spec.input_size, params.sensor, noise_generator(params.seed, *ids))
    return crop[..., ::-1]


def direct(image: np.ndarray, image_to_crop: np.ndarray, size: tuple[int, int], convention: Convention) -> np.ndarray:
    """Bilinear samples of the original image at the target's pixels, aliased (the published low-resolution protocol).

    The unbiased convention's code hands OpenCV the inverse matrix in float32 (UDP, CAL); the others the forward matrix.
    """
    flags, matrix = cv2.INTER_LINEAR, image_to_crop
    if convention == "unbiased":
        flags, matrix = flags | cv2.WARP_INVERSE_MAP, invert(image_to_crop[None])[0].astype(np.float32)
    return cv2.warpAffine(image, matrix, (size[1], size[0]), flags=flags)


def upright_grid(image_to_crop: np.ndarray) -> tuple[tuple[float, float], tuple[float, float]]:
    """Step (x, y) between crop pixels and place (x, y) of the first one, image px, of a matrix without rotation."""
    step = 1 / image_to_crop[0, 0], 1 / image_to_crop[1, 1]
    return step, (-image_to_crop[0, 2] * step[0], -image_to_crop[1, 2] * step[1])


def area_mean(image: np.ndarray, start: tuple[float, float], step: tuple[float, float], size: tuple[int, int]) -> np.ndarray:
    """(h, w, C) float64 means of the image over the rectangles that the target's pixels cover, exact for any step.

    Pixel (i, j) covers max(step, 1) px around start + step * (j, i): where the target is denser than the image, the
    footprint stays one image pixel wide, which is linear interpolation.

    Args:
        image: (H, W, C) uint8.
        start: (x, y) of the first target pixel's centre, image px.
        step: (x, y) image px per target px.
        size: (h, w) of the target.
    """
    y0, y1 = _covered(start[1], step[1], size[0], image.shape[0])
    x0, x1 = _covered(start[0], step[0], size[1], image.shape[1])
    if y0 >= y1 or x0 >= x1:
        return np.zeros((*size, image.shape[2]))
    rows = _mean_along_rows(image[y0:y1, x0:x1], start[1] - y0, step[1], size[0])
    return _mean_along_rows(rows.swapaxes(0, 1), start[0] - x0, step[0], size[1]).swapaxes(0, 1)


def _covered(start: float, step: float, count: int, length: int) -> tuple[int, int]:
    """First and past-the-last image pixel under the target's pixels, along one axis."""
    half = max(step, 1.0) / 2
    return max(int(np.floor(start - half)), 0), min(int(np.ceil(start + step * (count - 1) + half)) + 1, length)


def _mean_along_rows(pixels: np.ndarray, start: float, step: float, count: int) -> np.ndarray:
    """Means over axis 0, by differences of the running sum: its value between pixel edges is linear."""
    total = np.zeros((len(pixels) + 1, *pixels.shape[1:]), np.int32 if pixels.dtype == np.uint8 else np.float64)
    np.cumsum(pixels, axis=0, out=total[1:], dtype=total.dtype)
    footprint = max(step, 1.0)
    first = start + step * np.arange(count) - footprint / 2 + 0.5  # in pixel edges: pixel i covers [i, i + 1]
    return (_running_sum_at(total, first + footprint) - _running_sum_at(total, first)) / footprint


def _running_sum_at(total: np.ndarray, edges: np.ndarray) -> np.ndarray:
    edges = np.clip(edges, 0, len(total) - 1)
    below = np.minimum(edges.astype(np.int64), len(total) - 2)
    part = (edges - below).reshape(-1, *[1] * (total.ndim - 1))
    return total[below] + part * (total[below + 1] - total[below])


def sensor(
    image: np.ndarray,
    start: tuple[float, float],
    step: tuple[float, float],
    size: tuple[int, int],
    camera: SensorParams,
    generator: np.random.Generator,
) -> np.ndarray:
    """(h, w, 3) uint8: Gaussian point spread, area reduction, shot and read noise (in encoded grey levels), JPEG.

    Noise is left out where the image has ended. Arguments as in `area_mean`.
    """
    blurred, corner = _blurred_window(image, start, step, size, camera.psf_sigma)
    clean = area_mean(blurred, (start[0] - corner[0], start[1] - corner[1]), step, size)
    spread = np.sqrt(camera.shot_noise**2 * clean / 255 + camera.read_noise**2)
    inside = np.outer(_inside(start[1], step[1], size[0], image.shape[0]), _inside(start[0], step[0], size[1], image.shape[1]))
    noisy = to_uint8(clean + generator.standard_normal(clean.shape) * spread * inside[..., None])
    _, encoded = cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, camera.jpeg_quality])
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))


def _blurred_window(
    image: np.ndarray, start: tuple[float, float], step: tuple[float, float], size: tuple[int, int], sigma: float
) -> tuple[np.ndarray, tuple[int, int]]:
    """The part of the image that the target sees, blurred by `sigma` target px, and its left and top in the image."""
    reach = [int(np.ceil(4 * sigma * s)) for s in step]
    x0, x1 = _covered(start[0], step[0], size[1], image.shape[1])
    y0, y1 = _covered(start[1], step[1], size[0], image.shape[0])
    x0, x1 = max(x0 - reach[0], 0), min(x1 + reach[0], image.shape[1])
    y0, y1 = max(y0 - reach[1], 0), min(y1 + reach[1], image.shape[0])
    window = image[y0:y1, x0:x1]
    if sigma == 0 or window.size == 0:
        return window, (x0, y0)
    blurred = cv2.GaussianBlur(window, (0, 0), sigmaX=sigma * step[0], sigmaY=sigma * step[1], borderType=cv2.BORDER_REPLICATE)
    return blurred, (x0, y0)


def _inside(start: float, step: float, count: int, length: int) -> np.ndarray:
    centres = start + step * np.arange(count)
    return (centres >= -0.5) & (centres <= length - 0.5)


def to_uint8(values: np.ndarray) -> np.ndarray:
    """Nearest grey level, clipped to 0..255."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def noise_generator(seed: int, image_id: int, annotation_id: int) -> np.random.Generator:
    """The noise of one crop, the same in whatever order or process crops are made."""
    identity = [seed, image_id % 2**64, annotation_id % 2**64]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(identity)))
