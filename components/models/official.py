"""Authors' checkpoints in our networks.

`load` takes a state_dict with the key names of the published code (HRNet, SimpleBaseline, DARK: leoxiaobin's and
ilovepose's repositories; UDP: HuangJunJie2017's; CAL: ilovepose's), `outputs` gives what that code would put out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from components.base.errors import FarposeError
from components.models import zoo
from components.models.keys import authors_key


def load(name: str, state: Mapping[str, Any], published: bool = True) -> nn.Module:
    """The named variant with an author's weights, in eval mode on the CPU.

    Args:
        name: a variant of `params/variants/`.
        state: authors' key → array or tensor; a leading `module.` (data parallel) is ignored.
        published: behave as the published code, known errors included (SimpleBaseline puts out 16x16 at 64x48); False
            gives the corrected network that we train.
    Raises:
        FarposeError: unknown variant, or keys that are missing, left over or of another shape; names the first ones.
    """
    variant = zoo.variant(name)
    where = f"checkpoint for {name}"
    with torch.device("meta"):  # every parameter comes from the checkpoint: allocate and draw none
        model = zoo.network(variant, published=published)
    given = {key.removeprefix("module."): _tensor(key, value, where) for key, value in state.items()}
    expected = {authors_key(key, variant): (key, value) for key, value in model.state_dict().items()}
    given = {key: torch.zeros((), dtype=torch.int64) for key in expected if key.endswith("num_batches_tracked")} | given
    _check_keys(given, expected, where)
    for key, (_, value) in expected.items():
        _check_shape(key, given[key].shape, value.shape, variant.num_keypoints, where)
    model.load_state_dict({ours: given[key].to(value.dtype) for key, (ours, value) in expected.items()}, assign=True)
    return model.eval()


def outputs(model: nn.Module, images: Tensor | np.ndarray) -> tuple[Tensor, ...]:
    """The authors' raw output tensors in their order, in eval mode and without gradients.

    HRNet, SimpleBaseline, DARK, UDP gaussian: heatmaps (B, K, h, w). UDP offset: (B, 3K, h, w), per keypoint response, x, y.
    CAL: heatmaps (B, K, h, w), offsets (B, 2K, h, w), per keypoint x, y.

    Args:
        images: (B, 3, H, W) float32 RGB, normalised by ImageNet's mean and standard deviation. SimpleBaseline's released
            configurations trained on BGR instead: reverse the channels before normalising for its authors' checkpoints.
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


def _check_shape(key: str, given: torch.Size, expected: torch.Size, keypoints: int, where: str) -> None:
    if given != expected:
        hint = f"; the variant has {keypoints} keypoints" if "final_layer" in key else ""
        problem = f"{key!r} has shape {tuple(given)}, the variant needs {tuple(expected)}{hint}"
        raise FarposeError(problem, where=where, fix="name the variant that the checkpoint belongs to")
