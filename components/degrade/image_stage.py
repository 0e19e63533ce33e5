"""Write a shard of whole images, for bottom-up networks: a data set's images, degraded by one protocol at one input size.

Training holds the images with at least one labelled person; validation holds all images of its split, because what a
network finds where nobody is counts against it. (HigherHRNet's published loader also trains on images whose only people are
unlabelled or crowd regions; their people are masked, so that they teach background alone.)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from components.base.errors import FarposeError
from components.base.files import atomic_directory, write_json
from components.degrade.images import for_each_image
from components.degrade.params import DegradeParams, ShardSpec
from components.degrade.protocols import area_mean, eval_crop
from components.degrade.regions import BORDER, Regions
from components.degrade.stage import (
    IMAGE_FORMAT,
    TRAIN_PIXELS,
    TRAIN_TABLE,
    VAL_TABLE,
    check_size,
    column,
    files_of,
    labelled_persons,
    train_crop,
)
from components.pose.ignored import IgnoredRegions
from components.pose.persons import Persons
from components.pose.whole_image import FITS, Fit

IMAGE_FORMAT_VERSION = 1
TRAIN_PERSONS, VAL_PERSONS = "train_persons.parquet", "val_persons.parquet"
COUNTED_FULLY = 127  # value of a stored pixel's last byte where the loss counts all of it; 0: not at all
WHOLE_IMAGE = -1  # stands for the annotation in the seed of the sensor's noise


@dataclass(frozen=True)
class Images:
    """N images of one split.

    Attributes:
        image_id, width, height: (N,) int64, px.
        image_path: (N,) text, relative to the data set's root.
    """

    image_id: np.ndarray
    image_path: np.ndarray
    width: np.ndarray
    height: np.ndarray

    def __len__(self) -> int:
        return len(self.image_id)

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Images:
        """Of rows of images.parquet."""
        image_id, width, height = (frame[name].to_numpy(np.int64) for name in ("image_id", "image_width", "image_height"))
        return cls(image_id, frame["image_path"].to_numpy(dtype=object), width, height)

    @property
    def columns(self) -> dict[str, np.ndarray]:
        return {"image_id": self.image_id, "image_path": self.image_path, "image_width": self.width, "image_height": self.height}


def degrade_images(
    persons: Persons,
    images: pd.DataFrame,
    ignored: IgnoredRegions,
    data_root: Path,
    spec: ShardSpec,
    params: DegradeParams,
    out: Path,
    progress: bool = True,
) -> dict[str, Any]:
    """Write the shard directory `out`, whole or not at all, and return what shard.json holds.

    Args:
        persons: the table; its splits "train" and "val" are used.
        images: rows of images.parquet: one per image, with or without persons.
        ignored: people that are no labelled rows of the table; their pixels do not count in the training loss.
        data_root: the folder that image paths are relative to.
        progress: whether to show a bar per split.
    Raises:
        FarposeError: a split is missing or has no labelled person, a person's image has no row, or an image is missing,
            damaged or of another size than its row says.
    """
    train_persons, _ = (labelled_persons(persons, split) for split in ("train", "val"))
    _check_rows(persons, images)
    train_frame = images[(images["split"] == "train") & images["image_id"].isin(train_persons.frame["image_id"])]
    train, val = Images.of(train_frame), Images.of(images[images["split"] == "val"])
    regions = plan_images(train, spec, params)
    with atomic_directory(out) as folder:
        _write_train(train, regions, ignored.split("train"), data_root, spec, params, folder, progress)
        train_persons.write(folder / TRAIN_PERSONS)
        _write_val(val, data_root, spec, params, folder, progress)
        persons.split("val").write(folder / VAL_PERSONS)
        _draw_sheet(persons.split("val"), images, data_root, spec, params, folder)
        summary = _summary(train, train_persons, val, persons.split("val"), regions, spec, params, folder)
        write_json(folder / "shard.json", summary)
    return summary


def _check_rows(persons: Persons, images: pd.DataFrame) -> None:
    for split in ("train", "val"):
        rows = set(images.loc[images["split"] == split, "image_id"])
        missing = sorted(set(persons.split(split).frame["image_id"]) - rows)
        if missing:
            raise FarposeError(f"image {missing[0]} of split {split!r} has persons, but no row ({len(missing)} such images)",
                               where="images.parquet", fix="run the fetch stage again")  # fmt: skip


def plan_images(images: Images, spec: ShardSpec, params: DegradeParams) -> Regions:
    """How whole training images are stored: every pixel of them, at the protocol's density.

    "direct" keeps them as they are, "antialias" at most twice as dense as the input shows them unscaled, "sensor" exactly
    as dense. None is stored longer than `max_train_side`, or twice the input's size where that is longer.
    """
    sides = np.stack([images.width, images.height], 1)
    target_step = sides.min(1) / spec.input_size[0]
    wanted = {"direct": np.ones(len(images)), "antialias": np.maximum(target_step / 2, 1), "sensor": target_step}[spec.protocol]
    step = np.maximum(wanted, sides.max(1) / max(params.max_train_side, 2 * spec.input_size[0]))
    stored = np.ceil(sides / step[:, None] - 1e-9).astype(np.int64) + 2 * BORDER
    counts = stored.prod(1)
    corners = np.concatenate([np.zeros_like(sides), sides], 1)
    return Regions(corners, step, stored[:, 1], stored[:, 0], np.cumsum(counts) - counts, int(counts.sum()))


def _write_train(
    train: Images,
    regions: Regions,
    ignored: IgnoredRegions,
    data_root: Path,
    spec: ShardSpec,
    params: DegradeParams,
    folder: Path,
    progress: bool,
) -> None:
    pixels = np.lib.format.open_memmap(folder / TRAIN_PIXELS, mode="w+", dtype=np.uint8, shape=(regions.pixels, 4))

    def work(image: np.ndarray, rows: np.ndarray) -> None:
        for row in rows:
            check_size(image, np.array([train.height[row], train.width[row]]), data_root / str(train.image_path[row]))
            height, width, offset = regions.heights[row], regions.widths[row], regions.offsets[row]
            stored = pixels[offset : offset + height * width].reshape(height, width, 4)[BORDER:-BORDER, BORDER:-BORDER]
            stored[..., :3] = train_crop(image, regions, row, spec, params, (int(train.image_id[row]), WHOLE_IMAGE))
            stored[..., 3] = _counted(ignored.mask(int(train.image_id[row])), image, float(regions.step[row]), stored.shape[:2])

    for_each_image(train.image_path, data_root, work, params.threads, f"{spec.name} train" if progress else None)
    pixels.flush()
    places = {"offset": regions.offsets, "height": regions.heights, "width": regions.widths}
    _write_table(folder / TRAIN_TABLE, {**train.columns, **places, "image_to_stored": regions.image_to_stored.reshape(-1, 6)})


def _counted(ignored: np.ndarray | None, image: np.ndarray, step: float, size: tuple[int, int]) -> np.ndarray | int:
    """(h, w) uint8: how much of each stored pixel counts in the loss, 0 to `COUNTED_FULLY`; or that number for all."""
    if ignored is None:
        return COUNTED_FULLY
    if ignored.shape != image.shape[:2]:
        raise FarposeError(f"ignore region is made for {ignored.shape[1]}x{ignored.shape[0]} px, the image has "
                           f"{image.shape[1]}x{image.shape[0]}", where="ignored.parquet", fix="run the fetch stage again")  # fmt: skip
    counted = np.where(ignored, 0, COUNTED_FULLY).astype(np.uint8)
    if step == 1:
        return counted
    first = step / 2 - 0.5
    return np.rint(area_mean(counted[..., None], (first, first), (step, step), size)[..., 0]).astype(np.uint8)


def _write_val(val: Images, data_root: Path, spec: ShardSpec, params: DegradeParams, folder: Path, progress: bool) -> None:
    sizes = {fit: input_sizes(val, spec, fit) for fit in FITS}
    ends = {fit: np.cumsum(3 * sizes[fit].prod(1)) for fit in FITS}
    stores = {
        fit: np.lib.format.open_memmap(folder / val_pixels(fit), mode="w+", dtype=np.uint8, shape=(int(ends[fit][-1]),)) for fit in FITS
    }

    def work(image: np.ndarray, rows: np.ndarray) -> None:
        for row in rows:
            check_size(image, np.array([val.height[row], val.width[row]]), data_root / str(val.image_path[row]))
            for fit, store in stores.items():
                pixels = eval_image(image, spec, fit, params, int(val.image_id[row]))
                store[ends[fit][row] - pixels.size : ends[fit][row]] = pixels.ravel()

    for_each_image(val.image_path, data_root, work, params.threads, f"{spec.name} val" if progress else None)
    for store in stores.values():
        store.flush()
    places = {f"{fit}_{name}": values for fit in FITS for name, values in
              (("offset", ends[fit] - 3 * sizes[fit].prod(1)), ("size", sizes[fit]))}  # fmt: skip
    _write_table(folder / VAL_TABLE, {**val.columns, **places})


def input_sizes(images: Images, spec: ShardSpec, fit: Fit) -> np.ndarray:
    """(N, 2) height and width of the images' inputs at scale 1, px."""
    geometry = spec.image_geometry(fit)
    sizes = [geometry.input_size(int(width), int(height)) for width, height in zip(images.width, images.height, strict=True)]
    return np.array(sizes, np.int64).reshape(-1, 2)


