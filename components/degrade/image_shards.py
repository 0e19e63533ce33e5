"""Shards of whole images, for bottom-up networks: training images for the device, evaluation images as evaluated.

Training holds the images with at least one labelled person. Evaluation holds all images of a split, because false detections on
empty images count too. (HigherHRNet's published loader also trains on images whose only people are unlabelled or crowd regions. It
masks those people, so such images supervise background only.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from components.base.errors import FarposeError, unknown_name
from components.degrade.area import area_mean
from components.degrade.images import read_image
from components.degrade.params import DegradeParams, ShardSpec
from components.degrade.protocol import View, protocol
from components.degrade.regions import Regions, regions_of
from components.degrade.shard import (
    TRAIN,
    TRAIN_PIXELS,
    Layout,
    Opened,
    Plan,
    Rows,
    Source,
    Stored,
    eval_input,
    inputs_file,
    persons_table,
)
from components.pose.ignored import IgnoredRegions
from components.pose.persons import SCALAR_COLUMNS, UPRIGHT, Persons
from components.pose.skeleton import Skeleton
from components.pose.whole_image import FITS, Fit, ImageGeometry

COUNTED_FULLY = 127  # last byte of a stored pixel that counts fully in the loss; 0: it does not count
WHOLE_IMAGE = -1  # in place of the annotation in the seed of an image's noise


def plan_images(source: Source, spec: ShardSpec) -> Plan:
    """A shard of whole images: those with labelled persons for training, all images of each other split for evaluation.

    Raises:
        FarposeError: a split is missing or has no labelled person, or a person's image has no row in the images table.
    """
    if source.images is None or source.ignored is None:
        raise FarposeError("a shard of whole images needs the images table and the ignore regions", fix="run the fetch stage")
    images, labelled = source.images, source.trained
    for split in source.evaluated:
        source.labelled(split)
    for split in source.splits:
        _check_rows(source.persons.split(split), images, split)
    train = _rows(images[(images["split"] == TRAIN) & images["image_id"].isin(labelled.frame["image_id"])])
    ignored = source.ignored.split(TRAIN)
    return Plan(
        train,
        plan_whole(train.image_size, spec),
        {split: _evaluated(images[images["split"] == split], spec) for split in source.evaluated},
        lambda image_id, size, step, stored: _counted(ignored, image_id, size, step, stored),
        {split: labelled if split == TRAIN else source.persons.split(split) for split in source.splits},
    )


def _check_rows(persons: Persons, images: pd.DataFrame, split: str) -> None:
    missing = sorted(set(persons.frame["image_id"]) - set(images.loc[images["split"] == split, "image_id"]))
    if missing:
        problem = f"image {missing[0]} of split {split!r} has persons but no row ({len(missing)} such images)"
        raise FarposeError(problem, where="images.parquet", fix="run the fetch stage again")


def _rows(frame: pd.DataFrame) -> Rows:
    """`Rows` of rows of images.parquet."""
    columns = {name: frame[name].to_numpy() for name in ("image_id", "image_path", "image_width", "image_height")}
    sizes = np.stack([columns["image_width"], columns["image_height"]], 1)
    return Rows(columns["image_path"], sizes, np.stack([columns["image_id"], np.full(len(frame), WHOLE_IMAGE)], 1), columns)


def _evaluated(frame: pd.DataFrame, spec: ShardSpec) -> tuple[Rows, dict[str, Layout]]:
    rows = _rows(frame)
    layouts: dict[str, Layout] = {}
    for fit in FITS:
        matrices = [spec.image_geometry(fit).image_to_input(int(width), int(height)) for width, height in rows.image_size]
        layouts[fit] = Layout(np.array(matrices).reshape(-1, 2, 3), _input_sizes(rows.image_size, spec, fit))
    return rows, layouts


def _input_sizes(image_size: np.ndarray, spec: ShardSpec, fit: Fit) -> np.ndarray:
    """(N, 2) height and width of the inputs at scale 1, px, of images of (N, 2) width and height."""
    sizes = [spec.image_geometry(fit).input_size(int(width), int(height)) for width, height in image_size]
    return np.array(sizes, np.int64).reshape(-1, 2)


def plan_whole(image_size: np.ndarray, spec: ShardSpec) -> Regions:
    """How whole training images of (N, 2) width and height are stored: completely, at the protocol's density."""
    step = protocol(spec.protocol).stored_step(image_size.min(1) / spec.input_size[0])
    return regions_of(np.concatenate([np.zeros_like(image_size), image_size], 1), step)


