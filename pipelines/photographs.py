"""A user's own images: which files they are, what they are called, and where their persons' boxes come from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.base.errors import FarposeError

Boxes = dict[int, np.ndarray]  # image number -> (N, 4) left, top, width, height, px of the image
SHEET, SHEET_FROM = "contact_sheet.png", 3  # all images on one page, of so many images


@dataclass(frozen=True)
class Photograph:
    """A user's image file, upright.

    Attributes:
        path: the file.
        width, height: px of the upright image.
        turned: the file's EXIF orientation turns or mirrors the stored pixels.
    """

    path: Path
    width: int
    height: int
    turned: bool

    @classmethod
    def of(cls, path: Path) -> Photograph:
        """Open a file.

        Raises:
            FarposeError: it is damaged or not an image.
        """
        from components.degrade.images import read_image
        from components.pose.orientation import STORED, orientation_of

        try:
            upright = read_image(path, upright=True)
        except FarposeError as error:  # its advice is about data sets
            raise FarposeError(error.problem, where=path, fix="give another file, or this one in another format") from error
        return cls(path, upright.shape[1], upright.shape[0], orientation_of(path.read_bytes()) != STORED)

    @property
    def record(self) -> dict[str, Any]:
        return {"file": str(self.path), "width": self.width, "height": self.height, "turned": self.turned}


@dataclass(frozen=True)
class Located:
    """Where a user says that the persons of some images are.

    Attributes:
        boxes: at least an empty array for every image.
        category_id: of persons, which predictions carry.
        notes: what was left out or decided, for the terminal.
    """

    boxes: Boxes
    category_id: int = 1
    notes: tuple[str, ...] = ()


def unique(images: list[Path]) -> dict[int, Path]:
    """Images by the number that COCO's file names carry, or counted from 1 if they do not all carry one of their own.

    Raises:
        FarposeError: an image is missing, or two have one name.
    """
    for path in images:
        if not path.is_file():
            raise FarposeError("image not found", where=path, fix="give the path of an image file")
    stems = [path.stem for path in images]
    if len(set(stems)) != len(stems):
        raise FarposeError("two images have the same name, and their drawings would overwrite each other", where="IMAGE", fix="rename one")
    numbers = [int(stem) for stem in stems] if all(stem.isdecimal() for stem in stems) else []
    if len(set(numbers)) != len(stems):
        numbers = list(range(1, len(images) + 1))
    return dict(zip(numbers, images, strict=True))


def readable(images: list[Path], notes: list[str]) -> list[Path]:
    """Those images of a folder that can be read; of each other one `notes` get a line."""
    kept = []
    for path in images:
        try:
            Photograph.of(path)
        except FarposeError as error:
            notes.append(f"left out: {path}: {error.problem}")
        else:
            kept.append(path)
    return kept


def drawings(output: Path, images: Iterable[Path]) -> dict[Path, Path]:
    """Where each image's drawing goes.

    Raises:
        FarposeError: the output is not a folder, or a drawing would replace an image or the contact sheet.
    """
    if output.exists() and not output.is_dir():
        raise FarposeError("not a folder", where=output, fix="give another one as --output")
    places = {path: output / f"{path.stem}.png" for path in images}
    kept = {path.resolve() for path in places}
    for path, place in places.items():
        if place.name == SHEET and len(places) >= SHEET_FROM:
            raise FarposeError("its drawing would have the contact sheet's name", where=path, fix="rename the image")
        if place.resolve() in kept:
            raise FarposeError("the drawing would replace the image", where=place, fix="give another folder as --output")
    return places


def given(path: Path, photographs: dict[int, Photograph]) -> Located:
    """Persons' boxes of a COCO annotation file (matched by file name) or a list of COCO detections (by image number or file name).

    Raises:
        FarposeError: another file, a wrong box (see `components.evaluate.boxes`), or no box of a person in one of the images.
    """
    from components.evaluate.boxes import boxes_of_files

    files = {number: photograph.path for number, photograph in photographs.items()}
    found = boxes_of_files(path, files, {number: (float(shot.width), float(shot.height)) for number, shot in photographs.items()})
    if not len(found):
        seen = f": {'; '.join(found.notes)}" if found.notes else ""
        numbers = ", ".join(f"{number} is {file.name}" for number, file in list(files.items())[:3])
        fix = f"boxes are matched by file name, or by number in a list of detections ({numbers})"
        raise FarposeError(f"no box belongs to one of these images{seen}", where=path, fix=fix)
    boxes = {number: found.bbox_xywh[found.image_id == number] for number in photographs}
    return Located(boxes, found.category_id, found.notes)
