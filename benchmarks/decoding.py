"""Batched decoding of 16x12 maps against decoders that loop over persons and joints in NumPy and OpenCV, as in published code.

Both sides go from the network's maps to keypoints in px of the image, on one core, and must agree. `cells_only_ratio` leaves
out the step from cells to the image. Run: python -m benchmarks.decoding
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.report import interleave, row, write
from components import codecs
from components.codecs.codec import CropCodec
from components.pose.crop import CropGeometry
from components.pose.skeleton import COCO_17

TARGET = 8.0
MOST_DIFFERENT = 1e-3  # share of coordinates; after a wide blur two cells may tie for the peak
INPUT_SIZE, HEATMAP_SIZE = (64, 48), (16, 12)
DARK_KERNEL, CAL_UNIT = 3, 1.5
UDP_RADIUS, UDP_KERNELS = 4.0, (15, 7)

Decoded = tuple[np.ndarray, np.ndarray]


def peaks_by_numpy(heatmaps: np.ndarray) -> Decoded:
    """Peak cells (B, K, 2) float32 and heights (B, K)."""
    flat = heatmaps.reshape(*heatmaps.shape[:2], -1)
    index, scores = flat.argmax(2), flat.max(2)
    cells = np.stack([index % heatmaps.shape[3], index // heatmaps.shape[3]], -1).astype(np.float32)
    return cells * (scores > 0)[..., None], scores


def shift_by_loops(heatmaps: np.ndarray) -> Decoded:
    keypoints, scores = peaks_by_numpy(heatmaps)
    rows, columns = heatmaps.shape[2:]
    for n in range(len(keypoints)):
        for k in range(keypoints.shape[1]):
            heatmap = heatmaps[n, k]
            x, y = math.floor(keypoints[n, k, 0] + 0.5), math.floor(keypoints[n, k, 1] + 0.5)
            if 1 < x < columns - 1 and 1 < y < rows - 1:
                slope = np.array([heatmap[y, x + 1] - heatmap[y, x - 1], heatmap[y + 1, x] - heatmap[y - 1, x]])
                keypoints[n, k] += np.sign(slope) * 0.25
    return keypoints, scores


def dark_by_loops(heatmaps: np.ndarray) -> Decoded:
    keypoints, scores = peaks_by_numpy(heatmaps)
    half = DARK_KERNEL // 2
    rows, columns = heatmaps.shape[2:]
    smooth = np.empty_like(heatmaps)
    for n in range(len(keypoints)):
        for k in range(keypoints.shape[1]):
            padded = np.zeros((rows + 2 * half, columns + 2 * half), np.float32)
            padded[half:-half, half:-half] = heatmaps[n, k]
            blurred = cv2.GaussianBlur(padded, (DARK_KERNEL, DARK_KERNEL), 0)[half:-half, half:-half]
            smooth[n, k] = blurred * (heatmaps[n, k].max() / blurred.max())
    smooth = np.log(np.maximum(smooth, 1e-10))
    for n in range(len(keypoints)):
        for k in range(keypoints.shape[1]):
            keypoints[n, k] = parabola_top(smooth[n, k], keypoints[n, k])
    return keypoints, scores


def parabola_top(f: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """DARK's Newton step on one joint's logarithmic map."""
    rows, columns = f.shape
    x, y = int(cell[0]), int(cell[1])
    if not (1 < x < columns - 2 and 1 < y < rows - 2):
        return cell
    gradient = 0.5 * np.array([[f[y, x + 1] - f[y, x - 1]], [f[y + 1, x] - f[y - 1, x]]])
    dxx = 0.25 * (f[y, x + 2] - 2 * f[y, x] + f[y, x - 2])
    dyy = 0.25 * (f[y + 2, x] - 2 * f[y, x] + f[y - 2, x])
    dxy = 0.25 * (f[y + 1, x + 1] - f[y - 1, x + 1] - f[y + 1, x - 1] + f[y - 1, x - 1])
    if dxx * dyy - dxy**2 == 0:
        return cell
    hessian = np.array([[dxx, dxy], [dxy, dyy]])
    return cell + (-np.linalg.inv(hessian) @ gradient)[:, 0]


def udp_offset_by_loops(combined: np.ndarray) -> Decoded:
    smooth = np.empty_like(combined)
    for n in range(len(combined)):
        for k in range(combined.shape[1]):
            size = UDP_KERNELS[0] if k % 3 == 0 else UDP_KERNELS[1]
            smooth[n, k] = cv2.GaussianBlur(combined[n, k], (size, size), 0)
    keypoints, scores = peaks_by_numpy(smooth[:, ::3])
    for n in range(len(keypoints)):
        for k in range(keypoints.shape[1]):
            x, y = int(keypoints[n, k, 0]), int(keypoints[n, k, 1])
            keypoints[n, k] += UDP_RADIUS * smooth[n, 3 * k + 1 : 3 * k + 3, y, x]
    return keypoints, scores


def cal_by_loops(heatmaps: np.ndarray, offsets: np.ndarray) -> Decoded:
    keypoints, scores = peaks_by_numpy(heatmaps)
    offset = np.empty_like(keypoints)
    for n in range(len(keypoints)):
        for k in range(keypoints.shape[1]):
            x, y = int(keypoints[n, k, 0]), int(keypoints[n, k, 1])
            offset[n, k, 0] = offsets[n, 2 * k, y, x]
            offset[n, k, 1] = offsets[n, 2 * k + 1, y, x]
    return keypoints + CAL_UNIT * offset, scores


def to_image_by_loops(keypoints: np.ndarray, center: np.ndarray, size: np.ndarray, geometry: CropGeometry) -> np.ndarray:
    """Cells → px of the image: an affine matrix per person from three points, a product per joint."""
    rows, columns = HEATMAP_SIZE
    less, size_less = {"classic": (0, 0), "dark": (1, 1), "unbiased": (1, 0)}[geometry.convention]
    extent = np.array([columns - less, rows - less], np.float32)
    cells = np.array([[0, 0], [extent[0], 0], [0, extent[1]]], np.float32)
    points = np.empty_like(keypoints)
    for n in range(len(keypoints)):
        scale = (size[n] - size_less) / extent
        if geometry.convention != "unbiased":
            scale[1] = scale[0]
        matrix = cv2.getAffineTransform(cells, (center[n] + (cells - extent / 2) * scale).astype(np.float32))
        for k in range(keypoints.shape[1]):
            points[n, k] = matrix @ np.array([keypoints[n, k, 0], keypoints[n, k, 1], 1.0])
    return points


DECODERS: dict[str, tuple[str, dict[str, Any], Callable[..., Decoded]]] = {
    "decode_shift": ("heatmap", {}, shift_by_loops),
    "decode_dark": ("dark", {"blur": DARK_KERNEL}, dark_by_loops),
    "decode_offset": ("udp_offset", {"preset": "published"}, udp_offset_by_loops),
    "decode_cal": ("cal", {"preset": "published_w32"}, cal_by_loops),
}


def build(codec: str, settings: dict[str, Any]) -> CropCodec:
    geometry = CropGeometry(INPUT_SIZE, HEATMAP_SIZE, codecs.convention_of(codec))
    return codecs.as_crop_codec(codecs.build(codec, geometry, COCO_17, **settings))


def outputs_like_a_networks(codec: CropCodec, persons: int) -> tuple[torch.Tensor, ...]:
    """Perfect outputs of random persons with a little noise."""
    generator = torch.Generator().manual_seed(0)
    keypoints = torch.rand(persons, codec.num_keypoints, 2, generator=generator) * torch.tensor([INPUT_SIZE[1], INPUT_SIZE[0]])
    perfect = codec.perfect(codec.targets(keypoints, torch.ones(persons, codec.num_keypoints, dtype=torch.bool)))
    return tuple(maps + 0.01 * torch.randn(maps.shape, generator=generator) for maps in perfect)


def measure(name: str, persons: int, repeats: int) -> dict[str, Any]:
    codec_name, settings, loops = DECODERS[name]
    codec = build(codec_name, settings)
    outputs = outputs_like_a_networks(codec, persons)
    arrays = [output.numpy() for output in outputs]
    center, size = torch.rand(persons, 2) * 400, torch.rand(persons, 1) * 200 + 50
    size = torch.cat([size, size * 4 / 3], 1)

    def looped() -> np.ndarray:
        return to_image_by_loops(loops(*arrays)[0], center.numpy(), size.numpy(), codec.geometry)

    def batched() -> torch.Tensor:
        return codec.geometry.heatmap_to_image(codec.decode(outputs)[0], center, size)

    different = float((np.abs(looped() - batched().numpy()) > 1e-2).mean())
    if different > MOST_DIFFERENT:
        raise AssertionError(f"{name}: the two decoders differ in {different:.2%} of the coordinates")
    cells = {"loops_cells": lambda: loops(*arrays), "batched_cells": lambda: codec.decode(outputs)}
    seconds = interleave({"loops": looped, "batched": batched, **cells}, repeats, warm_up=2)
    median = {side: float(np.median(times)) for side, times in seconds.items()}
    more = {f"{side}_us_per_person": round(1e6 * median[side] / persons, 2) for side in ("loops", "batched")}
    more["cells_only_ratio"] = round(median["loops_cells"] / median["batched_cells"], 3)
    return row(name, seconds["loops"], seconds["batched"], TARGET, different_coordinates=different, **more)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--persons", type=int, default=512, help="crops per call")
    parser.add_argument("--repeats", type=int, default=9, help="interleaved turns")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows = [measure(name, arguments.persons, arguments.repeats) for name in DECODERS]
    write("decoding", rows, persons=arguments.persons, heatmap_size=list(HEATMAP_SIZE), threads=1)


if __name__ == "__main__":
    main()
