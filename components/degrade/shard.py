"""A shard of crops or of whole images: a directory, and how it is written and opened.

    shard.json             spec, settings, skeleton, counts per split, and every file's digest
    train_pixels.npy       flat (P, 4) uint8: red, green, blue and a fourth byte; clean training crops of any size, one after another
    train.parquet          one row per training crop, and where its pixels lie
    SPLIT_LAYOUT.npy       flat uint8 evaluation inputs (3, H, W) RGB, one after another; a layout is a crop convention or an image fit
    SPLIT.parquet          one row per evaluation input
    SPLIT_persons.parquet  for whole images: the split's persons; for `train` only labelled ones

`components.degrade.shards` and `components.degrade.image_shards` define the rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from components.base.config import parse
from components.base.errors import FarposeError
from components.base.files import read_json, sha256_of
from components.degrade.images import Work, for_each_image
from components.degrade.params import DegradeParams, ShardSpec
from components.degrade.protocol import Layout, View, protocol
from components.degrade.regions import BORDER, Regions, stored_crops
from components.pose.ignored import IgnoredRegions
from components.pose.persons import UPRIGHT, Persons
from components.pose.skeleton import Skeleton

TRAIN = "train"
TRAIN_PIXELS = "train_pixels.npy"
FORMAT_VERSION = 2


@dataclass(frozen=True)
class Source:
    """The data that shards are made from.

    Attributes:
        persons: the table. The split "train" is for training, every other one for evaluation; "val" always exists.
        data_root: the folder that image paths are relative to.
        images: for whole images: rows of images.parquet, one per image, with or without persons.
        ignored: for whole images: regions of people who are not labelled rows; their pixels do not count in the training loss.
        only: the one split whose evaluation inputs are made, without training crops; None: all splits.
    """

    persons: Persons
    data_root: Path
    images: pd.DataFrame | None = None
    ignored: IgnoredRegions | None = None
    only: str | None = None

    @property
    def upright(self) -> bool:
        """Whether the persons' coordinates refer to the images as viewers turn them."""
        return self.persons.upright

    @property
    def evaluated(self) -> list[str]:
        """The splits of evaluation inputs."""
        return sorted({"val", *self.persons.frame["split"]} - {TRAIN}) if self.only is None else [self.only]

    @property
    def splits(self) -> list[str]:
        """All that are made."""
        return [*([TRAIN] if self.only is None else []), *self.evaluated]

    @property
    def trained(self) -> Persons:
        """The persons of the training crops: the labelled ones, at least one; nobody with `only`."""
        return self.labelled(TRAIN) if self.only is None else self.persons.select(np.zeros(0, np.int64))

    def labelled(self, split: str) -> Persons:
        """The labelled persons of a split, at least one."""
        labelled = self.persons.split(split).labelled()
        if not len(labelled):
            fix = "relax the filters in params/data.yaml"
            raise FarposeError(f"split {split!r} has no labelled person", where="persons table", fix=fix)
        return labelled


@dataclass(frozen=True)
class Rows:
    """N crops or whole images of one split.

    Attributes:
        image_path: (N,) text, relative to the data set's root.
        image_size: (N, 2) int64 width, height, px of the original image.
        ids: (N, 2) int64 image id and annotation id, which decide the noise of evaluation inputs.
        columns: what the split's table holds, by name: (N,) or (N, M).
    """

    image_path: np.ndarray
    image_size: np.ndarray
    ids: np.ndarray
    columns: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Plan:
    """The contents of a shard.

    Attributes:
        train: rows of the training crops, which `regions` place.
        counted: gives the fourth byte of a training crop's px from image id, image (H, W), step and stored (h, w).
        evaluated: per split the rows, and the layouts by name.
        persons: further tables, by split.
    """

    train: Rows
    regions: Regions
    evaluated: dict[str, tuple[Rows, dict[str, Layout]]]
    counted: Callable[[int, tuple[int, int], float, tuple[int, int]], np.ndarray | int] = lambda *_: 0
    persons: dict[str, Persons] | None = None


