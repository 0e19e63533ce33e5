"""From a variant's name to its network and codec."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from components import codecs
from components.base.config import PARAMS, load_yaml, parse
from components.base.errors import FarposeError, unknown_name
from components.codecs.codec import Codec
from components.models import (
    cal,
    higherhrnet,
    higherpose,
    hrformer,
    hrnet,
    limbpose,
    litepose,
    sharpose,
    simcc,
    simple_bottomup,
    simplebaseline,
    siu,
    sr_head,
    sr_head_bottomup,
    srpose,
    tokenpose,
    transpose,
    udp,
)
from components.models.backbones import HRNETS
from components.models.upscale import enlarge_input
from components.models.variant import Variant
from components.pose.skeleton import Skeleton

VARIANTS = PARAMS / "variants"


def _plain(variant: Variant, published: bool) -> nn.Module:
    return hrnet.build(variant) if variant.backbone in HRNETS else simplebaseline.build(variant, published=published)


BUILDERS: dict[str, Callable[[Variant, bool], nn.Module]] = {
    "hrnet": _plain,
    "simple": _plain,
    "dark": _plain,
    "udp_gaussian": udp.build,
    "udp_offset": udp.build,
    "cal": lambda variant, published: cal.build(variant),
    "hrformer": hrformer.build,
    "transpose": transpose.build,
    "tokenpose": tokenpose.build,
    "sr_head": sr_head.build,
    "srpose": srpose.build,
    "siu": siu.build,
    "sharpose": sharpose.build,
    "simcc": simcc.build,
    "higherhrnet": higherhrnet.build,
    "litepose": litepose.build,
    "higherpose": higherpose.build,
    "limbpose": limbpose.build,
    "sr_head_bottomup": sr_head_bottomup.build,
    "simple_bottomup": simple_bottomup.build,
}


@dataclass(frozen=True)
class Built:
    """A variant's network (normalised images → tuple of tensors) and the codec that makes its targets and reads it."""

    variant: Variant
    model: nn.Module
    codec: Codec


def load_variants(folder: str | Path = VARIANTS) -> dict[str, Variant]:
    """Every variant of a folder's YAML files, by name. Keys that start with `_` hold shared fragments (YAML anchors).

    `_paper` is what a file's printed rows share: it fills up every `paper` and every one of `reprints`.

    Raises:
        FarposeError: a file or an entry is wrong (names it), two entries share a name, or there is no YAML file.
    """
    files = sorted(Path(folder).glob("*.yaml"))
    if not files:
        raise FarposeError("no variant files (*.yaml)", where=folder)
    variants: dict[str, Variant] = {}
    owner: dict[str, Path] = {}
    for path in files:
        table = load_yaml(path)
        for name, entry in table.items():
            if name.startswith("_"):
                continue
            if name in variants:
                raise FarposeError(f"variant {name!r} is already in {owner[name].name}", where=path, fix="keep one of them")
            variants[name], owner[name] = _parse(path, name, entry, table.get("_paper", {})), path
    return variants


def _parse(path: Path, name: str, entry: object, paper: dict[str, Any]) -> Variant:
    where = f"{path}: {name}"
    if not isinstance(entry, dict):
        raise FarposeError(f"expected a mapping, got {entry!r}", where=where)
    printed: dict[str, Any] = {"paper": {**paper, **entry["paper"]}} if "paper" in entry else {}
    if "reprints" in entry:
        printed["reprints"] = [{**paper, **row} for row in entry["reprints"]]
    return parse(Variant, {"name": name, **entry, **printed}, where)


def variant(name: str, folder: str | Path = VARIANTS) -> Variant:
    """One variant.

    Raises:
        FarposeError: unknown name (the nearest known one is suggested), or what `load_variants` raises.
    """
    variants = load_variants(folder)
    if name not in variants:
        raise unknown_name("variant", name, variants, where=folder)
    return variants[name]


def network(variant: Variant, published: bool = False) -> nn.Module:
    """The variant's network with fresh weights, drawn from torch's global generator.

    Args:
        published: with the errors of the published code (SimpleBaseline's surplus cells, SHaRPose's missing row), for authors'
            checkpoints.
    SPSR's generator, where the variant has one, is drawn at random as well; `upscale.load_generator` reads the published one.
    """
    model = BUILDERS[variant.method](variant, published)
    return enlarge_input(model, variant.network.upscale) if variant.network.upscale else model


def build(variant: Variant, skeleton: Skeleton | None = None) -> Built:
    """The variant's network with fresh weights, and its codec.

    Args:
        skeleton: joints of the persons table if they are not in the data set's usual order; must have as many.
    Raises:
        FarposeError: a codec setting is wrong, or the skeleton has another number of joints.
    """
    skeleton = skeleton or variant.skeleton
    if len(skeleton) != variant.num_keypoints:
        problem = f"made for {variant.num_keypoints} keypoints, but skeleton {skeleton.name} has {len(skeleton)}"
        raise FarposeError(problem, where=f"variant {variant.name}", fix="use data of the variant's data set")
    codec = codecs.build(variant.codec_name, variant.geometry(), skeleton, **variant.codec)
    return Built(variant, network(variant), codec)
