"""Open a shard of whole images: training images for the device, validation images as evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from components.base.errors import FarposeError, unknown_name
from components.degrade.image_stage import IMAGE_FORMAT_VERSION, TRAIN_PERSONS, VAL_PERSONS, Images, eval_image, input_sizes, val_pixels
from components.degrade.images import read_image
from components.degrade.params import DegradeParams, Protocol, ShardSpec
from components.degrade.shards import about_shard, damaged, read_column, require_split
from components.degrade.stage import IMAGE_FORMAT, TRAIN_PIXELS, TRAIN_TABLE, VAL_TABLE
from components.pose.persons import SCALAR_COLUMNS, Persons
from components.pose.skeleton import Skeleton
from components.pose.whole_image import FITS, Fit, ImageGeometry


@dataclass(frozen=True)
class DeviceImages:
    """Training images on one device. Attributes are those of `TrainImages`, as tensors; pixels are (P,) int32."""

    pixels: Tensor
    offset: Tensor
    height: Tensor
    width: Tensor
    image_to_stored: Tensor
    image_size: Tensor
    keypoints_image: Tensor
    visible: Tensor
    protocol: Protocol
    input_size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.offset)

    @property
    def device(self) -> torch.device:
        return self.pixels.device


@dataclass(frozen=True)
class TrainImages:
    """N training images of any size, each with at least one labelled person, memory-mapped.

    Attributes:
        pixels: (P, 4) uint8 red, green, blue, and how much of the pixel counts in the loss (0 to 127); image n is
            `pixels[offset[n]:][:height[n] * width[n]]`, row by row, with a border of one px of zeros.
        offset, height, width: (N,) int64.
        image_to_stored: (N, 2, 3) affine matrices, image px → px of the stored image.
        image_size: (N, 2) width, height, px of the original image.
        keypoints_image: (N, M, K, 2) float32 x, y in image px, of the labelled persons; M is the most of any image.
        visible: (N, M, K) bool, labelled in the annotation; False where an image has fewer than M persons.
        image_id: (N,) int64.
    """

    pixels: np.ndarray
    offset: np.ndarray
    height: np.ndarray
    width: np.ndarray
    image_to_stored: np.ndarray
    image_size: np.ndarray
    keypoints_image: np.ndarray
    visible: np.ndarray
    image_id: np.ndarray
    skeleton: Skeleton
    protocol: Protocol
    input_size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.offset)

    @classmethod
    def open(cls, directory: str | Path) -> TrainImages:
        """Open a shard's training images.

        Raises:
            FarposeError: the shard is missing, cut short, of crops or of another format version.
        """
        directory = Path(directory)
        about = about_shard(directory, [TRAIN_PIXELS, TRAIN_TABLE, TRAIN_PERSONS], IMAGE_FORMAT, IMAGE_FORMAT_VERSION)
        pixels = np.load(directory / TRAIN_PIXELS, mmap_mode="c")
        table, persons = pq.read_table(directory / TRAIN_TABLE), Persons.read(directory / TRAIN_PERSONS)
        if (len(pixels), len(table), len(persons)) != tuple(about["train"][name] for name in ("pixels", "images", "persons")):
            raise damaged(directory, IMAGE_FORMAT)
        image_id = read_column(table, "image_id")
        keypoints, visible = _by_image(persons, image_id)
        return cls(
            pixels=pixels,
            offset=read_column(table, "offset"),
            height=read_column(table, "height"),
            width=read_column(table, "width"),
            image_to_stored=read_column(table, "image_to_stored").reshape(-1, 2, 3),
            image_size=np.stack([read_column(table, "image_width"), read_column(table, "image_height")], 1),
            keypoints_image=keypoints,
            visible=visible,
            image_id=image_id,
            skeleton=persons.skeleton,
            protocol=about["protocol"],
            input_size=tuple(about["input_size"]),
        )

    def to(self, device: str | torch.device) -> DeviceImages:
        """Load everything to a device at once. On the CPU the pixels stay memory-mapped and nothing is copied."""
        return DeviceImages(
            pixels=torch.from_numpy(self.pixels.view(np.int32).reshape(-1)).to(device),
            offset=torch.from_numpy(self.offset).to(device),
            height=torch.from_numpy(self.height.astype(np.int32)).to(device),
            width=torch.from_numpy(self.width.astype(np.int32)).to(device),
            image_to_stored=torch.from_numpy(self.image_to_stored).to(device),
            image_size=torch.from_numpy(self.image_size).to(device),
            keypoints_image=torch.from_numpy(self.keypoints_image).to(device),
            visible=torch.from_numpy(self.visible).to(device),
            protocol=self.protocol,
            input_size=self.input_size,
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
        image_path: (N,) text, relative to the data set's root; of users' own files their whole path.
        width, height: (N,) int64 px of the original image.
        input_sizes: (N, 2) int64 height and width of the inputs at scale 1.
        persons: all persons of the split, crowd regions and unlabelled ones too; empty for users' own files.
        geometry: how an image becomes its input, and heatmap cells image px.
        flat, offset: the inputs' bytes, one after another, and where each begins.
        upright: whether files are turned as their EXIF orientation says.
    """

    image_id: np.ndarray
    image_path: np.ndarray
    width: np.ndarray
    height: np.ndarray
    input_sizes: np.ndarray
    persons: Persons
    skeleton: Skeleton
    geometry: ImageGeometry
    protocol: Protocol
    flat: np.ndarray
    offset: np.ndarray
    upright: bool = False

    def __len__(self) -> int:
        return len(self.image_id)

    @classmethod
    def open(cls, directory: str | Path, fit: Fit = "short_side", split: str = "val") -> EvalImages:
        """Open a shard's validation images of one fit, memory-mapped.

        Raises:
            FarposeError: unknown fit, or the shard is missing, cut short, of crops or of another format version.
        """
        require_split(split, directory)
        if fit not in FITS:
            raise unknown_name("image fit", fit, FITS)
        directory = Path(directory)
        about = about_shard(directory, [val_pixels(fit), VAL_TABLE, VAL_PERSONS], IMAGE_FORMAT, IMAGE_FORMAT_VERSION)
        table, persons = pq.read_table(directory / VAL_TABLE), Persons.read(directory / VAL_PERSONS)
        if (len(table), len(persons)) != (about["val"]["images"], about["val"]["persons"]):
            raise damaged(directory, IMAGE_FORMAT)
        return cls(
            image_id=read_column(table, "image_id"),
            image_path=table["image_path"].to_pandas().to_numpy(dtype=object),
            width=read_column(table, "image_width"),
            height=read_column(table, "image_height"),
            input_sizes=read_column(table, f"{fit}_size"),
            persons=persons,
            skeleton=persons.skeleton,
            geometry=ShardSpec(tuple(about["input_size"]), about["protocol"], images=True).image_geometry(fit),
            protocol=about["protocol"],
            flat=np.load(directory / val_pixels(fit), mmap_mode="c"),
            offset=read_column(table, f"{fit}_offset"),
        )

    def pixels(self, index: int) -> np.ndarray:
        """(3, H, W) uint8 RGB: one image at scale 1."""
        height, width = self.input_sizes[index]
        return self.flat[self.offset[index] :][: 3 * height * width].reshape(3, height, width)

    def at_scale(self, index: int, scale: float, smallest: float, data_root: str | Path, params: DegradeParams) -> np.ndarray:
        """(3, H, W) uint8 RGB: one image at another scale, made anew from the original file as the published test does.

        A scale above 1 shows more of the original's pixels than the protocol's size gives: not an equal comparison.

        Raises:
            FarposeError: the image is missing, damaged or of another size than the table says.
        """
        path = Path(data_root) / str(self.image_path[index])
        image = read_image(path, self.upright)
        if image.shape[:2] != (self.height[index], self.width[index]):
            raise FarposeError("image has another size than when the shard was made", where=path, fix="run the degrade stage again")
        return eval_image(image, self._spec, self.geometry.fit, params, int(self.image_id[index]), scale, smallest)

    @property
    def _spec(self) -> ShardSpec:
        return ShardSpec((self.geometry.size, self.geometry.size), self.protocol, images=True)