def eval_input(image: np.ndarray, view: View, name: str, params: DegradeParams, ids: tuple[int, int]) -> np.ndarray:
    """(3, H, W) uint8 RGB: a view of an image exactly as protocol `name` evaluates it.

    Args:
        image: (H, W, 3) uint8 BGR.
        ids: image and annotation id; they and the seed decide all noise, whatever the order of work.
    """
    crop = protocol(name).crop(image, view, params.settings(name), (params.seed, *ids))
    return np.ascontiguousarray(crop[..., ::-1].transpose(2, 0, 1))


# ---------------------------------------------------------------- writing


@dataclass(frozen=True)
class Writer:
    """A shard being written to `folder`."""

    spec: ShardSpec
    params: DegradeParams
    data_root: Path
    folder: Path
    progress: bool
    upright: bool = False

    def write(self, plan: Plan) -> None:
        """All files but shard.json and the contact sheet."""
        if len(plan.train):
            self._train(plan)
        for split, (rows, layouts) in plan.evaluated.items():
            self._evaluated(split, rows, layouts)
        for split, persons in (plan.persons or {}).items():
            persons.write(self.folder / persons_table(split))

    def _train(self, plan: Plan) -> None:
        regions, pixels = plan.regions, self._memory(TRAIN_PIXELS, (plan.regions.pixels, 4))

        def own(rows: np.ndarray) -> np.ndarray:  # rows that share no pixels
            return rows[np.unique(regions.offsets[rows], return_index=True)[1]]

        def put(rows: np.ndarray, crops: list[np.ndarray]) -> None:
            for row, crop in zip(own(rows), crops, strict=True):
                inner, (width, height) = crop[BORDER:-BORDER, BORDER:-BORDER, 3], map(int, plan.train.image_size[row])
                counted = plan.counted(int(plan.train.ids[row, 0]), (height, width), float(regions.step[row]), inner.shape)
                if not isinstance(counted, int) or counted:
                    crop = crop if crop.flags.writeable else crop.copy()  # one that came from another process is not
                    crop[BORDER:-BORDER, BORDER:-BORDER, 3] = counted
                pixels[regions.offsets[row] :][: crop.shape[0] * crop.shape[1]] = crop.reshape(-1, 4)

        self._each_image(
            plan.train, TRAIN, Work(stored_crops, lambda rows: regions.of(own(rows)), put, 4 * regions.heights * regions.widths)
        )
        pixels.flush()
        places = {"offset": regions.offsets, "height": regions.heights, "width": regions.widths}
        self._table(TRAIN, {**plan.train.columns, **places, "image_to_stored": regions.image_to_stored.reshape(-1, 6)})

    def _evaluated(self, split: str, rows: Rows, layouts: dict[str, Layout]) -> None:
        ends = {name: layout.ends for name, layout in layouts.items()}
        stores = {name: self._memory(inputs_file(split, name), (int(ends[name][-1]),)) for name in layouts}

        def put(of_image: np.ndarray, made: dict[str, list[np.ndarray]]) -> None:
            for name, inputs in made.items():
                for row, pixels in zip(of_image, inputs, strict=True):
                    stores[name][ends[name][row] - pixels.size : ends[name][row]] = pixels.ravel()

        make = partial(_eval_inputs, self.spec.protocol, self.params)
        size = sum(3 * layout.sizes.prod(1) for layout in layouts.values())
        work = Work(make, lambda some: (rows.ids[some], {name: layout.of(some) for name, layout in layouts.items()}), put, size)
        self._each_image(rows, split, work)
        for store in stores.values():
            store.flush()
        self._table(split, rows.columns)

    def _each_image(self, rows: Rows, split: str, work: Work[Any]) -> None:
        label = f"{self.spec.name} {split}" if self.progress else None
        for_each_image(rows.image_path, self.data_root, work, self.params.threads, label, self.upright, rows.image_size)

    def _memory(self, name: str, shape: tuple[int, ...]) -> np.memmap:
        return np.lib.format.open_memmap(self.folder / name, mode="w+", dtype=np.uint8, shape=shape)

    def _table(self, split: str, columns: dict[str, np.ndarray]) -> None:
        pq.write_table(pa.table({name: _column(values) for name, values in columns.items()}), self.folder / f"{split}.parquet")

    def about(self, skeleton: Skeleton, splits: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """The contents of shard.json, once all other files are written."""
        return {
            "format": format_of(self.spec.images),
            "version": FORMAT_VERSION,
            "spec": {**asdict(self.spec), "input_size": list(self.spec.input_size)},
            "params": self.params.of(self.spec.protocol),
            "skeleton": skeleton.plain(),
            "opencv": cv2.__version__,
            **({"orientation": UPRIGHT} if self.upright else {}),
            "splits": splits,
            "files": {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in sorted(self.folder.iterdir())},
        }


def _eval_inputs(
    name: str, params: DegradeParams, image: np.ndarray, job: tuple[np.ndarray, dict[str, Layout]]
) -> dict[str, list[np.ndarray]]:
    """The evaluation inputs of one image, by layout; `job` is the ids (n, 2) and the layouts of its rows."""
    ids, layouts = job
    return {
        of: [
            eval_input(image, View(matrix, (int(size[0]), int(size[1])), layout.convention), name, params, (int(own[0]), int(own[1])))
            for matrix, size, own in zip(layout.image_to_input, layout.sizes, ids, strict=True)
        ]
        for of, layout in layouts.items()
    }


def _column(values: np.ndarray) -> pa.Array:
    """(N,) values, or (N, M) as lists of fixed size."""
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel()), values.shape[1])


