"""The same annotations with the names of the files that are there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from components.datasets.file_names import match
from components.datasets.reader import AnnotationFile


def with_found(read: AnnotationFile, root: Path, folder: str) -> tuple[AnnotationFile, int, str]:
    """Images whose file has nearly the annotated name get the file's (`file_names.match`).

    Args:
        root: the data set's root.
        folder: of the split's images, inside the root.
    Returns:
        The annotations, how many images were found so, and in words which names could be several files.
    """
    paths = read.images["image_path"]
    there = np.array([(root / path).is_file() for path in paths], dtype=bool)
    if there.all():
        return read, 0, ""
    found = match(root, folder, paths[~there], taken=paths[there])
    persons = read.persons.frame.assign(image_path=read.persons.frame["image_path"].replace(found.paths))
    images = read.images.assign(image_path=paths.replace(found.paths))
    return replace(read, persons=replace(read.persons, frame=persons), images=images), len(found.paths), found.said()
