"""Counts of every variant, kept in results/costs.json because counting all of them takes minutes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from components.base.config import REPOSITORY
from components.base.files import atomic_file, read_json
from components.models import costs
from components.models.costs import Costs
from components.models.variant import Variant

if TYPE_CHECKING:
    from torch import nn

FILE = REPOSITORY / "results" / "costs.json"
COMMAND = "farpose models --count all"


def key(variant: Variant) -> str:
    """What decides a variant's network, and so its costs.

    Such as `simcc/hrnet_w32/17/256x192/split=2`: method, backbone, keypoints, input, and the settings that are not the default.
    """
    network = {name: getattr(variant.network, name) for name in variant.network.changed if name not in variant.record.uncounted}
    codec = {name: variant.codec[name] for name in variant.record.codec_counted if name in variant.codec}
    settings = [f"{name}={value}" for name, value in (network | codec).items()]
    return "/".join([variant.method, variant.backbone, str(variant.num_keypoints), "{}x{}".format(*variant.input_size), *settings])


def stored(path: Path = FILE) -> dict[str, Costs]:
    """The counts that are kept, by `key`; none where the file is missing.

    Raises:
        FarposeError: the file is damaged.
    """
    return {name: Costs(**entry) for name, entry in read_json(path)["counts"].items()} if path.is_file() else {}


def of_variant(variant: Variant, known: dict[str, Costs]) -> Costs:
    """The stored costs of a variant's network, or counted now."""
    return known.get(key(variant)) or costs.of_variant(variant)


def of_network(variant: Variant, network: nn.Module, known: dict[str, Costs]) -> Costs | None:
    """The stored costs of a variant's network; None where there are none, or this network has not as many parameters."""
    stored = known.get(key(variant))
    return stored if stored and stored.params == sum(value.numel() for value in network.parameters()) else None


def rewrite(variants: Iterable[Variant], known: dict[str, Costs], path: Path = FILE, say: Callable[[str], None] = lambda text: None) -> int:
    """Replace the file by the counts of these variants' networks; how many networks there are.

    Args:
        known: counts to keep; other networks are counted now.
        say: called with the key of each network that is counted.
    """
    networks = {key(variant): variant for variant in variants}
    entries = []
    for name in sorted(networks):
        if name not in known:
            say(name)
        entries.append(f"    {json.dumps(name)}: {json.dumps(dataclasses.asdict(known.get(name) or costs.of_variant(networks[name])))}")
    head = [f'  "command": {json.dumps(COMMAND)},', '  "unit": "numbers and multiply-adds of one image",', '  "counts": {']
    with atomic_file(path) as temporary:
        temporary.write_text("\n".join(["{", *head, ",\n".join(entries), "  }", "}"]) + "\n")
    return len(networks)