def inputs_file(split: str, layout: str) -> str:
    """File name of a split's evaluation inputs in one layout."""
    return f"{split}_{layout}.npy"


def persons_table(split: str) -> str:
    """File name of a split's persons, in a shard of whole images."""
    return f"{split}_persons.parquet"


def format_of(images: bool) -> str:
    """The name of the format, in shard.json."""
    return f"farpose {'image' if images else 'crop'} shard"


# ---------------------------------------------------------------- opening


@dataclass(frozen=True)
class Opened:
    """A shard whose needed files exist in full length."""

    directory: Path
    about: dict[str, Any]
    split: str

    @classmethod
    def of(cls, directory: str | Path, images: bool, split: str, *needed: str) -> Opened:
        """Open a shard for one split.

        Raises:
            FarposeError: the shard is missing, cut short, of the other kind or another format version, or lacks the split.
        """
        directory = Path(directory)
        kind = format_of(images)
        noun = kind.removeprefix("farpose ")
        if not (directory / "shard.json").is_file():
            raise FarposeError(f"no {noun} here", where=directory, fix="run the degrade stage")
        about = read_json(directory / "shard.json")
        if (about.get("format"), about.get("version")) != (kind, FORMAT_VERSION):
            found = f"{about.get('format')!r} version {about.get('version')}"
            other = about.get("format") == format_of(not images)
            fix = "top-down variants take crops, bottom-up ones whole images" if other else "run the degrade stage again"
            raise FarposeError(f"shard is {found}, this code reads {kind!r} version {FORMAT_VERSION}", where=directory, fix=fix)
        if split not in about["splits"]:
            there = ", ".join(sorted(about["splits"]))
            fix = f"it has {there}; make the split in params/data.yaml (data.splits) and run fetch and degrade again"
            fix += "; or, for a set too small for it, `validate_on: val` in params/train.yaml" if split == "dev" else ""
            raise FarposeError(f"the shard has no split {split!r}", where=directory, fix=fix)
        for name in (f"{split}.parquet", *needed):
            path = directory / name
            if not path.is_file() or path.stat().st_size != about["files"][name]["bytes"]:
                raise FarposeError(f"{noun} is incomplete or damaged", where=path, fix="run the degrade stage again")
        if about["opencv"] != cv2.__version__:
            made = f"{directory}: made with OpenCV {about['opencv']}, here is {cv2.__version__}: pixels differ slightly"
            warnings.warn(made, stacklevel=4)
        return cls(directory, about, split)

    @property
    def spec(self) -> ShardSpec:
        return parse(ShardSpec, self.about["spec"], f"{self.directory}/shard.json: spec")

    @property
    def skeleton(self) -> Skeleton:
        return Skeleton.of(self.about["skeleton"], f"{self.directory}/shard.json")

    def columns(self) -> dict[str, np.ndarray]:
        """The split's table: (N,) or, for a column of fixed-size lists, (N, M)."""
        table = pq.read_table(self.directory / f"{self.split}.parquet")
        return {name: _values(table, name) for name in table.column_names}

    def pixels(self, name: str) -> np.ndarray:
        """A flat file, memory-mapped; writing to it does not change the file."""
        return np.load(self.directory / name, mmap_mode="c")

    def stored(self, columns: dict[str, np.ndarray]) -> dict[str, Any]:
        """Arguments of `Stored` from a training shard, except the persons' joints."""
        spec = self.spec
        params = parse(DegradeParams, self.about["params"], f"{self.directory}/shard.json: params")
        return {
            "pixels": torch.from_numpy(self.pixels(TRAIN_PIXELS).view(np.int32).reshape(-1)),
            "offset": torch.from_numpy(columns["offset"]),
            "height": torch.from_numpy(columns["height"].astype(np.int32)),
            "width": torch.from_numpy(columns["width"].astype(np.int32)),
            "image_to_stored": torch.from_numpy(columns["image_to_stored"].reshape(-1, 2, 3)),
            "image_id": torch.from_numpy(columns["image_id"]),
            "skeleton": self.skeleton,
            "protocol": spec.protocol,
            "settings": params.settings(spec.protocol),
            "input_size": spec.input_size,
        }