def eval_image(
    image: np.ndarray, spec: ShardSpec, fit: Fit, params: DegradeParams, image_id: int, scale: float = 1.0, smallest: float = 1.0
) -> np.ndarray:
    """(3, H, W) uint8 RGB: an image exactly as it is evaluated.

    Args:
        image: (h, w, 3) uint8 BGR.
        image_id: with the seed it decides the sensor's noise, whatever the order of work.
        scale, smallest: of a multi-scale test, see `ImageGeometry.input_size`.
    """
    height, width = image.shape[:2]
    geometry = spec.image_geometry(fit)
    target = ShardSpec(geometry.input_size(width, height, scale, smallest), spec.protocol)
    matrix = geometry.image_to_input(width, height, scale, smallest)
    return np.ascontiguousarray(eval_crop(image, matrix, target, "classic", params, (image_id, WHOLE_IMAGE)).transpose(2, 0, 1))


def val_pixels(fit: str) -> str:
    """File name of the validation images of one fit."""
    return f"val_{fit}.npy"


def _write_table(path: Path, columns: dict[str, np.ndarray]) -> None:
    pq.write_table(pa.table({name: column(values) for name, values in columns.items()}), path)


def _draw_sheet(val: Persons, images: pd.DataFrame, data_root: Path, spec: ShardSpec, params: DegradeParams, folder: Path) -> None:
    from components.degrade.contact_sheet import image_sheet

    cv2.imwrite(str(folder / "contact_sheet.png"), image_sheet(val, Images.of(images[images["split"] == "val"]), data_root, spec, params))


def _summary(
    train: Images,
    train_persons: Persons,
    val: Images,
    val_persons: Persons,
    regions: Regions,
    spec: ShardSpec,
    params: DegradeParams,
    folder: Path,
) -> dict[str, Any]:
    return {
        "format": IMAGE_FORMAT,
        "version": IMAGE_FORMAT_VERSION,
        "protocol": spec.protocol,
        "input_size": list(spec.input_size),
        "skeleton": train_persons.skeleton.name,
        "opencv": cv2.__version__,
        "seed": params.seed,
        "params": asdict(params),
        "train": {
            "images": len(train),
            "persons": len(train_persons),
            "most_persons": int(train_persons.frame["image_id"].value_counts().max()),
            "pixels": regions.pixels,
            "native_density": int((regions.step == 1).sum()),
            "reduced": int((regions.step > 1).sum()),
            "largest_step": round(float(regions.step.max()), 4),
        },
        "val": {"images": len(val), "persons": len(val_persons), "labelled": len(val_persons.labelled())},
        "files": files_of(folder),
    }
