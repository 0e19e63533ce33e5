"""The images table: one row per image of a data set, with or without persons."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from components.base.errors import FarposeError
from components.base.files import atomic_file

IMAGES_FILE = "images.parquet"
IMAGE_COLUMNS = {
    "image_id": "int64",
    "image_path": "str",  # relative to the data set's root
    "image_width": "int64",  # px
    "image_height": "int64",  # px
    "split": "str",
    "licence": "str",
}


def write_images(path: Path, images: pd.DataFrame) -> None:
    """Write the images table, columns `IMAGE_COLUMNS`, as parquet (whole or not at all)."""
    columns = {name: pa.array(images[name].astype(kind)) for name, kind in IMAGE_COLUMNS.items()}
    with atomic_file(path) as temporary:
        pq.write_table(pa.table(columns), temporary)


def read_images(path: Path) -> pd.DataFrame:
    """Read what `write_images` wrote.

    Raises:
        FarposeError: the file is missing, damaged or not an images table.
    """
    try:
        return pq.read_table(path, columns=list(IMAGE_COLUMNS)).to_pandas().astype(IMAGE_COLUMNS)
    except FileNotFoundError:
        raise FarposeError("images table not found", where=path, fix="run the fetch stage first") from None
    except (pa.ArrowInvalid, KeyError, ValueError, OSError) as error:
        raise FarposeError(f"not an images table: {error}", where=path, fix="run the fetch stage again") from error
