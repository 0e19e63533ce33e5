"""`export`: a trained variant as an ONNX file that finds the same joints."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from components.base.errors import FarposeError, unknown_name
from components.base.files import sha256_of
from pipelines import paths, settings, stages
from pipelines.commands import predict

COMPARED = 128  # crops of a shard to compare on, spread evenly,
COMPARED_IMAGES = 4  # or whole images


def export(options: argparse.Namespace) -> None:
    """Write the ONNX file and print its size and how far its joints lie from torch's; write nothing if that is too far."""
    from components.models import export as onnx_files
    from components.models import zoo
    from components.models.export_images import export_images, takes_any_size
    from components.models.weights import read_metadata

    variant = onnx_files.exported_form(zoo.variant(options.variant))
    weights = options.weights or predict.weights_of(variant.name)
    metadata = read_metadata(weights)
    shards = _shards(variant, metadata, options.crops)
    inputs = _images(shards) if variant.bottom_up else _crops(shards, variant)
    built = stages.trained(variant, weights)
    output = options.output or paths.SCRATCH / variant.name / f"{variant.name}.onnx"
    compared = f"{len(inputs)} {'images' if variant.bottom_up else 'crops'} of {shards.name}"
    origin = {"weights_sha256": sha256_of(weights), "compared_on": compared}
    write: Any = export_images if variant.bottom_up else onnx_files.export
    found = write(built.model, built.codec, variant, output, inputs, origin)
    sizes = "size" if variant.bottom_up and takes_any_size(variant) else "batch size"
    print(f"{output}: {output.stat().st_size / 2**20:.1f} MiB, ONNX opset {onnx_files.OPSET}, any {sizes}")
    print(f"joints against torch's on {compared}: {found}; allowed are {onnx_files.LIMIT_PX} px")


def _shards(variant: Any, metadata: dict[str, str], chosen: str | None) -> Path:
    """Folder of the crops to compare on: the chosen ones, those the weights were trained on, or the pipeline's."""
    there = sorted(path.parent for path in paths.SHARDS.glob("*/shard.json"))
    if chosen:
        if chosen not in [folder.name for folder in there]:
            raise unknown_name("shards", chosen, [folder.name for folder in there], where=paths.SHARDS)
        return paths.SHARDS / chosen
    for folder in there:
        if sha256_of(folder / "shard.json") == metadata.get("shard"):
            return folder
    if variant.name in settings.load().variants:
        return paths.SHARDS / settings.load().shards_of(variant.name)
    raise FarposeError("the crops that these weights were trained on are not here", where=f"variant {variant.name}",
                       fix=f"name others with --crops; there are: {', '.join(folder.name for folder in there) or 'none'}")  # fmt: skip


def _crops(folder: Path, variant: Any) -> np.ndarray:
    """Some of a shard's validation crops, (N, 3, H, W) uint8."""
    from components.degrade.shards import EvalCrops

    pixels = EvalCrops.open(folder, variant.convention).pixels
    return np.array(pixels[_spread(len(pixels), COMPARED)])


def _images(folder: Path) -> list[np.ndarray]:
    """Some of a shard's validation images, each (3, H, W) uint8."""
    from components.degrade.image_shards import EvalImages

    images = EvalImages.open(folder)
    return [np.array(images.pixels(row)) for row in _spread(len(images), COMPARED_IMAGES).tolist()]


def _spread(count: int, wanted: int) -> np.ndarray:
    """Up to `wanted` of `count` rows, evenly."""
    return np.unique(np.linspace(0, count - 1, min(wanted, count)).round().astype(int))
