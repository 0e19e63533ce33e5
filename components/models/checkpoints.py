"""Authors' checkpoint files: read without running any code in them, unwrapped, and compared with what a network needs."""

from __future__ import annotations

import argparse
import difflib
import itertools
import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from components.base.errors import FarposeError
from components.models import official, zoo
from components.models.upscale import PREFIX
from components.models.variant import Variant

AVERAGED = ("state_dict_ema", "model_ema", "params_ema", "ema", "shadows")  # averaged weights are those that authors report
PLAIN = ("state_dict", "model_state_dict", "model", "net", "network", "module", "params", "weights")
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.", "ema_model.", "1.")  # what wrapping a network puts before its keys
HARMLESS = re.compile(  # of a key that is left over: nothing that a pose network computes with depends on it
    r"(^|\.)(num_batches_tracked|relative_position_index|attn_mask|n_averaged|total_ops|total_params)$"
    r"|^(fc|classifier|cls_head|head|head_dist|norm_head)\.(\d+\.)?(weight|bias)$"
    r"|^(auxiliary|aux_|decoder|mask_token|data_preprocessor|incre_modules|downsamp_modules)"
)


def read(path: str | Path) -> dict[str, Tensor]:
    """The named tensors of a `.safetensors` file or of a file written by `torch.save`, wherever they are in it.

    Raises:
        FarposeError: the file is missing, a folder, damaged, holds anything that would have to run code, or no named tensors.
    """
    path = Path(path)
    if path.is_dir():
        raise FarposeError("is a folder, not a weights file", where=path, fix="give the file")
    if not path.is_file():
        raise FarposeError("weights file not found", where=path, fix="give an existing file")
    state = _tensors(_safetensors(path) if _is_safetensors(path) else _torch(path))
    if not state:
        raise FarposeError("holds no state_dict", where=path, fix="give a file of named tensors")
    return state


def _is_safetensors(path: Path) -> bool:
    with open(path, "rb") as stream:
        return path.suffix == ".safetensors" or stream.read(9)[8:] == b"{"  # 8 bytes of length, then JSON


def _safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise FarposeError(f"damaged or no safetensors file: {error}", where=path, fix="fetch it again") from error


def _torch(path: Path) -> Any:
    try:
        with _plain_values():
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no checkpoint fail in the unpickler in any way
        text = str(error)
        code = re.search(r"GLOBAL (\S+)", text)
        if code or _is_newer_pickle(path):
            problem = f"holds more than tensors: {code[1] if code else 'a pickle of its own'}, which reading would run"
            fix = "where you trust it, save its state_dict alone with torch.save; pickled code is never run"
            raise FarposeError(problem, where=path, fix=fix) from error
        reason = re.search(r"WeightsUnpickler error:\s*(.+)", text)  # torch's other advice is to load it without the check
        shown = reason[1] if reason else (text or repr(error)).splitlines()[0]
        raise FarposeError(f"damaged, or no checkpoint: {shown}", where=path, fix="fetch it again") from error


def _is_newer_pickle(path: Path) -> bool:
    """Whether the file is a pickle of a protocol that `torch.save` never wrote at a file's start."""
    with open(path, "rb") as stream:
        head = stream.read(2)
    return len(head) == 2 and head[0] == 0x80 and head[1] > 2


def _plain_values() -> AbstractContextManager[Any]:
    """Let numbers of numpy and parsed command lines through, which training scripts save with the weights; they run nothing."""
    from numpy._core import multiarray

    scalar = multiarray.scalar
    kinds = [type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")]
    names: list[Any] = [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar")]
    return torch.serialization.safe_globals([*names, np.dtype, *kinds, argparse.Namespace])


def _tensors(content: Any) -> dict[str, Tensor]:
    """The named tensors of a checkpoint's content: of the first entry that is known to hold some, else its own."""
    if not isinstance(content, dict):
        return {}
    for name in (*AVERAGED, *PLAIN):
        inner = content.get(name)
        found = _tensors(inner) if isinstance(inner, dict) else {}
        if found:
            return found
    return {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}


def unwrapped(state: Mapping[str, Tensor], wanted: Iterable[str], wrappers: tuple[str, ...] = WRAPPERS) -> dict[str, Tensor]:
    """`state` without what `wrappers` put before its keys: those one or two of them that turn the most keys into wanted ones."""
    wanted = list(wanted)
    prefixes = ["", *wrappers, *("".join(pair) for pair in itertools.product(wrappers, repeat=2))]
    best = max(prefixes, key=lambda prefix: sum(prefix + key in state for key in wanted))  # the first, of equals
    return {key.removeprefix(best): value for key, value in state.items()}


@dataclass(frozen=True)
class Fit:
    """A checkpoint compared with what a network needs.

    Attributes:
        used: tensors that the network takes, by the authors' key.
        missing: keys that it needs and the checkpoint lacks.
        misshapen: keys with (given, needed) shapes.
        left_over, ignored: keys that it does not take; ignored ones carry nothing that a pose network computes with.
    """

    used: dict[str, Tensor]
    missing: list[str]
    misshapen: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    left_over: list[str]
    ignored: list[str]

    @property
    def complete(self) -> bool:
        return not self.missing and not self.misshapen


def compare(state: Mapping[str, Tensor], needed: official.Expected) -> Fit:
    """How a checkpoint fits a network; the generator of an enlarged input is not asked of it (it has its own file)."""
    shapes = {key: tuple(value.shape) for key, (_, value) in needed.tensors.items() if not key.startswith(PREFIX)}
    mmpose = [f"backbone.{key}" for key in shapes]  # its names of the networks that others published as one piece
    state = official.unprefixed(unwrapped(state, [*shapes, *mmpose]), shapes)
    used = {key: value for key, value in state.items() if shapes.get(key) == tuple(value.shape)}
    others = [key for key in state if key not in shapes]
    return Fit(
        used=used,
        missing=[key for key in shapes if key not in state and not key.endswith("num_batches_tracked")],
        misshapen={key: (tuple(state[key].shape), shape) for key, shape in shapes.items() if key in state and key not in used},
        left_over=[key for key in others if key not in needed.ignored and not HARMLESS.search(key)],
        ignored=[key for key in others if key in needed.ignored or HARMLESS.search(key)],
    )


def owners(state: Mapping[str, Tensor], name: str, most: int = 3) -> list[str]:
    """Variants other than `name` that the checkpoint fits with nothing left over, at most so many, the most similar names first."""
    variants = zoo.load_variants()
    asked = variants.get(name)
    likeness = {other: difflib.SequenceMatcher(None, name, other).ratio() for other in variants}
    order = sorted(variants, key=lambda other: (not _related(asked, variants[other]), -likeness[other]))
    fits: dict[Any, bool] = {}
    foreign: set[Any] = set()  # families with a member that shares hardly a key
    found: list[str] = []
    for other in order:
        variant = variants[other]
        family, network = (variant.method, variant.backbone), _network_of(variant)
        if other == name or len(found) == most or family in foreign:
            continue
        if network not in fits:
            fit = compare(state, official.expected_of(variant))
            fits[network] = fit.complete and not fit.left_over
            if len(fit.used) < len(fit.missing):
                foreign.add(family)
        if fits[network]:
            found.append(other)
    return found


def _related(a: Variant | None, b: Variant) -> bool:
    return a is not None and a.method == b.method and a.backbone == b.backbone


def _network_of(variant: Variant) -> tuple[Any, ...]:
    """Equal where two variants' checkpoints cannot be told apart."""
    size = variant.input_size if variant.record.sized else None
    return variant.method, variant.backbone, variant.num_keypoints, size, variant.network
