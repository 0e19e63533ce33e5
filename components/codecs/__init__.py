"""Codecs: keypoints ↔ training targets ↔ network outputs, one file per method. See `codec.Codec` for the contract."""

from __future__ import annotations

from typing import Any

from components.base.config import parse
from components.base.errors import unknown_name
from components.codecs.associative_embedding import AssociativeEmbeddingCodec, AssociativeEmbeddingSettings
from components.codecs.cal import CalCodec, CalSettings
from components.codecs.codec import Codec
from components.codecs.dark import DarkCodec, DarkSettings
from components.codecs.heatmap import HeatmapCodec, HeatmapSettings
from components.codecs.sharpose import SharposeCodec, SharposeSettings
from components.codecs.simcc import SimccCodec, SimccSettings
from components.codecs.super_resolution import SuperResolutionCodec, SuperResolutionSettings
from components.codecs.udp_gaussian import UdpGaussianCodec, UdpGaussianSettings
from components.codecs.udp_offset import UdpOffsetCodec, UdpOffsetSettings
from components.pose.crop import Convention, CropGeometry
from components.pose.skeleton import Skeleton

__all__ = ["BOTTOM_UP", "CODECS", "Codec", "build", "convention_of"]

CODECS: dict[str, tuple[Any, Any]] = {
    "heatmap": (HeatmapCodec, HeatmapSettings),
    "dark": (DarkCodec, DarkSettings),
    "udp_gaussian": (UdpGaussianCodec, UdpGaussianSettings),
    "udp_offset": (UdpOffsetCodec, UdpOffsetSettings),
    "cal": (CalCodec, CalSettings),
    "simcc": (SimccCodec, SimccSettings),
    "super_resolution": (SuperResolutionCodec, SuperResolutionSettings),
    "sharpose": (SharposeCodec, SharposeSettings),
}
# of whole images: another contract, see associative_embedding.py
BOTTOM_UP: dict[str, tuple[Any, Any]] = {"associative_embedding": (AssociativeEmbeddingCodec, AssociativeEmbeddingSettings)}


def build(name: str, geometry: CropGeometry, skeleton: Skeleton, **settings: Any) -> Any:
    """The codec `name` with its settings.

    Raises:
        FarposeError: unknown codec or setting, a value of the wrong type, or one that contradicts a published preset.
    """
    codec, settings_type = _entry(name)
    return codec(geometry, skeleton, parse(settings_type, settings, where=f"codec {name}"))


def convention_of(name: str) -> Convention:
    """The crop convention of the codec's paper.

    Raises:
        FarposeError: unknown codec.
    """
    return _entry(name)[0].convention


def _entry(name: str) -> tuple[Any, Any]:
    known = CODECS | BOTTOM_UP
    if name not in known:
        raise unknown_name("codec", name, known)
    return known[name]
