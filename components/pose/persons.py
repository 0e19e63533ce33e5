"""The persons table: one row per annotated person, the same for every data set."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from components.base.errors import FarposeError, unknown_name
from components.base.files import atomic_file
from components.pose.skeleton import Skeleton

SCALAR_COLUMNS = {
    "annotation_id": "int64",  # unique over all splits
    "image_id": "int64",
    "image_path": "str",  # relative to the data set's root
    "image_width": "int64",  # px
    "image_height": "int64",  # px
    "area": "float64",  # px² of the image as given: the annotation's OKS scale
    "area_range_px2": "float64",  # px² of the original image, decides AP(M)/AP(L); equals area unless the image was resized
    "num_keypoints": "int64",  # joints with visibility > 0, except those of `Skeleton.uncounted`
    "iscrowd": "bool",  # crowd region: matched detections are ignored, never counted
    "head_size": "float64",  # px, MPII's PCKh reference length; NaN elsewhere
    "crowd_index": "float64",  # CrowdPose's crowding of the image, from 0 upwards; NaN elsewhere
    "split": "str",
    "source": "str",  # where the annotation comes from, such as coco/val2017
    "licence": "str",
}

COCO_PERSON = 1  # COCO's category id of persons
UPRIGHT = "upright"  # the other `orientation` than "stored"
OPTIONAL_COLUMNS = ("head_size", "crowd_index")  # given by some data sets only


@dataclass(frozen=True)
class Persons:
    """A persons table in memory.

    Attributes:
        frame: N rows of `SCALAR_COLUMNS`.
        bbox_xywh: (N, 4) float64, left, top, width, height in image px.
        keypoints: (N, K, 3) float64, x and y in image px, visibility in {0: unlabelled, 1: hidden, 2: visible}.
        skeleton: names the K joints.
        upright: coordinates refer to the images as viewers turn them by EXIF, not to the stored pixels.
        category_id: of persons in the data set's annotation files, which predictions carry too; the most frequent one of several.
    """

    frame: pd.DataFrame
    bbox_xywh: np.ndarray
    keypoints: np.ndarray
    skeleton: Skeleton
    upright: bool = False
    category_id: int = COCO_PERSON

    def __len__(self) -> int:
        return len(self.frame)

    def select(self, rows: np.ndarray) -> Persons:
        """The rows of a bool mask or an index array, in order."""
        rows = np.flatnonzero(rows) if np.asarray(rows).dtype == bool else np.asarray(rows, dtype=np.int64)
        frame = self.frame.iloc[rows].reset_index(drop=True)
        return replace(self, frame=frame, bbox_xywh=self.bbox_xywh[rows], keypoints=self.keypoints[rows])

    def split(self, name: str) -> Persons:
        """The rows of one split ("train", "dev", "val").

        Raises:
            FarposeError: the table has no such split.
        """
        splits = self.frame["split"]
        if name not in set(splits):
            raise unknown_name("split", name, set(splits), where="persons table")
        return self.select((splits == name).to_numpy())

    def labelled(self) -> Persons:
        """The persons that can be trained and scored: no crowd regions, at least one labelled joint that counts."""
        return self.select(self.labelled_rows())

    def labelled_rows(self) -> np.ndarray:
        """(N,) bool, the rows of `labelled`."""
        return ((self.frame["num_keypoints"] > 0) & ~self.frame["iscrowd"]).to_numpy(bool)

    def write(self, path: str | Path) -> None:
        """Write as parquet (whole or not at all); the skeleton is stored in the file's metadata."""
        columns = {name: pa.array(self.frame[name].astype(kind)) for name, kind in SCALAR_COLUMNS.items()}
        columns["bbox_xywh"] = _fixed_lists(self.bbox_xywh)
        columns["keypoints"] = _fixed_lists(self.keypoints.reshape(len(self), -1))
        about = {"skeleton": json.dumps(self.skeleton.plain()), **({"orientation": UPRIGHT} if self.upright else {})}
        about |= {"category_id": str(self.category_id)} if self.category_id != COCO_PERSON else {}
        table = pa.table(columns).replace_schema_metadata(about)
        with atomic_file(path) as temporary:
            pq.write_table(table, temporary)

    @classmethod
    def read(cls, path: str | Path) -> Persons:
        """Read what `write` wrote.

        Raises:
            FarposeError: the file is missing, damaged or not a persons table.
        """
        try:
            table = pq.read_table(path)
            about = table.schema.metadata or {}
            skeleton, upright = Skeleton.of(json.loads(about[b"skeleton"])), about.get(b"orientation") == UPRIGHT.encode()
            category_id = int(about.get(b"category_id", COCO_PERSON))
            frame = table.select(list(SCALAR_COLUMNS)).to_pandas().astype(SCALAR_COLUMNS)
            bbox_xywh = _matrix(table["bbox_xywh"], 4)
            keypoints = _matrix(table["keypoints"], 3 * len(skeleton)).reshape(-1, len(skeleton), 3)
        except FileNotFoundError:
            raise FarposeError("persons table not found", where=path, fix="run the fetch stage first") from None
        except (pa.ArrowInvalid, KeyError, ValueError, OSError, FarposeError) as error:
            raise FarposeError(f"not a persons table: {error}", where=path, fix="run the fetch stage again") from error
        return cls(frame, bbox_xywh, keypoints, skeleton, upright, category_id)


def category_of(path: str | Path) -> int:
    """The category id of a written persons table, without reading its rows.

    Raises:
        FarposeError: the file is missing or damaged.
    """
    try:
        return int((pq.read_schema(path).metadata or {}).get(b"category_id", COCO_PERSON))
    except FileNotFoundError:
        raise FarposeError("persons table not found", where=path, fix="run the fetch stage first") from None
    except (pa.ArrowInvalid, ValueError, OSError) as error:
        raise FarposeError(f"not a persons table: {error}", where=path, fix="run the fetch stage again") from error


def _fixed_lists(matrix: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(matrix, np.float64).ravel()), matrix.shape[1])


def _matrix(column: pa.ChunkedArray, width: int) -> np.ndarray:
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, np.float64).reshape(-1, width).copy()
