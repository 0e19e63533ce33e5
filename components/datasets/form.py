"""How the annotation files of a data set differ from COCO's own; one reader, `components.datasets.coco`, serves them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class CocoForm:
    """The differences to COCO's files.

    Attributes:
        joint_names: joints that the files may name otherwise: the skeleton's name → the files'.
        area_of_box: the persons' area as a share of their box, which is not cut to the image; None: their own `area`.
        crowd_index: key of the images' crowding; None: there is none.
    """

    joint_names: Mapping[str, str] = field(default_factory=dict)
    area_of_box: float | None = None
    crowd_index: str | None = None
