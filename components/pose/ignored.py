"""Ignore regions: parts of an image that show people who are not labelled rows of the persons table.

A bottom-up method learns from whole images. It must not learn such people as background, so the loss leaves their pixels out
(Cheng et al. 2020, HigherHRNet; the idea is from Cao et al. 2017, OpenPose, section 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from components.base.errors import FarposeError
from components.base.files import atomic_file

IGNORED_FILE = "ignored.parquet"
IGNORED_COLUMNS = {
    "image_id": "int64",
    "annotation_id": "int64",
    "split": "str",
    "reason": "str",  # why the person is not a labelled row: "crowd region", "no labelled joint" or a filter's name
    "height": "int64",  # px of the image
    "width": "int64",  # px of the image
    "counts": "str",  # COCO's compressed run lengths of the (height, width) mask
}


@dataclass(frozen=True)
class IgnoredRegions:
    """Ignore regions in memory.

    Attributes:
        frame: one row of `IGNORED_COLUMNS` per region; all regions of an image have its height and width.
    """

    frame: pd.DataFrame

    def __len__(self) -> int:
        return len(self.frame)

    def split(self, name: str) -> IgnoredRegions:
        """The regions of one split ("train", "dev", "val"); none where the split has none."""
        return IgnoredRegions(self.frame[self.frame["split"] == name].reset_index(drop=True))

    def mask(self, image_id: int) -> np.ndarray | None:
        """(H, W) bool, True where the image is ignored (the union of its regions); None if it has no region.

        Raises:
            FarposeError: a region's run lengths do not fill its image.
        """
        rows = self._rows.get(image_id)
        if rows is None:
            return None
        regions = self.frame.iloc[rows]
        mask = np.zeros((int(regions["height"].iloc[0]), int(regions["width"].iloc[0])), dtype=bool)
        for region in regions.itertuples():
            try:
                mask |= decode(str(region.counts), *mask.shape)
            except ValueError as error:
                problem = f"ignore region of annotation {region.annotation_id}: {error}"
                raise FarposeError(problem, where=IGNORED_FILE, fix="run the fetch stage again") from None
        return mask

    @cached_property
    def _rows(self) -> dict[int, np.ndarray]:
        return {int(image_id): np.asarray(rows) for image_id, rows in self.frame.groupby("image_id").indices.items()}

    def write(self, path: str | Path) -> None:
        """Write as parquet (whole or not at all)."""
        columns = {name: pa.array(self.frame[name].astype(kind)) for name, kind in IGNORED_COLUMNS.items()}
        with atomic_file(path) as temporary:
            pq.write_table(pa.table(columns), temporary)

    @classmethod
    def read(cls, path: str | Path) -> IgnoredRegions:
        """Read what `write` wrote.

        Raises:
            FarposeError: the file is missing, damaged or not a table of ignore regions.
        """
        try:
            return cls(pq.read_table(path, columns=list(IGNORED_COLUMNS)).to_pandas().astype(IGNORED_COLUMNS))
        except FileNotFoundError:
            raise FarposeError("ignore regions not found", where=path, fix="run the fetch stage first") from None
        except (pa.ArrowInvalid, KeyError, ValueError, OSError) as error:
            raise FarposeError(f"not a table of ignore regions: {error}", where=path, fix="run the fetch stage again") from error


def decode(counts: str, height: int, width: int) -> np.ndarray:
    """(height, width) bool mask of COCO's compressed run lengths, as pycocotools' `mask.decode`.

    Raises:
        ValueError: the runs do not fill the mask exactly.
    """
    runs = run_lengths(counts)
    if runs.min(initial=0) < 0 or runs.sum() != height * width:
        raise ValueError(f"its run lengths do not fill {width} x {height} px")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def run_lengths(counts: str) -> np.ndarray:
    """(R,) int64 lengths of the runs, column by column, beginning with zeros, of COCO's compressed text.

    Each number is written in digits of 5 bits, lowest first, as characters from "0" on. Bit 5 marks that another digit
    follows, and bit 4 of the last digit is the sign. From the fourth number on, each is the difference to the number two before it.

    Raises:
        ValueError: the text is not such a sequence.
    """
    codes = np.frombuffer(counts.encode(), dtype=np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(codes & 0x20 == 0)
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or last[-1:].tolist() != [len(codes) - 1]:
        raise ValueError("it is no text of compressed run lengths")
    first = np.concatenate([[0], last[:-1] + 1])
    digit = np.arange(len(codes)) - np.repeat(first, last - first + 1)
    if digit.max() > 11:  # the number would not fit 64 bits
        raise ValueError("it is no text of compressed run lengths")
    runs = np.add.reduceat((codes & 0x1F) << (5 * digit), first)
    runs -= np.where(codes[last] & 0x10, 1 << (5 * (digit[last] + 1)), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
