"""Write a crop shard: every labelled person of a data set, degraded by one protocol at one input size."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.base.errors import FarposeError
from components.base.files import atomic_directory, sha256_of, write_json
from components.degrade.images import for_each_image
from components.degrade.params import DegradeParams, ShardSpec
from components.degrade.protocols import area_mean, eval_crop, noise_generator, sensor, to_uint8
from components.degrade.regions import BORDER, Regions, center_and_size, plan_regions
from components.pose.crop import CONVENTIONS
from components.pose.persons import Persons

FORMAT = "farpose crop shard"
FORMAT_VERSION = 1
IMAGE_FORMAT = "farpose image shard"
TRAIN_PIXELS, TRAIN_TABLE, VAL_TABLE = "train_pixels.npy", "train.parquet", "val.parquet"


def degrade(persons: Persons, data_root: Path, spec: ShardSpec, params: DegradeParams, out: Path, progress: bool = True) -> dict[str, Any]:
    """Write the shard directory `out`, whole or not at all, and return what shard.json holds.

    Args:
        persons: the table; its splits "train" and "val" are used, labelled persons only.
        data_root: the folder that image paths are relative to.
        progress: whether to show a bar per split.
    Raises:
        FarposeError: a split is missing or has no labelled person, or an image is missing, damaged or of another size
            than the table says.
    """
    train, val = (labelled_persons(persons, split) for split in ("train", "val"))
    with atomic_directory(out) as folder:
        regions = plan_regions(train, spec, params)
        _write_train(train, regions, data_root, spec, params, folder, progress)
        _write_val(val, data_root, spec, params, folder, progress)
        _draw_sheet(val, data_root, spec, params, folder)
        summary = _summary(train, val, regions, spec, params, folder)
        write_json(folder / "shard.json", summary)
    return summary


def labelled_persons(persons: Persons, split: str) -> Persons:
    """The labelled persons of a split, one at least."""
    labelled = persons.split(split).labelled()
    if not len(labelled):
        raise FarposeError(f"split {split!r} has no labelled person", where="persons table", fix="relax the filters in params/data.yaml")
    return labelled


def _write_train(
    train: Persons, regions: Regions, data_root: Path, spec: ShardSpec, params: DegradeParams, folder: Path, progress: bool
) -> None:
    pixels = np.lib.format.open_memmap(folder / TRAIN_PIXELS, mode="w+", dtype=np.uint8, shape=(regions.pixels, 4))
    ids = train.frame[["image_id", "annotation_id"]].to_numpy(np.int64)
    expected = train.frame[["image_height", "image_width"]].to_numpy(np.int64)
    paths = train.frame["image_path"].to_numpy(dtype=object)

    def work(image: np.ndarray, rows: np.ndarray) -> None:
        check_size(image, expected[rows[0]], data_root / str(paths[rows[0]]))
        for row in rows[np.unique(regions.offsets[rows], return_index=True)[1]]:
            crop = train_crop(image, regions, row, spec, params, (int(ids[row, 0]), int(ids[row, 1])))
            height, width, offset = regions.heights[row], regions.widths[row], regions.offsets[row]
            stored = pixels[offset : offset + height * width].reshape(height, width, 4)
            stored[BORDER:-BORDER, BORDER:-BORDER, :3] = crop

    for_each_image(paths, data_root, work, params.threads, f"{spec.name} train" if progress else None)
    pixels.flush()
    _write_table(train, spec, folder / TRAIN_TABLE, offset=regions.offsets, height=regions.heights, width=regions.widths,
                 image_to_stored=regions.image_to_stored.reshape(-1, 6))  # fmt: skip


def train_crop(image: np.ndarray, regions: Regions, row: int, spec: ShardSpec, params: DegradeParams, ids: tuple[int, int]) -> np.ndarray:
    """(h, w, 3) uint8 RGB: one training crop without its black border, at the density that `regions` planned."""
    left, top, right, bottom = regions.corners[row]
    step = float(regions.step[row])
    if spec.protocol != "sensor" and step == 1:
        return image[top:bottom, left:right, ::-1]
    start = left + step / 2 - 0.5, top + step / 2 - 0.5
    size = int(regions.heights[row]) - 2 * BORDER, int(regions.widths[row]) - 2 * BORDER
    if spec.protocol == "sensor":
        crop = sensor(image, start, (step, step), size, params.sensor, noise_generator(params.seed, *ids))
    else:
        crop = to_uint8(area_mean(image, start, (step, step), size))
    return crop[..., ::-1]


def _write_val(val: Persons, data_root: Path, spec: ShardSpec, params: DegradeParams, folder: Path, progress: bool) -> None:
    center, size = center_and_size(val, spec)
    ids = val.frame[["image_id", "annotation_id"]].to_numpy(np.int64)
    expected = val.frame[["image_height", "image_width"]].to_numpy(np.int64)
    paths = val.frame["image_path"].to_numpy(dtype=object)
    shape = (len(val), 3, *spec.input_size)
    matrices = {convention: spec.geometry(convention).image_to_crop(center, size) for convention in CONVENTIONS}
    stores = {
        convention: np.lib.format.open_memmap(folder / val_pixels(convention), mode="w+", dtype=np.uint8, shape=shape)
        for convention in CONVENTIONS
    }

    def work(image: np.ndarray, rows: np.ndarray) -> None:
        check_size(image, expected[rows[0]], data_root / str(paths[rows[0]]))
        for convention, store in stores.items():
            for row in rows:
                identity = (int(ids[row, 0]), int(ids[row, 1]))
                store[row] = eval_crop(image, matrices[convention][row], spec, convention, params, identity).transpose(2, 0, 1)

    for_each_image(paths, data_root, work, params.threads, f"{spec.name} val" if progress else None)
    for store in stores.values():
        store.flush()
    _write_table(val, spec, folder / VAL_TABLE)


def val_pixels(convention: str) -> str:
    """File name of the validation crops of one crop convention."""
    return f"val_{convention}.npy"


def check_size(image: np.ndarray, expected: np.ndarray, path: Path) -> None:
    """Refuse an image (H, W, C) that is not of the (height, width) that the table says."""
    if tuple(image.shape[:2]) != tuple(expected):
        found, said = f"{image.shape[1]}x{image.shape[0]}", f"{expected[1]}x{expected[0]}"
        raise FarposeError(f"image is {found} px, the persons table says {said}", where=path, fix="run the fetch stage again")


def _write_table(persons: Persons, spec: ShardSpec, path: Path, **columns: np.ndarray) -> None:
    """One row per crop: the ids and truths of the person, its padded box and, for training crops, where its pixels are."""
    frame = persons.frame
    center, size = center_and_size(persons, spec)
    plain = {name: frame[name].to_numpy() for name in ("annotation_id", "image_id", "image_path", "area", "area_range_px2")}
    columns = {**plain, "bbox_xywh": persons.bbox_xywh, "center": center, "size": size, **columns}
    columns["keypoints"] = persons.keypoints.reshape(len(persons), -1)
    table = pa.table({name: column(values) for name, values in columns.items()})
    pq.write_table(table, path)


def column(values: np.ndarray) -> pa.Array:
    """(N,) plain values, or (N, M) as lists of fixed size."""
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel()), values.shape[1])


def _draw_sheet(val: Persons, data_root: Path, spec: ShardSpec, params: DegradeParams, folder: Path) -> None:
    from components.degrade.contact_sheet import contact_sheet

    cv2.imwrite(str(folder / "contact_sheet.png"), contact_sheet(val, data_root, spec, params))


def _summary(train: Persons, val: Persons, regions: Regions, spec: ShardSpec, params: DegradeParams, folder: Path) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "protocol": spec.protocol,
        "input_size": list(spec.input_size),
        "skeleton": train.skeleton.name,
        "opencv": cv2.__version__,
        "seed": params.seed,
        "params": asdict(params),
        "train": {
            "persons": len(train),
            "images": int(train.frame["image_id"].nunique()),
            "pixels": regions.pixels,
            "native_density": int((regions.step == 1).sum()),
            "reduced": int((regions.step > 1).sum()),
            "largest_step": round(float(regions.step.max()), 4),
        },
        "val": {"persons": len(val), "images": int(val.frame["image_id"].nunique())},
        "files": files_of(folder),
    }


def files_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Bytes and digest of every file of a shard, by name."""
    return {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in sorted(folder.iterdir())}
