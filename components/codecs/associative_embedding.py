"""Shell of the associative embedding; its owner replaces this file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from components.pose.crop import Convention, CropGeometry
from components.pose.skeleton import Skeleton


@dataclass(frozen=True)
class AssociativeEmbeddingSettings:
    """Settings."""


class AssociativeEmbeddingCodec:
    """Codec."""

    convention: ClassVar[Convention] = "classic"

    def __init__(self, geometry: CropGeometry, skeleton: Skeleton, settings: AssociativeEmbeddingSettings) -> None:
        self.geometry, self.num_keypoints = geometry, len(skeleton)
