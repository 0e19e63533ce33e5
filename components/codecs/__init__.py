"""Codecs: keypoints ↔ training targets ↔ network outputs, one file per codec. See `codec.py` for the two contracts.

A codec's module has the codec's name and is imported on demand.
"""

from __future__ import annotations

import importlib
from typing import Any

from components.base.config import parse
from components.base.errors import unknown_name
from components.base.records import modules, records
from components.codecs.codec import Codec, CodecRecord, CropCodec, ImageCodec, as_crop_codec, as_image_codec
from components.pose.crop import Convention, CropGeometry
from components.pose.skeleton import Skeleton

__all__ = ["Codec", "CropCodec", "ImageCodec", "as_crop_codec", "as_image_codec", "build", "convention_of", "names", "record"]


def build(name: str, geometry: CropGeometry, skeleton: Skeleton, **settings: Any) -> Codec:
    """The codec `name` with its settings: a `CropCodec` or an `ImageCodec`, by its record's `approach`.

    Raises:
        FarposeError: unknown codec or setting, a value of the wrong type, or one that contradicts a published preset.
    """
    found = record(name)
    return found.make(geometry, skeleton, parse(found.settings, settings, where=f"codec {name}"))


def convention_of(name: str) -> Convention:
    """The crop convention of the codec's paper.

    Raises:
        FarposeError: unknown codec.
    """
    return record(name).convention


def record(name: str) -> CodecRecord:
    """The record that the module of the codec `name` declares.

    Raises:
        FarposeError: unknown codec.
    """
    if f"{__name__}.{name}" in modules(__name__):
        found: CodecRecord | None = getattr(importlib.import_module(f"{__name__}.{name}"), "CODEC", None)
        if found is not None:
            return found
    raise unknown_name("codec", name, names())


def names() -> tuple[str, ...]:
    """All codecs, sorted."""
    return tuple(records(__name__, "CODEC", required=False))
