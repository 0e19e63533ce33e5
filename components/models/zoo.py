"""From a variant's name to its network and codec."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from components import codecs
from components.base.config import PARAMS, parse
from components.base.errors import FarposeError, unknown_name
from components.codecs.codec import Codec
from components.models import entries
from components.models.upscale import enlarge_input
from components.models.variant import Variant
from components.pose.skeleton import Skeleton

VARIANTS = PARAMS / "variants"


@dataclass(frozen=True)
class Built:
    """A variant's network (normalised images → tuple of tensors) and the codec that makes its targets and decodes its outputs."""

    variant: Variant
    model: nn.Module
    codec: Codec


def load_variants(folder: str | Path = VARIANTS) -> dict[str, Variant]:
    """Every variant of a folder's YAML files, by name; see `entries` for `like:`.

    `_paper` holds what a file's printed rows share; it completes every `paper` and every one of `reprints`.

    Raises:
        FarposeError: a file or an entry is wrong (names it), two entries share a name, or there is no YAML file.
    """
    files = sorted(Path(folder).glob("*.yaml"))
    return dict(_variants(folder, tuple((path.name, path.read_bytes()) for path in files)))


@functools.lru_cache(maxsize=4)
def _variants(folder: str | Path, _contents: tuple[tuple[str, bytes], ...]) -> dict[str, Variant]:
    """Parsed once for the same contents: it takes half a second, and many ask."""
    return {name: parse(Variant, {"name": name, **entry.written}, entry.where) for name, entry in entries.read(folder).items()}


def variant(name: str, folder: str | Path = VARIANTS) -> Variant:
    """One variant.

    Raises:
        FarposeError: unknown name (the nearest known one is suggested), or what `load_variants` raises.
    """
    variants = load_variants(folder)
    if name not in variants:
        raise unknown_name("variant", name, variants, where=folder)
    return variants[name]


def group_of(variant: Variant, variants: Iterable[Variant] | None = None) -> str:
    """The name of the group of variants that are equal but for the seed: that of its member with the shortest name.

    Names, tags and printed rows do not count; neither does a default that is written out.

    Args:
        variants: among which to look; by default those of `params/variants/`.
    """
    wanted = _without_seed(variant)
    others = load_variants().values() if variants is None else variants
    names = [other.name for other in others if other.method == variant.method and _without_seed(other) == wanted]
    return min([variant.name, *names], key=lambda name: (len(name), name))


def _without_seed(variant: Variant) -> dict[str, Any]:
    left_out = ("name", "tag", "baseline", *entries.PRINTED)
    said = {key: value for key, value in asdict(variant).items() if key not in left_out}
    for part in ("train", "exceptions"):
        said[part] = {key: value for key, value in said[part].items() if key != "seed"}
    return said


def network(variant: Variant, published: bool = False) -> nn.Module:
    """The variant's network with fresh weights, drawn from torch's global generator.

    Args:
        published: with the errors of the published code (SimpleBaseline's surplus cells, SHaRPose's missing row), for authors'
            checkpoints.
    SPSR's generator, where the variant has one, is drawn at random too; `upscale.load_generator` loads the published one.
    """
    model = variant.record.build(variant, published)
    return enlarge_input(model, variant.upscale, variant.network.factor) if variant.upscale else model


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
