"""`export`: a trained variant as an ONNX file that finds the same joints."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from components.base.errors import FarposeError, unknown_name
from components.base.files import sha256_of
from pipelines import choosing, paths, settings, stages


def export(options: argparse.Namespace) -> None:
    """Write the ONNX file and print its size and how far its joints are from torch's; write nothing if that is too far."""
    from components.approaches import approach
    from components.models import export as onnx_files
    from components.models import zoo
    from components.models.weights import read_metadata

    variant = onnx_files.exported_form(zoo.variant(options.variant))
    weights = options.weights or choosing.weights_of(variant.name)
    metadata = read_metadata(weights)
    shards = _shards(variant, metadata, options.crops)
    shown = approach(variant.approach)
    inputs, form = shown.compared(shown.inputs(shards, variant)), shown.form(variant)
    built = stages.trained(variant, weights)
    output = options.output or paths.SCRATCH / variant.name / f"{variant.name}.onnx"
    compared = f"{len(inputs)} {shown.name} of {shards.name}"
    origin = {"weights_sha256": sha256_of(weights), "compared_on": compared}
    found = onnx_files.export(built.model, built.codec, variant, output, inputs, form, origin)
    sizes = "size" if form.any_size else "batch size"
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
