"""Authors' checkpoints in our networks.

`load` takes a state_dict with the key names of the published code (HRNet, SimpleBaseline, DARK: leoxiaobin's and
ilovepose's repositories, or mmpose's names for them; UDP: HuangJunJie2017's; CAL: ilovepose's; SRPose, SIU and SHaRPose: their
forks of mmpose; TransPose, SimCC, TokenPose, HigherHRNet and LitePose: their own), `outputs` gives what that code would output.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from components.base.errors import FarposeError
from components.models import spsr, zoo
from components.models.upscale import GENERATOR, PART, with_generator
from components.models.variant import Variant

TABLE, INDEX = "relative_position_bias_table", "relative_position_index"
OTHERS = {GENERATOR: spsr.Generator}  # networks that are not variants: their keys are the authors' own


@dataclass(frozen=True)
class Expected:
    """What a checkpoint of one network must hold.

    Attributes:
        model: the network on the meta device.
        tensors: authors' key → (our key, tensor of the right shape and type).
        variant: None for a network that is not a variant.
        ignored: keys of the authors' files that are not weights.
    """

    model: nn.Module
    tensors: dict[str, tuple[str, Tensor]]
    variant: Variant | None = None
    ignored: tuple[str, ...] = ()


def expected(name: str, published: bool = True) -> Expected:
    """What a checkpoint for `name` must hold; nothing is allocated.

    Raises:
        FarposeError: unknown variant.
    """
    if name not in OTHERS:
        return expected_of(zoo.variant(name), published)
    with torch.device("meta"):
        model = OTHERS[name]()
    return Expected(model, {key: (key, value) for key, value in model.state_dict().items()}, ignored=spsr.IGNORED)


def expected_of(variant: Variant, published: bool = True) -> Expected:
    """What a checkpoint for a variant must hold."""
    with torch.device("meta"):  # every parameter comes from the checkpoint: allocate and draw none
        model = zoo.network(variant, published=published)
    tensors = {authors_key(key, variant): (key, value) for key, value in model.state_dict().items()}
    derived = (key.replace(TABLE, INDEX) for key in tensors if key.endswith(TABLE))  # HRFormer's code keeps a constant in the state
    return Expected(model, tensors, variant, ignored=(*derived, *variant.record.ignored))


def authors_key(key: str, variant: Variant) -> str:
    """The authors' name of `key`, a parameter or buffer of the variant's network (a key of its state_dict).

    An enlarged input's keys (see `components.models.upscale`) are ours alone.
    """
    return key if key.startswith(PART) else variant.record.authors_key(key, variant)


def load(name: str, state: Mapping[str, Any], published: bool = True) -> nn.Module:
    """The named variant with an author's weights, in eval mode on the CPU.

    Args:
        name: a variant of `params/variants/`, or "spsr_x4" (Maclory's SPSR) for the generator alone.
        state: authors' key → array or tensor; a leading `module.` (data parallel) or `1.` (half precision, HigherHRNet) is
            ignored. No weights were released for variants whose input SPSR enlarges: give the pose network's, and the
            generator's file (`network.upscale_weights`) gives the rest, unless its keys are in `state` under
            `upscale.generator.`.
        published: behave as the published code, known errors included (SimpleBaseline outputs 16x16 at 64x48); False
            gives the corrected network that we train.
    Raises:
        FarposeError: unknown variant, or keys that are missing, left over or of another shape; names the first ones.
    """
    needed, where = expected(name, published), f"checkpoint for {name}"
    wrapped = "1." if state and all(key.removeprefix("module.").startswith("1.") for key in state) else ""
    given = {key.removeprefix("module.").removeprefix(wrapped): _tensor(key, value, where) for key, value in state.items()}
    given = {key: value for key, value in unprefixed(given, needed.tensors).items() if key not in needed.ignored}
    if needed.variant is not None:
        given = with_generator(needed.variant, given)
    given = {key: torch.zeros((), dtype=torch.int64) for key in needed.tensors if key.endswith("num_batches_tracked")} | given
    _check_keys(given, needed.tensors, where)
    for key, (_, value) in needed.tensors.items():
        _check_shape(key, given[key].shape, value.shape, needed.variant, where)
    weights = {ours: given[key].to(value.dtype) for key, (ours, value) in needed.tensors.items()}
    needed.model.load_state_dict(weights, assign=True)
    return needed.model.eval()


def unprefixed(state: Mapping[str, Any], wanted: Iterable[str]) -> Mapping[str, Any]:
    """`state` with HRNet's and SimpleBaseline's own names where it has mmpose's (`backbone.…`, `keypoint_head.…` or `head.…`)."""
    if any(key.startswith("backbone.") for key in wanted) or not any(key.startswith("backbone.") for key in state):
        return state
    return {re.sub(r"^(backbone|keypoint_head|head)\.", "", key): value for key, value in state.items()}


def outputs(model: nn.Module, images: Tensor | np.ndarray) -> tuple[Tensor, ...]:
    """The authors' raw output tensors in their order, in eval mode and without gradients.

    HRNet, SimpleBaseline, DARK, UDP gaussian: heatmaps (B, K, h, w). UDP offset: (B, 3K, h, w), per keypoint response, x, y.
    CAL: heatmaps (B, K, h, w), offsets (B, 2K, h, w), per keypoint x, y. SR head, SRPose: heatmaps (B, K, H, W). SHaRPose: coarse
    and fine heatmaps. SimCC: logits (B, K, bins) of x and of y. SPSR: enlarged gradient map, enlarged image, gradient map.
    Of whole images, H and W multiples of 64: HigherHRNet, LitePose, HigherPose, LimbPose: (B, 2K, H/4, W/4), K heatmaps then K tags,
    and heatmaps (B, K, H/2, W/2). Bottom-up SR head: (B, 2K, H, W), heatmaps then tags.

    Args:
        images: (B, 3, H, W) float32 RGB, normalised by ImageNet's mean and standard deviation. SimpleBaseline's released
            configurations trained on BGR instead: reverse the channels before normalising for its authors' checkpoints.
            For SPSR RGB in [0, 1].
    """
    device = next(model.parameters()).device
    with torch.no_grad():
        forward = getattr(model.eval(), "published_outputs", model)  # where that differs from what our codec reads
        return forward(torch.as_tensor(images, dtype=torch.float32, device=device))


def _tensor(key: str, value: Any, where: str) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, np.ndarray | np.generic):
        return torch.from_numpy(np.array(value))
    fix = "pass the state_dict itself (perhaps checkpoint['state_dict'])"
    raise FarposeError(f"{key!r} is a {type(value).__name__}, not a tensor", where=where, fix=fix)


def _check_keys(given: Mapping[str, Any], expected: Mapping[str, Any], where: str) -> None:
    missing = [key for key in expected if key not in given]
    left_over = [key for key in given if key not in expected]
    if missing or left_over:
        problems = [f"{len(keys)} {what} ({_first(keys)})" for what, keys in (("missing", missing), ("left over", left_over)) if keys]
        raise FarposeError(f"keys do not fit: {', '.join(problems)}", where=where, fix="name the variant that the checkpoint belongs to")


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")


def _check_shape(key: str, given: torch.Size, expected: torch.Size, variant: Variant | None, where: str) -> None:
    if given != expected:
        hint = f"; the variant has {variant.num_keypoints} keypoints" if variant and "final_layer" in key else ""
        problem = f"{key!r} has shape {tuple(given)}, the variant needs {tuple(expected)}{hint}"
        raise FarposeError(problem, where=where, fix="name the variant that the checkpoint belongs to")
