"""MoveNet's published graphs as weights of `mobilenet_fpn`, read without TensorFlow.

A tfjs graph model is a JSON file, which names tensors with shapes, and BIN files, which hold their values one after the other. Google's
model card "MoveNet.SinglePose" describes the network: a MobileNetV2 with a pyramid and four branches (the persons' centres, keypoint
heatmaps, keypoints regressed from the centre, offsets within a cell).
"""

from __future__ import annotations

import json
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from components.base.errors import FarposeError
from components.models.backbones.mobilenet_fpn import PYRAMID, build_mobilenet
from components.models.versions import check_version

NAMES = {"movenet_lightning": "mobilenet_fpn", "movenet_thunder": "mobilenet_fpn_175"}  # weights → the backbone that they fit
BRANCHES = {"center": (3, 1), "heatmap": (4, 17), "regress": (5, 34), "offset": (6, 34)}  # branch → its number in the graph, its maps
_ROOT = "StatefulPartitionedCall/"
_TRUNK = f"{_ROOT}center_net_mobile_net_v2fpn_feature_extractor/model_1/"
_TYPES = {"float16": np.float16, "float32": np.float32, "int32": np.int32}
FIX = "give the .json with its .bin beside it, or the package's .tgz"


def read_graph(path: str | Path, name: str, sha256: str | None = None) -> dict[str, Tensor]:
    """The tensors of one MoveNet, float16, by our keys: `backbone.…`, and `center.…`, `heatmap.…`, `regress.…`, `offset.…`, each
    with a `branch` and a `final` layer.

    Args:
        path: the graph's .json, whose .bin files lie beside it, or a .tgz that holds both.
        name: "movenet_lightning" or "movenet_thunder".
        sha256: that the values (the .bin) must have; None: any.
    Raises:
        FarposeError: a file is missing, damaged, of another version (shows both digests) or another network (names the tensor).
    """
    manifest, contents = _read_files(Path(path), f"{name.replace('_', '-')}.json")
    check_version(name, b"".join(contents), sha256, path)
    arrays = _arrays(manifest, contents, Path(path))
    backbone = build_mobilenet(NAMES[name])
    tensors = {ours: _converted(arrays, theirs, path) for ours, theirs in _keys(len(backbone.blocks))}
    wanted = {f"backbone.{key}": value.shape for key, value in backbone.state_dict().items()}
    for key, size in wanted.items():
        source = key.replace("backbone.branch.", "heatmap.branch.")
        if tensors[source].shape != size:
            problem = f"{key} has shape {tuple(tensors[source].shape)}, {name} needs {tuple(size)}"
            raise FarposeError(problem, where=path, fix=f"give the graph of {name}")
    return tensors


