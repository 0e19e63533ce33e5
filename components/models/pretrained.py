"""ImageNet weights for a network's backbone: from a local file or through timm. Never needed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.base.errors import FarposeError
from components.models.backbones.efficientvit import EfficientViT
from components.models.backbones.hrformer import HRFormer
from components.models.backbones.hrnet import HighResolutionEnd, HighResolutionTrunk
from components.models.backbones.resnet import ResNet
from components.models.backbones.transpose import TransPose
from components.models.keys import published_name
from components.models.sharpose import SparseViT

BACKBONES = (HighResolutionTrunk, ResNet, EfficientViT, HRFormer, TransPose, SparseViT)
BACKBONE_PARTS = ("backbone.", "trunk.", "heatmap_end.")  # CAL's offset trunk starts from random weights, as published


def load_backbone(model: nn.Module, source: str | Path) -> int:
    """Put ImageNet weights into the backbone of `model`, in place.

    Args:
        source: "timm" (timm's pretrained model of the same name, cached or downloaded), or a path to a `.safetensors` file or
            to a `.pth` that `torch.load(weights_only=True)` accepts. Keys as in the published ImageNet checkpoints, which are
            timm's too; the classifier's are ignored.
    Returns:
        how many tensors were taken.
    Raises:
        FarposeError: the source cannot be had or is damaged, or it lacks a tensor of the backbone or has it in another shape.
    """
    backbone = next((part for part in model.modules() if isinstance(part, BACKBONES)), None)
    if backbone is None:
        raise FarposeError("its published training starts from random weights", where="backbone", fix="train from `init: none`")
    name = getattr(backbone, "IMAGENET_NAME", backbone.shape.name)
    where = f"backbone {name} from {source}"
    weights = _from_timm(name, where) if str(source) == "timm" else _from_file(Path(source))
    weights = {key.removeprefix("module."): value for key, value in weights.items()}
    weights = backbone.adapted(weights) if isinstance(backbone, SparseViT) else weights
    taken = {}
    for key, current in _backbone_state(model).items():
        found = weights.get(published_name(key))
        if found is None or found.shape != current.shape:
            given = "absent" if found is None else f"of shape {tuple(found.shape)}"
            problem = f"{published_name(key)!r} is {given}, the backbone needs {tuple(current.shape)}"
            raise FarposeError(problem, where=where, fix=f"give ImageNet weights of {name}, or train from `init: none`")
        taken[key] = found
    model.load_state_dict(taken, strict=False)
    return len(taken)


def _backbone_state(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that ImageNet weights must hold, by our key: all of the backbone but what a method changed.

    That is the last fusion where UDP widened it, and what parts say of themselves (SIU's fusions, TransPose's encoder).
    """
    widened = [end for end in model.modules() if isinstance(end, HighResolutionEnd) and end.widen > 1]
    changed = [f"{name}." for name, part in model.named_modules() if not getattr(part, "IN_IMAGENET_WEIGHTS", True)]
    added = [f"{name}.{key}" for name, part in model.named_modules() for key in getattr(part, "NOT_IN_IMAGENET_WEIGHTS", ())]
    new = (*(f"backbone.end.stage.{len(end.stage) - 1}.fuse_layers." for end in widened), *changed, *added)
    return {
        key: value
        for key, value in model.state_dict().items()
        if key.startswith(BACKBONE_PARTS) and not key.startswith(new) and not key.endswith("num_batches_tracked")
    }


def _from_timm(backbone: str, where: str) -> dict[str, Tensor]:
    import timm

    if not timm.is_model(backbone):
        raise FarposeError("timm does not know it", where=where, fix="train from `init: none`")
    try:
        return timm.create_model(backbone, pretrained=True).state_dict()
    except Exception as error:  # whatever the download client raises when it is offline
        fix = "give a local .safetensors or .pth file, or train from `init: none`"
        raise FarposeError(f"cannot be downloaded: {' '.join(str(error).split())[:200]}", where=where, fix=fix) from error


def _from_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FarposeError("weights file not found", where=path, fix="give an existing file, `timm` or `none`")
    if path.suffix == ".safetensors":
        return _from_safetensors(path)
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        problem = f"damaged, or holds more than tensors: {str(error).splitlines()[0]}"
        raise FarposeError(problem, where=path, fix="fetch it again; pickled code is never run") from error
    content = content.get("state_dict", content.get("model", content)) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise FarposeError("holds no state_dict", where=path, fix="give a file of named tensors")
    return content


def _from_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise FarposeError(f"damaged or no safetensors file: {error}", where=path, fix="fetch it again") from error
