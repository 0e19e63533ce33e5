"""ImageNet weights for a network's backbone: from a local file or through timm. Never needed."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from components.base.errors import FarposeError
from components.models import checkpoints
from components.models.backbones.imagenet import ImageNetBackbone
from components.models.naming import renamed

PARTS = {"backbone.": ""}  # prefix in the network → prefix in the backbone, unless the network says otherwise


def load_backbone(model: nn.Module, source: str | Path) -> int:
    """Put ImageNet weights into the backbone of `model`, in place.

    Args:
        source: "timm" (timm's pretrained model of the same name, cached or downloaded), or a path to a `.safetensors` file or
            to a `.pth` that `torch.load(weights_only=True)` accepts. Keys as in the published ImageNet checkpoints, which are
            timm's too; the classifier's, and whatever else the backbone has no use for, are ignored. HRNet, ResNet, HRFormer
            and EfficientViT (its authors' names or timm's) fill the whole backbone, an HRNet TokenPose-B's convolutions, a
            ResNet-50 TransPose's layers 1 and 2, MAE SHaRPose's transformer.
    Returns:
        how many tensors were taken.
    Raises:
        FarposeError: the source cannot be had or is damaged, or it lacks a tensor of the backbone or has it in another shape.
    """
    backbone = next((part for part in model.modules() if isinstance(part, ImageNetBackbone)), None)
    if backbone is None:
        raise FarposeError("its published training starts from random weights", where="backbone", fix="train from `init: none`")
    name = backbone.IMAGENET_NAME or backbone.shape.name
    where = f"backbone {name} from {source}"
    weights = _from_timm(name, where) if str(source) == "timm" else checkpoints.read(source)
    parts = getattr(model, "IMAGENET_PARTS", PARTS)
    needed = _backbone_state(model, tuple(parts))
    published = backbone.imagenet_names([renamed(key, parts) for key in needed], weights)
    names = {key: published[renamed(key, parts)] for key in needed}
    weights = checkpoints.unwrapped(weights, names.values(), (*checkpoints.WRAPPERS, "backbone."))
    weights = backbone.imagenet_adapted(weights)
    taken = {}
    for key, current in needed.items():
        found = weights.get(names[key])
        if found is None or found.shape != current.shape:
            given = "absent" if found is None else f"of shape {tuple(found.shape)}"
            problem = f"{names[key]!r} is {given}, the backbone needs {tuple(current.shape)}"
            raise FarposeError(problem, where=where, fix=f"give ImageNet weights of {name}, or train from `init: none`")
        taken[key] = found
    model.load_state_dict(taken, strict=False)
    return len(taken)


def _backbone_state(model: nn.Module, parts: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors that ImageNet weights must hold, by our key: all of the backbone but what its modules say is not in them."""
    changed = [f"{name}." for name, part in model.named_modules() if not getattr(part, "IN_IMAGENET_WEIGHTS", True)]
    added = [f"{name}.{key}" for name, part in model.named_modules() for key in getattr(part, "NOT_IN_IMAGENET_WEIGHTS", ())]
    return {
        key: value
        for key, value in model.state_dict().items()
        if key.startswith(parts) and not key.startswith((*changed, *added)) and not key.endswith("num_batches_tracked")
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
