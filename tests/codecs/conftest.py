"""Reference values of the authors' code: the full folder where there is one, else the small committed copies."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[2]
GOLDEN = REPOSITORY / "tests" / "golden" / "codecs"

Reference = Callable[[str, str], torch.Tensor]


@pytest.fixture(autouse=True)
def single_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def reference() -> Reference:
    """`reference(file, key)`: an array as a tensor; the test is skipped where only the small copies are here and lack it."""
    full = Path(os.environ.get("FARPOSE_PARITY", REPOSITORY.parent / "shared" / "parity")) / "codecs"
    folder = full if full.is_dir() else GOLDEN
    files: dict[str, Mapping[str, np.ndarray]] = {}

    def load(name: str, key: str) -> torch.Tensor:
        if name not in files:
            files[name] = np.load(folder / f"{name}.npz")
        if key not in files[name]:
            pytest.skip(f"{key} is not among the small reference values; set FARPOSE_PARITY to the full folder")
        return torch.from_numpy(np.asarray(files[name][key]))

    return load
