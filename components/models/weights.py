"""Trained weights on disk: safetensors with the variant's name inside. Pickles are neither written nor read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from components.base.errors import FarposeError
from components.base.files import atomic_file
from components.models.variant import Variant

MODELS = ("artifacts", "models")  # parts of the folder of the weights that are trained here
METADATA_KEY = "farpose"  # one key: safetensors writes several in random order, and the file's hash would change


def save_weights(path: str | Path, model: nn.Module | Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a network's state, whole or not at all; equal states and metadata give equal bytes.

    Args:
        model: the network, or its state_dict.
        metadata: must hold `variant`, the variant's name; everything else is stored with it.
    """
    state = model.state_dict() if isinstance(model, nn.Module) else model
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    content = save(tensors, {METADATA_KEY: json.dumps(dict(metadata), sort_keys=True)})
    with atomic_file(path) as temporary:  # safetensors' own writer hides a full disk behind an error of its own
        temporary.write_bytes(content)


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata that was saved with the weights.

    Raises:
        FarposeError: the file is missing, truncated, no safetensors file, or was not written by `save_weights`.
    """
    return _read(path)[0]


def says_its_variant(path: str | Path) -> bool:
    """Whether the file was written by `save_weights`."""
    try:
        with safe_open(path, framework="pt") as stream:
            return METADATA_KEY in (stream.metadata() or {})
    except (SafetensorError, OSError):  # another format, or not there
        return False


def trained_here(path: str) -> str | None:
    """The variant whose training stage writes `path`; None where it is another file, such as a released one."""
    parts = PurePosixPath(path).parts
    return parts[2] if len(parts) == 4 and parts[:2] == MODELS else None


def train_first(path: str) -> str:
    """What to do where the weights in `path` are not there."""
    name = trained_here(path)
    return f"train it first, with variant {name} in params/pipeline.yaml: `farpose run train@{name}`" if name else "train it"


def load_weights(path: str | Path, variant: Variant | str) -> dict[str, Tensor]:
    """The state_dict that was saved for `variant` (or under that name, for a network that is not a variant).

    Raises:
        FarposeError: as `read_metadata`, or the weights belong to another variant (names both).
    """
    metadata, state = _read(path, tensors=True)
    name = variant if isinstance(variant, str) else variant.name
    if metadata.get("variant") != name:
        problem = f"holds weights of variant {metadata.get('variant')!r}, but {name!r} was asked for"
        raise FarposeError(problem, where=path, fix="give the weights of that variant, or name the other one")
    return state


def _read(path: str | Path, tensors: bool = False) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not Path(path).is_file():
        raise FarposeError("weights file not found", where=path, fix="train the variant first")
    try:
        with safe_open(path, framework="pt") as stream:
            metadata = stream.metadata() or {}
            state = {name: stream.get_tensor(name) for name in stream.keys()} if tensors else {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        problem = "a pickle, which may run code when read" if _is_pickle(path) else f"damaged or no safetensors file: {error}"
        raise FarposeError(problem, where=path, fix="fetch or train the weights again; pickles are not read") from error
    if METADATA_KEY not in metadata:
        raise FarposeError("does not say which variant it belongs to", where=path, fix="only files written by Farpose are read")
    return json.loads(metadata[METADATA_KEY]), state


def _is_pickle(path: str | Path) -> bool:
    with open(path, "rb") as stream:
        head = stream.read(2)
    return head == b"PK" or head[:1] == b"\x80"
