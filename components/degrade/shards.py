"""Open what the degrade stage wrote: training crops for the device, validation crops as evaluated."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from components.base.errors import FarposeError, unknown_name
from components.base.files import digest_of, read_json
from components.degrade.images import for_each_image
from components.degrade.params import DegradeParams, Protocol, ShardSpec
from components.degrade.protocols import eval_crop
from components.degrade.regions import box_center_and_size
from components.degrade.stage import FORMAT, FORMAT_VERSION, IMAGE_FORMAT, TRAIN_PIXELS, TRAIN_TABLE, VAL_TABLE, val_pixels
from components.pose.crop import CONVENTIONS, Convention, CropGeometry
from components.pose.skeleton import SKELETONS, Skeleton


@dataclass(frozen=True)
class DeviceCrops:
    """Training crops on one device. Attributes are those of `TrainCrops`, as tensors; pixels are (P,) int32."""

    pixels: Tensor
    offset: Tensor
    height: Tensor
    width: Tensor
    image_to_stored: Tensor
    center: Tensor
    size: Tensor
    keypoints_image: Tensor
    visible: Tensor
    protocol: Protocol
    input_size: tuple[int, int]
    margin_scale: float

    def __len__(self) -> int:
        return len(self.offset)

    @property
    def device(self) -> torch.device:
        return self.pixels.device


@dataclass(frozen=True)
class TrainCrops:
    """N training crops of any size, with margin for augmentation, memory-mapped.

    Attributes:
        pixels: (P, 4) uint8 red, green, blue, 0; crop n is `pixels[offset[n]:][:height[n] * width[n]]`, row by row,
            with a border of one black px. Persons of one image may share one crop, the whole image.
        offset, height, width: (N,) int64.
        image_to_stored: (N, 2, 3) affine matrices, image px → px of the stored crop.
        center, size: (N, 2) padded box, image px.
        keypoints_image: (N, K, 3) x, y in image px and visibility.
        annotation_id, image_id: (N,) int64.
        margin_scale: largest zoom-out for which the crops hold the image around the person.
    """

    pixels: np.ndarray
    offset: np.ndarray
    height: np.ndarray
    width: np.ndarray
    image_to_stored: np.ndarray
    center: np.ndarray
    size: np.ndarray
    keypoints_image: np.ndarray
    annotation_id: np.ndarray
    image_id: np.ndarray
    skeleton: Skeleton
    protocol: Protocol
    input_size: tuple[int, int]
    margin_scale: float

    def __len__(self) -> int:
        return len(self.offset)

    @classmethod
    def open(cls, directory: str | Path) -> TrainCrops:
        """Open a shard's training crops.

        Raises:
            FarposeError: the shard is missing, cut short or of another format version.
        """
        directory = Path(directory)
        about = about_shard(directory, [TRAIN_PIXELS, TRAIN_TABLE])
        pixels = np.load(directory / TRAIN_PIXELS, mmap_mode="c")
        table = pq.read_table(directory / TRAIN_TABLE)
        if len(pixels) != about["train"]["pixels"] or len(table) != about["train"]["persons"]:
            raise damaged(directory)
        return cls(
            pixels=pixels,
            offset=read_column(table, "offset"),
            height=read_column(table, "height"),
            width=read_column(table, "width"),
            image_to_stored=read_column(table, "image_to_stored").reshape(-1, 2, 3),
            center=read_column(table, "center"),
            size=read_column(table, "size"),
            keypoints_image=read_column(table, "keypoints").reshape(len(table), -1, 3),
            annotation_id=read_column(table, "annotation_id"),
            image_id=read_column(table, "image_id"),
            skeleton=SKELETONS[about["skeleton"]],
            protocol=about["protocol"],
            input_size=tuple(about["input_size"]),
            margin_scale=about["params"]["margin_scale"],
        )

    def to(self, device: str | torch.device) -> DeviceCrops:
        """Load everything to a device at once. On the CPU the pixels stay memory-mapped and nothing is copied."""
        return DeviceCrops(
            pixels=torch.from_numpy(self.pixels.view(np.int32).reshape(-1)).to(device),
            offset=torch.from_numpy(self.offset).to(device),
            height=torch.from_numpy(self.height.astype(np.int32)).to(device),
            width=torch.from_numpy(self.width.astype(np.int32)).to(device),
            image_to_stored=torch.from_numpy(self.image_to_stored).to(device),
            center=torch.from_numpy(self.center).to(device),
            size=torch.from_numpy(self.size).to(device),
            keypoints_image=torch.from_numpy(self.keypoints_image[..., :2].copy()).to(device),
            visible=torch.from_numpy(self.keypoints_image[..., 2] > 0).to(device),
            protocol=self.protocol,
            input_size=self.input_size,
            margin_scale=self.margin_scale,
        )


@dataclass(frozen=True)
class EvalCrops:
    """N upright crops as they are evaluated.

    Attributes:
        pixels: (N, 3, H, W) uint8 RGB.
        annotation_id, image_id: (N,) int64.
        image_path: (N,) text, relative to the data set's root.
        center, size: (N, 2) padded box, image px.
        bbox_xywh: (N, 4) box, image px.
        keypoints_image: (N, K, 3) x, y in image px and visibility; zeros for detector boxes.
        area: (N,) px² of the annotation; of the box for detector boxes.
        geometry: of the crops (its heatmap side means nothing here).
    """

    pixels: np.ndarray
    annotation_id: np.ndarray
    image_id: np.ndarray
    image_path: np.ndarray
    center: np.ndarray
    size: np.ndarray
    bbox_xywh: np.ndarray
    keypoints_image: np.ndarray
    area: np.ndarray
    skeleton: Skeleton
    protocol: Protocol
    geometry: CropGeometry

    def __len__(self) -> int:
        return len(self.pixels)

    @classmethod
    def open(cls, directory: str | Path, convention: Convention, split: str = "val") -> EvalCrops:
        """Open a shard's validation crops of one crop convention, memory-mapped.

        Raises:
            FarposeError: unknown convention, or the shard is missing, cut short or of another format version.
        """
        require_split(split, directory)
        if convention not in CONVENTIONS:
            raise unknown_name("crop convention", convention, CONVENTIONS)
        directory = Path(directory)
        about = about_shard(directory, [val_pixels(convention), VAL_TABLE])
        pixels = np.load(directory / val_pixels(convention), mmap_mode="c")
        table = pq.read_table(directory / VAL_TABLE)
        if not len(pixels) == len(table) == about["val"]["persons"]:
            raise damaged(directory)
        return cls(
            pixels=pixels,
            annotation_id=read_column(table, "annotation_id"),
            image_id=read_column(table, "image_id"),
            image_path=table["image_path"].to_pandas().to_numpy(dtype=object),
            center=read_column(table, "center"),
            size=read_column(table, "size"),
            bbox_xywh=read_column(table, "bbox_xywh"),
            keypoints_image=read_column(table, "keypoints").reshape(len(table), -1, 3),
            area=read_column(table, "area"),
            skeleton=SKELETONS[about["skeleton"]],
            protocol=about["protocol"],
            geometry=ShardSpec(tuple(about["input_size"]), about["protocol"]).geometry(convention),
        )


def crop_boxes(
    data_root: str | Path,
    image_paths: np.ndarray,
    image_ids: np.ndarray,
    bbox_xywh: np.ndarray,
    convention: Convention,
    spec: ShardSpec,
    params: DegradeParams,
    skeleton: Skeleton,
    progress: bool = False,
    upright: bool = False,
) -> EvalCrops:
    """Crops of boxes that no annotation belongs to, such as a detector's, exactly as validation crops are made.

    `annotation_id` counts the boxes from 0; the sensor's noise is seeded by image id and box, not by that count.

    Args:
        image_paths: (N,) relative to `data_root`.
        image_ids: (N,).
        bbox_xywh: (N, 4) image px.
        upright: turn images as their EXIF orientation says; boxes are then in px of the turned image.
    Raises:
        FarposeError: an image is missing or damaged.
    """
    bbox_xywh = np.asarray(bbox_xywh, np.float64).reshape(-1, 4)
    center, size = box_center_and_size(bbox_xywh, spec)
    matrices = spec.geometry(convention).image_to_crop(center, size)
    pixels = np.zeros((len(bbox_xywh), 3, *spec.input_size), np.uint8)
    seeds = [int(digest_of(np.round(box, 2).tolist())[:15], 16) for box in bbox_xywh]

    def work(image: np.ndarray, rows: np.ndarray) -> None:
        for row in rows:
            crop = eval_crop(image, matrices[row], spec, convention, params, (int(image_ids[row]), seeds[row]))
            pixels[row] = crop.transpose(2, 0, 1)

    for_each_image(image_paths, Path(data_root), work, params.threads, "detector boxes" if progress else None, upright)
    return EvalCrops(
        pixels=pixels,
        annotation_id=np.arange(len(bbox_xywh)),
        image_id=np.asarray(image_ids, np.int64),
        image_path=np.asarray(image_paths, dtype=object),
        center=center,
        size=size,
        bbox_xywh=bbox_xywh,
        keypoints_image=np.zeros((len(bbox_xywh), len(skeleton), 3)),
        area=bbox_xywh[:, 2] * bbox_xywh[:, 3],
        skeleton=skeleton,
        protocol=spec.protocol,
        geometry=spec.geometry(convention),
    )


def about_shard(directory: Path, needed: list[str], kind: str = FORMAT, version: int = FORMAT_VERSION) -> dict[str, Any]:
    """shard.json, after checking that the shard is of our format and that the needed files have their full length."""
    if not (directory / "shard.json").is_file():
        raise FarposeError(f"no {kind.removeprefix('farpose ')} here", where=directory, fix="run the degrade stage")
    about = read_json(directory / "shard.json")
    if (about.get("format"), about.get("version")) != (kind, version):
        found = f"{about.get('format')!r} version {about.get('version')}"
        other = about.get("format") in (FORMAT, IMAGE_FORMAT) and about["format"] != kind
        fix = "top-down variants take crops, bottom-up ones whole images" if other else "run the degrade stage again"
        raise FarposeError(f"shard is {found}, this code reads {kind!r} version {version}", where=directory, fix=fix)
    for name in needed:
        path = directory / name
        if not path.is_file() or path.stat().st_size != about["files"][name]["bytes"]:
            raise damaged(path, kind)
    if about["opencv"] != cv2.__version__:
        warnings.warn(f"{directory}: made with OpenCV {about['opencv']}, here is {cv2.__version__}: pixels differ slightly", stacklevel=3)
    return about


def require_split(split: str, directory: str | Path) -> None:
    """Shards hold evaluation inputs of the split "val" alone."""
    if split != "val":
        raise FarposeError(f"no evaluation inputs of the split {split!r} here", where=directory, fix="use val")


def damaged(place: Path, kind: str = FORMAT) -> FarposeError:
    """The error for a shard whose parts do not fit each other."""
    return FarposeError(f"{kind.removeprefix('farpose ')} is incomplete or damaged", where=place, fix="run the degrade stage again")


def read_column(table: pa.Table, name: str) -> np.ndarray:
    """(N,) or, for a column of fixed-size lists, (N, M)."""
    column = table[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks)
    if pa.types.is_fixed_size_list(column.type):
        return column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1).copy()
    return column.to_numpy(zero_copy_only=False).copy()