def _keys(blocks: int) -> Iterator[tuple[str, str]]:
    """Our key → the graph's name, for a network of so many blocks."""
    folded = {"weight": "Conv2D_weights", "bias": "Conv2D_bn_offset"}
    depthwise = {"weight": "depthwise_weights", "bias": "depthwise_bn_offset"}
    plain = {"weight": "Conv2D/ReadVariableOp", "bias": "BiasAdd/ReadVariableOp"}

    def both(ours: str, theirs: str, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        return ((f"{ours}.{key}", f"{theirs}/{name}") for key, name in names.items())

    yield from both("backbone.stem", f"{_TRUNK}model/Conv1", folded)
    for index in range(blocks):
        block = f"{_TRUNK}model/block_{index}" if index else f"{_TRUNK}model/expanded_conv"
        if index:
            yield from both(f"backbone.blocks.{index}.expand", f"{block}_expand", folded)
        yield from both(f"backbone.blocks.{index}.depthwise", f"{block}_depthwise", depthwise)
        yield from both(f"backbone.blocks.{index}.project", f"{block}_project", folded)
    yield from both("backbone.last", f"{_TRUNK}model/Conv_1", folded)
    yield from both("backbone.top", f"{_TRUNK}conv2d", plain)
    for step in range(len(PYRAMID)):  # the graph counts from coarse to fine
        level = len(PYRAMID) - 1 - step
        suffix = f"_{step}" if step else ""
        yield from both(f"backbone.laterals.{level}", f"{_TRUNK}conv2d_{step + 1}", plain)
        smooth = f"{_TRUNK}separable_conv2d{suffix}"
        yield f"backbone.smooth.{level}.depthwise.weight", f"{smooth}/separable_conv2d/ReadVariableOp"
        yield f"backbone.smooth.{level}.pointwise.weight", f"{smooth}/separable_conv2d_weights"
        yield f"backbone.smooth.{level}.pointwise.bias", f"{smooth}/separable_conv2d_bn_offset"
    for branch, (number, _) in BRANCHES.items():
        part = f"{_ROOT}{branch if branch == 'center' else f'kpt_{branch}'}_0"
        separable = f"{part}/separable_conv2d_{number}"
        yield f"{branch}.branch.depthwise.weight", f"{separable}/separable_conv2d/ReadVariableOp"
        yield f"{branch}.branch.pointwise.weight", f"{separable}/separable_conv2d/ReadVariableOp_1"
        yield f"{branch}.branch.pointwise.bias", f"{separable}/BiasAdd/ReadVariableOp"
        yield from both(f"{branch}.final", f"{part}/conv2d_{number + 1}", plain)


def _converted(arrays: Mapping[str, np.ndarray], name: str, where: str | Path) -> Tensor:
    """A tensor in torch's layout: (outputs, inputs, rows, columns) of (rows, columns, inputs, outputs)."""
    if name not in arrays:
        raise FarposeError(f"the graph has no tensor {name!r}", where=where, fix=FIX)
    array = arrays[name]
    if array.ndim == 4:
        array = array.transpose((2, 3, 0, 1) if _is_depthwise(array) else (3, 2, 0, 1))
    return torch.from_numpy(np.array(array, order="C"))


def _is_depthwise(array: np.ndarray) -> bool:
    """Whether a (rows, columns, channels, multiplier) filter has one 3x3 window per channel; no full one has a single output."""
    return array.shape[:2] == (3, 3) and array.shape[3] == 1


def _read_files(path: Path, name: str) -> tuple[list[Any], list[bytes]]:
    """The graph's list of tensors, and the content of the files that it names, per group."""
    read: Callable[[str], bytes]
    try:
        if path.name.endswith((".tgz", ".tar.gz")):
            with tarfile.open(path) as archive:
                members = {Path(member.name).name: member for member in archive if member.isfile()}
                wanted = {key: archive.extractfile(member) for key, member in members.items() if key.startswith(Path(name).stem)}
                content = {key: stream.read() for key, stream in wanted.items() if stream is not None}
            read, graph = content.__getitem__, name
        else:
            read, graph = lambda file: (path.parent / Path(file).name).read_bytes(), path.name
        manifest = json.loads(read(graph))["weightsManifest"]
        return manifest, [b"".join(map(read, group["paths"])) for group in manifest]
    except (OSError, EOFError, KeyError, TypeError, ValueError, tarfile.TarError, zlib.error) as error:
        raise FarposeError(f"not a tfjs graph model that can be read: {error!r}", where=path, fix=FIX) from error


def _arrays(manifest: list[Any], contents: list[bytes], path: Path) -> dict[str, np.ndarray]:
    try:
        return {key: array for group, content in zip(manifest, contents, strict=True) for key, array in _split(group, content, path)}
    except (KeyError, TypeError, ValueError) as error:
        raise FarposeError(f"not a tfjs graph model that can be read: {error!r}", where=path, fix=FIX) from error


def _split(group: Mapping[str, Any], content: bytes, where: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Name and values of each tensor of one group of the manifest."""
    start = 0
    for entry in group["weights"]:
        stored = np.dtype(_TYPES[entry.get("quantization", {}).get("dtype", entry["dtype"])])
        count = int(np.prod(entry["shape"]))
        if start + count * stored.itemsize > len(content):
            raise FarposeError(f"the file ends before {entry['name']!r}", where=where, fix="fetch it again: it is cut short")
        yield entry["name"], np.frombuffer(content, stored, count, start).reshape(entry["shape"])
        start += count * stored.itemsize
    if start != len(content):
        raise FarposeError(f"the file has {len(content)} bytes, its graph names {start}", where=where, fix=FIX)
