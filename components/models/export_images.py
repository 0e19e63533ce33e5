"""A bottom-up variant's network as one ONNX file, and the proof in pixels that the same persons are grouped from its maps.

The file holds the network alone and gives its raw maps; grouping is `codecs.associative_embedding`. Convolutional networks are
written for images of any size; networks whose attention has a table of positions are written for their square only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from components.base.errors import FarposeError
from components.base.files import atomic_file
from components.degrade.augment import normalise
from components.models.export import (
    LIMIT_PX,
    LIMIT_ROUNDING,
    NUDGES,
    Difference,
    Outputs,
    in_batches,
    largest,
    rounding_errors,
    runtime,
    to_onnx,
)
from components.models.variant import IMAGE_STRIDE, Variant

BATCH = 4  # images of one size run together,
BATCH_FIXED = 1  # but not by networks of one size: ONNX Runtime holds all of their attention's weights, gigabytes for an image of 512 px


def takes_any_size(variant: Variant) -> bool:
    """Whether the exported file takes images of any size (sides multiples of 64 px), not of the variant's square only."""
    return variant.record.any_size(variant)


def export_images(
    model: nn.Module, codec: Any, variant: Variant, path: str | Path, images: Sequence[np.ndarray], origin: Mapping[str, str]
) -> Difference:
    """Write a trained bottom-up network's ONNX file if the same persons are found with it.

    Args:
        codec: see `codecs.associative_embedding`.
        images: (3, H, W) uint8 RGB, sides multiples of 64 px, to compare on. Where the file takes the variant's square only,
            their top left square is compared.
        origin: what is known of the weights; kept in the file beside the variant's name.
    Raises:
        FarposeError: the network cannot be recorded, nobody is found in the images, or a joint, a group or an output differs
            too much (names the numbers); then nothing is written.
    """
    side, any_size = variant.input_size[0], takes_any_size(variant)
    seen = list(images) if any_size else [_square(image, side) for image in images]
    sizes = f"any, multiples of {IMAGE_STRIDE} px" if any_size else f"{side}x{side} px"
    about = {"variant": variant.name, "codec": variant.codec_name, "input_size": sizes, "short_side": str(side), **origin}
    with atomic_file(path) as temporary:
        try:
            to_onnx(model, variant.input_size, temporary, about, any_size)
        except torch.onnx.errors.OnnxExporterError as error:
            raise FarposeError(f"torch cannot record this network: {error}", where=f"variant {variant.name}") from error
        found = compare_images(model, codec, temporary, seen, BATCH if any_size else BATCH_FIXED)
        if not found.joints:
            problem, fix = "nobody is found in these images, so that nothing can be compared", "train the variant, or name other images"
            raise FarposeError(problem, where=path, fix=fix)
        if found.undecided == found.joints:
            raise FarposeError("no joint can be compared: all lie on a tie", where=path, fix="train the variant: its outputs are flat")
        if not found.within_limits:
            problem = f"ONNX Runtime differs from torch: {found}; allowed are {LIMIT_PX} px and {LIMIT_ROUNDING:.0f} times the errors"
            raise FarposeError(problem, where=path, fix="nothing was written; report the variant and the versions (farpose doctor)")
    return found


def compare_images(model: nn.Module, codec: Any, path: str | Path, images: Sequence[np.ndarray], batch_size: int = BATCH) -> Difference:
    """Group persons from torch's maps and from ONNX Runtime's, for the same images; on the CPU.

    A joint that belongs to another person, or a person more or less, counts as infinitely far away.

    Args:
        images: (3, H, W) uint8 RGB of any sizes; those of one size run in batches.
    """
    model, run = model.eval().cpu(), runtime(path)
    moved, tied, ratio = [np.zeros(0)], [np.zeros(0, bool)], 0.0
    with torch.inference_mode():
        for batch in _by_size(images):
            ours, theirs = (in_batches(network, batch, batch_size) for network in (model, run))
            errors = rounding_errors(model, batch, ours, batch_size)
            ratio = max(ratio, *(float((largest(a - b) / e).max()) for a, b, e in zip(ours, theirs, errors, strict=True)))
            expected, found = persons_of(codec, ours, batch), persons_of(codec, theirs, batch)
            for mine, other, tie in zip(expected, found, _ties(codec, ours, errors, batch, expected), strict=True):
                distances = distances_px(mine, other)
                compared = ~np.isnan(distances)
                moved.append(distances[compared])
                tied.append(np.broadcast_to(tie if tie.shape == distances.shape else tie.ndim == 0, distances.shape)[compared])
    every, undecided = np.concatenate(moved), np.concatenate(tied)
    return Difference(
        px=float(every[~undecided].max(initial=0.0)),
        rounding=ratio,
        joints=len(every),
        undecided=int(undecided.sum()),
    )


def persons_of(codec: Any, outputs: Outputs, images: Tensor) -> list[Any]:
    """The codec's persons of each image, px of the input; without the mirrored image."""
    height, width = images.shape[2:]
    return codec.decode(*codec.aggregate([outputs], None, (1.0,), (height, width)))


def distances_px(first: Any, second: Any) -> np.ndarray:
    """(N, K) distances of the joints of two groupings of one image, person by person.

    Infinite where only one of them has the joint, and everywhere if one has more persons (N is the larger number then); NaN
    where neither has it.
    """
    ours, theirs = (np.asarray(persons.keypoint_scores) for persons in (first, second))
    if len(ours) != len(theirs):
        return np.full(max(ours.shape, theirs.shape), np.inf)
    distances = np.linalg.norm(np.asarray(first.keypoints) - np.asarray(second.keypoints), axis=-1)
    found, both = (ours != 0) | (theirs != 0), (ours != 0) & (theirs != 0)
    return np.where(both, distances, np.where(found, np.inf, np.nan))


def _ties(codec: Any, outputs: Outputs, errors: Outputs, images: Tensor, expected: list[Any]) -> list[np.ndarray]:
    """For each image, which joints rounding errors decide: (N, K) bool, or a scalar True where they decide how many persons there are.

    See `export.undecided`, which is the same for one person in a crop.
    """
    generator = torch.Generator().manual_seed(0)
    ties = [np.zeros(np.shape(persons.keypoint_scores), bool) for persons in expected]
    for _ in range(NUDGES):
        noise = [2 * torch.rand(output.shape, generator=generator) - 1 for output in outputs]
        nudged = tuple(a + e.view(-1, 1, 1, 1) * n for a, e, n in zip(outputs, errors, noise, strict=True))
        for i, persons in enumerate(persons_of(codec, nudged, images)):
            distances = distances_px(expected[i], persons)
            same = ties[i].ndim and distances.shape == ties[i].shape and len(persons.scores) == len(expected[i].scores)
            ties[i] = ties[i] | (distances > LIMIT_PX) if same else np.array(True)
    return ties


def _by_size(images: Sequence[np.ndarray]) -> Iterator[Tensor]:
    """Normalised batches (B, 3, H, W) of the images of each size."""
    groups: dict[tuple[int, ...], list[np.ndarray]] = {}
    for image in images:
        groups.setdefault(image.shape, []).append(image)
    yield from (normalise(torch.from_numpy(np.stack(group))) for group in groups.values())


def _square(image: np.ndarray, side: int) -> np.ndarray:
    """The top left square of (3, H, W), black where the image ends before."""
    square = np.zeros((3, side, side), np.uint8)
    height, width = min(image.shape[1], side), min(image.shape[2], side)
    square[:, :height, :width] = image[:, :height, :width]
    return square
