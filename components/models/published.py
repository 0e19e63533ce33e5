"""The published files of named starts, by the names that our networks have for their tensors. Training never needs them."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from components.base.origins import Weights
from components.models import movenet


def read(name: str, entry: Weights, file: str | Path) -> dict[str, Tensor]:
    """The tensors of the start `name`, half precision.

    Raises:
        FarposeError: the file cannot be read, or is not what `entry` names.
    """
    return movenet.read_graph(file, name, entry.source.sha256)
