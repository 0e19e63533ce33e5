"""What a training starts from (`init:` of a recipe): random weights, ImageNet's backbone, or weights of a whole pose network, which others
or an earlier training made."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.base import origins
from components.base.errors import FarposeError, unknown_name
from components.base.files import sha256_of
from components.models import pretrained
from components.models.backbones.blocks import he_initialisation
from components.models.naming import renamed
from components.models.weights import load_weights, read_metadata, says_its_variant, train_first
from components.pose.skeleton import COCO_17, Skeleton

UNNAMED = {  # values of `init` that are no file's
    "none": "random, as the method published it",
    "he": "random, convolutions before batch norms as He et al. draw them",
    "timm": "timm's ImageNet weights of the backbone",
}
JOINTS = COCO_17.keypoint_names  # of MoveNet's maps
MAPS = "heatmap.final."  # the layer in the file that puts out the logits of heatmaps
PARTS = {"backbone.branch.": "heatmap.branch.", "backbone.": "backbone.", "final_layer.": "heatmap.final."}


def check(init: str, backbone: str, where: object) -> None:
    """Whether `init` is a start that the backbone can have.

    Raises:
        FarposeError: the named start is another backbone's (names those that fit), or `init` is neither a name nor a path.
    """
    if init in UNNAMED:
        return
    starts = origins.load("start")
    if init not in starts:
        if re.fullmatch(r"\w+", init):
            raise unknown_name("init", init, (*UNNAMED, *starts), where=where)
        return
    if starts[init].backbone != backbone:
        fitting = [name for name, start in starts.items() if start.backbone == backbone] or ["none"]
        problem = f"init: {init} fits backbone {starts[init].backbone}, not {backbone}"
        raise FarposeError(problem, where=where, fix=f"use backbone {starts[init].backbone}, or init: {' or '.join(fitting)}")


def initialise(model: nn.Module, init: str, skeleton: Skeleton, averaged_with: Sequence[str] = ()) -> int:
    """Give a freshly built network the start `init`, in place.

    A named start fills the whole backbone, but for what a method adds to it (`IN_IMAGENET_WEIGHTS = False`), and the other parts that
    `START_PARTS` names where shapes and joints fit. A network declares `START_PARTS` (prefix of its keys → prefix in the file, longer
    ones first) where `PARTS` is not true of it. A last layer with several maps per joint takes the start's for the first of each, and
    zeros for the others.

    Args:
        init: "none", "he", "timm", the name of a start of params/weights.yaml, or a path to a file: of weights that a training here made
            of the same network (all of them are taken), or of the backbone's weights.
        skeleton: the joints of the network's maps.
        averaged_with: further files of trainings of the same network; the mean of all is taken (Wortsman et al. 2022, "Model soups",
            section 2).
    Returns:
        how many tensors came from a file.
    Raises:
        FarposeError: the start cannot be had, is damaged or does not fit.
    """
    if init == "he":
        he_initialisation(model)
    if init in ("none", "he"):
        return 0
    if init not in origins.load("start"):
        if averaged_with or says_its_variant(init):
            return _continued(model, (init, *averaged_with))
        return pretrained.load_backbone(model, init)
    taken = _fitting(model, load_weights(origins.verified(init, "start"), init), init, skeleton)
    model.load_state_dict(taken, strict=False)
    return len(taken)


def _continued(model: nn.Module, paths: Sequence[str]) -> int:
    """Take all weights of an earlier training of the same network, or the mean of several; how many tensors those are."""
    needed = model.state_dict()
    mean = {key: torch.zeros_like(value, dtype=torch.float64) for key, value in needed.items()}
    for path in paths:
        for key, value in _same_network(needed, path).items():
            mean[key] += value.double() / len(paths)
    model.load_state_dict({key: value.to(needed[key].dtype) for key, value in mean.items()})
    return len(mean)


def _same_network(needed: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
    """The weights in a file, which must have the names and shapes of those needed."""
    name = read_metadata(path)["variant"]
    weights = load_weights(path, name)
    shapes, given = ({key: tuple(value.shape) for key, value in state.items()} for state in (needed, weights))
    if shapes != given:
        key = next(key for key in (*shapes, *given) if shapes.get(key) != given.get(key))
        problem = f"{key!r} is {given.get(key, 'absent')} in {name}'s network, {shapes.get(key, 'absent')} in this one"
        raise FarposeError(problem, where=f"init: {path}", fix="name the weights of a variant with the same network, or another init")
    return weights


def _fitting(model: nn.Module, weights: dict[str, Tensor], init: str, skeleton: Skeleton) -> dict[str, Tensor]:
    """The tensors that the network takes, by its keys."""
    shapes = {str(getattr(getattr(part, "shape", None), "name", "")) for part in model.modules()} - {""}
    entry = origins.load("start")[init]
    if entry.backbone not in shapes:
        problem = f"fits backbone {entry.backbone}, the network's is {' and '.join(sorted(shapes)) or 'another'}"
        raise FarposeError(problem, where=f"init: {init}", fix=f"use backbone {entry.backbone}, or another init")
    parts = getattr(model, "START_PARTS", PARTS)
    added = tuple(f"{name}." for name, part in model.named_modules() if not getattr(part, "IN_IMAGENET_WEIGHTS", True))
    taken = {}
    for key, value in model.state_dict().items():
        if key.startswith(added):
            continue
        source = renamed(key, parts) if key.startswith(tuple(parts)) else ""
        found = weights.get(source)
        if found is not None and source.startswith(MAPS) and found.shape[0] < value.shape[0]:
            found = _spread(found, len(value))
        if found is not None and found.shape == value.shape and (key.startswith("backbone.") or skeleton.keypoint_names == JOINTS):
            taken[key] = found.to(value.dtype)
        elif key.startswith("backbone."):
            given = "absent" if found is None else f"of shape {tuple(found.shape)}"
            problem = f"{source or key!r} is {given}, the network needs {tuple(value.shape)}"
            raise FarposeError(problem, where=entry.path, fix="import the file again, or train from `init: none`")
    return taken


def _spread(layer: Tensor, outputs: int) -> Tensor:
    """A last layer's weight or bias for K maps as that for `outputs` maps, those of a joint side by side."""
    every = outputs // len(layer)
    wide = layer.new_zeros(every * len(layer), *layer.shape[1:])
    wide[::every] = layer
    return wide


def digest(init: str) -> str | None:
    """SHA-256 of the file that a training with this `init` starts from; None where there is none.

    Raises:
        FarposeError: the file is not there, or not the one that params/weights.yaml names.
    """
    if init in UNNAMED:
        return None
    if init in (known := origins.load("start")):
        origins.verified(init, "start")  # its SHA-256 is the entry's
        return known[init].sha256
    if not Path(init).is_file():
        raise FarposeError("weights file not found", where=f"init: {init}", fix=f"{train_first(init)}, or give an existing file")
    return sha256_of(init)


def described(init: str) -> dict[str, Any]:
    """What a model that started so must say of it: for its card.

    Raises:
        FarposeError: as `digest`.
    """
    if init in UNNAMED:
        return {"weights": UNNAMED[init]}
    found = {"weights": init, "SHA-256": digest(init)}
    entry = origins.load("start").get(init)
    if entry is None:
        return found | {"weights": Path(init).name, "origin": "a file of the user's, of which params/weights.yaml says nothing"}
    source = entry.source
    return found | {
        "origin": f"{source.file} of {source.package} {source.version}",
        "SHA-256 of the published file": source.sha256,
        "licence": f"{entry.licence}: {entry.licence_source}",
        "trained on": entry.trained_on,
        "changed": entry.changed,
    }