def _counted(ignored: IgnoredRegions, image_id: int, image_size: tuple[int, int], step: float, size: tuple[int, int]) -> np.ndarray | int:
    """(h, w) uint8: how much of each stored pixel counts in the loss, 0 to `COUNTED_FULLY`; or one such number for all."""
    mask = ignored.mask(image_id)
    if mask is None:
        return COUNTED_FULLY
    if mask.shape != image_size:
        found = f"ignore region is for {mask.shape[1]}x{mask.shape[0]} px, the image has {image_size[1]}x{image_size[0]}"
        raise FarposeError(found, where="ignored.parquet", fix="run the fetch stage again")
    counted = np.where(mask, 0, COUNTED_FULLY).astype(np.uint8)
    if step == 1:
        return counted
    first = step / 2 - 0.5
    return np.rint(area_mean(counted[..., None], (first, first), (step, step), size)[..., 0]).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class TrainImages(Stored):
    """N training images, each with at least one labelled person; the last byte of a pixel counts from 0 to `COUNTED_FULLY`.

    `keypoints_image` is (N, M, K, 2) float32 and `visible` (N, M, K); M is the most persons of any image, and `visible` is False
    where an image has fewer.

    Attributes:
        image_size: (N, 2) width, height, px of the original image.
    """

    highest: ClassVar[int] = 3

    image_size: Tensor

    @classmethod
    def open(cls, directory: str | Path) -> TrainImages:
        """Open a shard's training images.

        Raises:
            FarposeError: the shard is missing, cut short, of crops or of another format version.
        """
        opened = Opened.of(directory, True, TRAIN, TRAIN_PIXELS, persons_table(TRAIN))
        columns = opened.columns()
        keypoints, visible = _by_image(Persons.read(opened.directory / persons_table(TRAIN)), columns["image_id"])
        return cls(
            **opened.stored(columns),
            keypoints_image=torch.from_numpy(keypoints),
            visible=torch.from_numpy(visible),
            image_size=torch.from_numpy(np.stack([columns["image_width"], columns["image_height"]], 1)),
        )