def images_of(
    files: Sequence[str | Path],
    spec: ShardSpec,
    skeleton: Skeleton,
    fit: Fit = "short_side",
    params: DegradeParams | None = None,
    upright: bool = True,
) -> EvalImages:
    """A user's own image files as a bottom-up network takes them; image ids count from 0.

    Args:
        upright: turn photographs as their EXIF orientation says; annotated data sets leave them as they are stored.
    Raises:
        FarposeError: no file is given, or one is missing or damaged.
    """
    if not files:
        raise FarposeError("no image given", fix="name at least one image file")
    images = fitted((read_image(path, upright) for path in files), [str(path) for path in files], spec, skeleton, fit, params)
    return replace(images, upright=upright)


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
        images: (h, w, 3) uint8 BGR of any sizes, at least one; each is let go once it is fitted.
        names: what error messages call them, or their files.
    """
    pixels, sides = [], []
    for number, image in enumerate(images):
        sides.append(image.shape[:2])
        pixels.append(eval_image(image, spec, fit, params or DegradeParams(), number))
    height, width = np.array(sides, np.int64).T
    table = Images(np.arange(len(pixels)), np.array(names, dtype=object), width, height)
    sizes = input_sizes(table, spec, fit)
    return EvalImages(
        image_id=table.image_id,
        image_path=table.image_path,
        width=width,
        height=height,
        input_sizes=sizes,
        persons=_nobody(skeleton),
        skeleton=skeleton,
        geometry=spec.image_geometry(fit),
        protocol=spec.protocol,
        flat=np.concatenate([image.ravel() for image in pixels]),
        offset=np.cumsum(3 * sizes.prod(1)) - 3 * sizes.prod(1),
    )


def _nobody(skeleton: Skeleton) -> Persons:
    import pandas as pd

    frame = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in SCALAR_COLUMNS.items()})
    return Persons(frame, np.zeros((0, 4)), np.zeros((0, len(skeleton), 3)), skeleton)
