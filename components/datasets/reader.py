"""Readers of annotation files, and what they return: persons, their records and the images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from components.base.errors import FarposeError, unknown_name
from components.base.records import records
from components.datasets.params import READERS, SourceParams
from components.datasets.records import Records
from components.pose.mapping import mapping_of
from components.pose.persons import UPRIGHT, Persons
from components.pose.skeleton import WHOLEBODY_133

NEEDS = {"crowdpose": "crowd_index", "pckh": "head_size"}  # evaluator → the optional column that it is computed from


@dataclass(frozen=True)
class AnnotationFile:
    """The contents of one annotation file.

    Attributes:
        persons: one row per annotated person, in the file's order; `records` are their annotations.
        images: one row (`IMAGE_COLUMNS`) per image, with or without persons, in the file's order.
        repeated: (R,) image ids of removed entries, which repeat an earlier entry.
        derived: by key of the annotations the (N,) bool mask of values that the file lacks, see `datasets.derived`.
        others: (O,) image ids of removed annotations, whose category is not persons; -1 without an image.
        left_out: what else of the file is not read: in words → how many.
    """

    persons: Persons
    records: Records
    images: pd.DataFrame
    repeated: np.ndarray
    others: np.ndarray
    derived: dict[str, np.ndarray] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    def part(self, image_ids: np.ndarray, split: str, inverse: bool = False) -> AnnotationFile:
        """The part for some of the images (`inverse`: for all others), as the split `split`. What is left out counts for the others."""
        rows = np.isin(self.persons.frame["image_id"], image_ids, invert=inverse)
        persons = self.persons.select(rows)
        images = self.images[np.isin(self.images["image_id"], image_ids, invert=inverse)].reset_index(drop=True)
        return AnnotationFile(
            replace(persons, frame=persons.frame.assign(split=split)),
            self.records.select(rows),
            images.assign(split=split),
            self.repeated[np.isin(self.repeated, image_ids, invert=inverse)],
            self.others[np.isin(self.others, image_ids, invert=inverse)],
            {key: mask[rows] for key, mask in self.derived.items()},
            self.left_out if inverse else {},
        )


@dataclass(frozen=True)
class Reader:
    """The reader of one form of annotation files.

    Attributes:
        name: the `format` of params/data.yaml, and the module's name.
        read: called with a data set's name, entry and folder and a split; returns the contents of the split's annotation file. It is
            strict: nothing is repaired, guessed or dropped without being counted; raises FarposeError.
        gives: optional columns of the persons table (`OPTIONAL_COLUMNS`) that it fills; the others are NaN.
        may_give: those that it fills for some persons.
        boxes: "annotated" outlines, which are cut to their images, or squares "derived" from a centre and a scale, which are not.
    """

    name: str
    read: Callable[[str, SourceParams, Path, str], AnnotationFile]
    gives: tuple[str, ...] = ()
    may_give: tuple[str, ...] = ()
    boxes: Literal["annotated", "derived"] = "annotated"


def reader_of(name: str, source: SourceParams) -> Reader:
    """The reader of a data set's format.

    Args:
        name: of the data set.
    Raises:
        FarposeError: there is no reader.
    """
    known: dict[str, Reader] = records(READERS, "READER")
    if source.format not in known:
        raise unknown_name("format", source.format, known, where=f"data set {name}")
    return known[source.format]


def require_evaluator(name: str, source: SourceParams) -> None:
    """Refuse a data set whose annotations lack what its evaluator needs.

    Args:
        name: of the data set.
    Raises:
        FarposeError: names what is missing.
    """
    reader, where = reader_of(name, source), f"params/data.yaml: data.sources.{name}"
    column = NEEDS.get(source.evaluator)
    if column and column not in (*reader.gives, *reader.may_give):
        problem = f"the evaluator {source.evaluator!r} needs the column {column}, which the format {source.format!r} does not give"
        raise FarposeError(problem, where=where, fix="evaluator: oks")
    if source.evaluator == "wholebody" and source.table_skeleton(name).keypoint_names != WHOLEBODY_133.keypoint_names:
        raise FarposeError(f"the evaluator 'wholebody' needs the skeleton {WHOLEBODY_133.name}", where=where, fix="evaluator: oks")


def read_split(name: str, source: SourceParams, root: Path, split: str) -> AnnotationFile:
    """Read the annotation file of one split, with the joints of `SourceParams.table_skeleton`.

    Args:
        name: of the data set.
        root: its folder, data/<source>.
    Raises:
        FarposeError: no reader for its format, no such split, or an invalid file.
    """
    if split not in source.splits:
        raise unknown_name("split", split, source.splits, where=f"data set {name}")
    found = reader_of(name, source).read(name, source, Path(root), split)
    mapped = found.persons if source.mapping is None else mapping_of(source.mapping).persons(found.persons)
    upright, category_id = source.orientation == UPRIGHT, found.persons.category_id
    return replace(found, persons=replace(mapped, upright=upright, category_id=category_id))