def _by_image(persons: Persons, image_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (N, M, K, 2) float32 and visible (N, M, K) of the persons of each image, in the table's order."""
    order = np.argsort(image_id, kind="stable")
    owner = order[np.searchsorted(image_id, persons.frame["image_id"].to_numpy(), sorter=order)]
    by_owner = np.argsort(owner, kind="stable")
    counts = np.bincount(owner, minlength=len(image_id))
    place = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    keypoints = np.zeros((len(image_id), int(counts.max()), len(persons.skeleton), 3), np.float32)
    keypoints[owner[by_owner], place] = persons.keypoints[by_owner]
    return np.ascontiguousarray(keypoints[..., :2]), keypoints[..., 2] > 0


@dataclass(frozen=True)
class EvalImages:
    """N whole images as they are evaluated.

    Attributes:
        image_id: (N,) int64.
        image_path: (N,) text, relative to the data set's root; the whole path of users' own files.
        width, height: (N,) int64 px of the original image.
        input_sizes: (N, 2) int64 height and width of the inputs at scale 1.
        persons: all persons of the split, including crowd regions and unlabelled ones; empty for users' own files.
        geometry: converts images to inputs, and heatmap cells to image px.
        flat, offset: the inputs' bytes, one after another, and where each begins.
        upright: whether files are rotated by their EXIF orientation.
    """

    image_id: np.ndarray
    image_path: np.ndarray
    width: np.ndarray
    height: np.ndarray
    input_sizes: np.ndarray
    persons: Persons
    skeleton: Skeleton
    geometry: ImageGeometry
    protocol: str
    flat: np.ndarray
    offset: np.ndarray
    upright: bool = False

    def __len__(self) -> int:
        return len(self.image_id)

    def rows(self, part: slice) -> EvalImages:
        """A part of the images, without a copy of their pixels; `persons` stay those of all."""
        names = ("image_id", "image_path", "width", "height", "input_sizes", "offset")
        return replace(self, **{name: getattr(self, name)[part] for name in names})

    @classmethod
    def open(cls, directory: str | Path, fit: Fit = "short_side", split: str = "val") -> EvalImages:
        """Open a shard's evaluation images of one split and one fit, memory-mapped.

        Raises:
            FarposeError: unknown fit, no such split, or the shard is missing, cut short, of crops or of another format version.
        """
        if fit not in FITS:
            raise unknown_name("image fit", fit, FITS)
        opened = Opened.of(directory, True, split, inputs_file(split, fit), persons_table(split))
        columns, spec = opened.columns(), opened.spec
        sizes = _input_sizes(np.stack([columns["image_width"], columns["image_height"]], 1), spec, fit)
        return cls(
            image_id=columns["image_id"],
            image_path=columns["image_path"],
            width=columns["image_width"],
            height=columns["image_height"],
            input_sizes=sizes,
            persons=Persons.read(opened.directory / persons_table(split)),
            skeleton=opened.skeleton,
            geometry=spec.image_geometry(fit),
            protocol=spec.protocol,
            flat=opened.pixels(inputs_file(split, fit)),
            offset=_offsets(sizes),
            upright=opened.about.get("orientation") == UPRIGHT,
        )

    def pixels(self, index: int) -> np.ndarray:
        """(3, H, W) uint8 RGB: one image at scale 1."""
        height, width = self.input_sizes[index]
        return self.flat[self.offset[index] :][: 3 * height * width].reshape(3, height, width)

    def at_scale(self, index: int, scale: float, smallest: float, data_root: str | Path, params: DegradeParams) -> np.ndarray:
        """(3, H, W) uint8 RGB: one image at another scale, made again from the original file as in the published test.

        Scales above 1 use more of the original's pixels than the protocol's size allows, so the comparison is not equal.

        Raises:
            FarposeError: the image is missing, damaged or of a different size than in the table.
        """
        path = Path(data_root) / str(self.image_path[index])
        image = read_image(path, self.upright)
        if image.shape[:2] != (self.height[index], self.width[index]):
            raise FarposeError("image size differs from the shard's", where=path, fix="run the degrade stage again")
        return eval_image(image, self._spec, self.geometry.fit, params, int(self.image_id[index]), scale, smallest)

    @property
    def _spec(self) -> ShardSpec:
        return ShardSpec((self.geometry.size, self.geometry.size), self.protocol, images=True)


def eval_image(
    image: np.ndarray, spec: ShardSpec, fit: Fit, params: DegradeParams, image_id: int, scale: float = 1.0, smallest: float = 1.0
) -> np.ndarray:
    """(3, H, W) uint8 RGB: an image exactly as it is evaluated.

    Args:
        image: (h, w, 3) uint8 BGR.
        image_id: it and the seed decide all noise, whatever the order of work.
        scale, smallest: of a multi-scale test, see `ImageGeometry.input_size`.
    """
    place = image.shape[1], image.shape[0], scale, smallest
    geometry = spec.image_geometry(fit)
    view = View(geometry.image_to_input(*place), geometry.input_size(*place))
    return eval_input(image, view, spec.protocol, params, (image_id, WHOLE_IMAGE))


def fitted(
    images: Iterable[np.ndarray],
    names: Sequence[str],
    spec: ShardSpec,
    skeleton: Skeleton,
    fit: Fit = "short_side",
    params: DegradeParams | None = None,
) -> EvalImages:
    """Images in memory as a bottom-up network takes them; image ids count from 0.

    Args:
        images: (h, w, 3) uint8 BGR of any sizes, at least one; each is released once it is fitted.
        names: for error messages, or the files.
    """
    pixels, sides = [], []
    for number, image in enumerate(images):
        sides.append(image.shape[:2])
        pixels.append(eval_image(image, spec, fit, params or DegradeParams(), number))
    height, width = np.array(sides, np.int64).T
    sizes = _input_sizes(np.stack([width, height], 1), spec, fit)
    return EvalImages(
        image_id=np.arange(len(pixels)),
        image_path=np.array(names, dtype=object),
        width=width,
        height=height,
        input_sizes=sizes,
        persons=_nobody(skeleton),
        skeleton=skeleton,
        geometry=spec.image_geometry(fit),
        protocol=spec.protocol,
        flat=np.concatenate([image.ravel() for image in pixels]),
        offset=_offsets(sizes),
    )


def _offsets(sizes: np.ndarray) -> np.ndarray:
    """(N,) first byte of each input of (N, 2) height and width in the flat file."""
    return np.cumsum(3 * sizes.prod(1)) - 3 * sizes.prod(1)


def _nobody(skeleton: Skeleton) -> Persons:
    frame = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in SCALAR_COLUMNS.items()})
    return Persons(frame, np.zeros((0, 4)), np.zeros((0, len(skeleton), 3)), skeleton)