def _values(table: pa.Table, name: str) -> np.ndarray:
    column = pa.concat_arrays(table[name].chunks)
    if pa.types.is_fixed_size_list(column.type):
        return column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1).copy()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return np.array(column.to_pylist(), dtype=object)
    return column.to_numpy(zero_copy_only=False).copy()


@dataclass(frozen=True, kw_only=True)
class Stored:
    """N training crops or images of any size, on disk (memory-mapped) or on a device.

    Attributes:
        pixels: (P,) int32; bytes from the lowest: red, green, blue, and for whole images how much of the pixel counts in the loss.
            Crop n is `pixels[offset[n]:][:height[n] * width[n]]`, row by row, with a border of one zero px.
        offset: (N,) int64.
        height, width: (N,) int32.
        image_to_stored: (N, 2, 3) float64 affine matrices, image px → px of the stored crop.
        image_id: (N,) int64.
        keypoints_image: (N, ..., K, 2) x, y in image px.
        visible: (N, ..., K) bool, labelled in the annotation.
        protocol, settings: how the crops are degraded after augmentation.
    """

    highest: ClassVar[int]  # the highest byte of a pixel that is not 0 everywhere

    pixels: Tensor
    offset: Tensor
    height: Tensor
    width: Tensor
    image_to_stored: Tensor
    image_id: Tensor
    keypoints_image: Tensor
    visible: Tensor
    skeleton: Skeleton
    protocol: str
    settings: Any
    input_size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.offset)

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    def to(self, device: str | torch.device) -> Self:
        """The same on a device, copied at once. On the CPU nothing is copied and the pixels stay memory-mapped."""
        parts = {part.name: getattr(self, part.name) for part in fields(self)}
        moved: dict[str, Any] = {  # what is pinned is copied while the program goes on
            name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value for name, value in parts.items()
        }
        return type(self)(**moved)

    def place(self, indices: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pixels, and offset, height and width (B,) of crops `indices` (B,), as `sample` takes them."""
        return self.pixels, self.offset[indices], self.height[indices], self.width[indices]
