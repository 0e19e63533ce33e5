"""What every reader of annotation files gives: persons, their records and the images; and which readers there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from components.base.errors import unknown_name
from components.base.records import records
from components.datasets.params import READERS, SourceParams
from components.datasets.records import Records
from components.pose.persons import Persons


@dataclass(frozen=True)
class AnnotationFile:
    """What one annotation file holds.

    Attributes:
        persons: one row per annotated person, in the file's order; `records` are their annotations.
        images: one row (`IMAGE_COLUMNS`) per image, with or without persons, in the file's order.
        repeated: (R,) image ids of the entries left out because an identical entry came before.
        others: (O,) image ids of the annotations left out because they are of other categories than persons; -1 without an image.
    """

    persons: Persons
    records: Records
    images: pd.DataFrame
    repeated: np.ndarray
    others: np.ndarray

    def part(self, image_ids: np.ndarray, split: str, inverse: bool = False) -> AnnotationFile:
        """What belongs to some of the images (`inverse`: to all others), as the split `split`."""
        rows = np.isin(self.persons.frame["image_id"], image_ids, invert=inverse)
        persons = self.persons.select(rows)
        images = self.images[np.isin(self.images["image_id"], image_ids, invert=inverse)].reset_index(drop=True)
        return AnnotationFile(
            replace(persons, frame=persons.frame.assign(split=split)),
            self.records.select(rows),
            images.assign(split=split),
            self.repeated[np.isin(self.repeated, image_ids, invert=inverse)],
            self.others[np.isin(self.others, image_ids, invert=inverse)],
        )


@dataclass(frozen=True)
class Reader:
    """A form of annotation files.

    Attributes:
        name: the `format` of params/data.yaml, and the module's name.
        read: of a data set's name and entry, its folder and a split: what the split's annotation file holds. Reads strictly:
            nothing is repaired, guessed or left out without being counted; raises FarposeError.
        gives: optional columns of the persons table (`OPTIONAL_COLUMNS`) that it fills; the others are NaN.
    """

    name: str
    read: Callable[[str, SourceParams, Path, str], AnnotationFile]
    gives: tuple[str, ...] = ()


def reader_of(name: str, source: SourceParams) -> Reader:
    """The reader of a data set's format.

    Args:
        name: the data set's.
    Raises:
        FarposeError: there is none.
    """
    known: dict[str, Reader] = records(READERS, "READER")
    if source.format not in known:
        raise unknown_name("format", source.format, known, where=f"data set {name}")
    return known[source.format]


def read_split(name: str, source: SourceParams, root: Path, split: str) -> AnnotationFile:
    """Read the annotation file of one split.

    Args:
        name: the data set's.
        root: its folder, data/<source>.
    Raises:
        FarposeError: no reader for its format, no such split, or the file is wrong.
    """
    if split not in source.splits:
        raise unknown_name("split", split, source.splits, where=f"data set {name}")
    return reader_of(name, source).read(name, source, Path(root), split)
