"""What the tests of degradation run over: every protocol, every crop convention, crops of one small size."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from components.base.files import read_json, write_json
from components.degrade.protocol import protocols
from components.pose.crop import CONVENTIONS

PROTOCOLS = tuple(protocols())
SIZE = (32, 24)  # height, width, px
each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)
each_convention = pytest.mark.parametrize("convention", CONVENTIONS)

FAULTS = {"missing": "no (crop|image) shard here", "cut short": "incomplete", "version": "version 99", "no file": "incomplete"}


def damage(shard: Path, fault: str, pixels: Iterable[str]) -> str:
    """Give a shard's folder one of the `FAULTS`; what its error must say.

    Args:
        pixels: names of its files of pixels.
    """
    about = shard / "shard.json"
    if fault == "missing":
        about.unlink()
    elif fault == "version":
        write_json(about, {**read_json(about), "version": 99})
    for path in (shard / name for name in pixels):
        if fault == "cut short":
            path.write_bytes(path.read_bytes()[:-100])
        elif fault == "no file":
            path.unlink()
    return FAULTS[fault]
