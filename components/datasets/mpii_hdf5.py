"""The stacked hourglass's HDF5 files of MPII (Newell et al. 2016; `annot/train.h5`, `annot/valid.h5`) → persons as in the JSON lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from components.base.errors import FarposeError
from components.datasets.records import DAMAGED
from components.pose.skeleton import MPII_16

JOINTS = len(MPII_16)
SHAPES: dict[str, tuple[int, ...]] = {"center": (2,), "scale": (), "part": (JOINTS, 2), "visible": (JOINTS,)}
HEAD_SIZES = "normalize"  # px; some files leave it out


def hdf5_persons(path: Path) -> list[dict[str, Any]]:
    """All persons of a file.

    `imgname` is text, or one row of character codes per person, filled up with zeros. A joint is labelled if both of its coordinates are
    above 0; `visible` says which of the labelled ones can be seen.

    Returns:
        One mapping per person: `image`, `center`, `scale`, `joints`, `joints_vis`, `visible` and, where the file has `normalize`,
        `headsize`; px counted from 1.
    Raises:
        FarposeError: the file is missing, damaged, or lacks a data set of this form.
    """
    import h5py

    if not path.is_file():
        raise FarposeError("annotation file not found", where=path, fix="acquire the data, or name the file in params/data.yaml")
    try:
        with h5py.File(path, "r") as file:
            keys = ("imgname", *SHAPES, *([HEAD_SIZES] if HEAD_SIZES in file else []))
            missing = [key for key in keys if key not in file]
            if missing:
                raise FarposeError(f"the data set {missing[0]!r} is missing; it has {', '.join(file)}", where=path, fix=DAMAGED)
            columns = {key: np.asarray(file[key][()]) for key in keys}
    except (OSError, RuntimeError, TypeError, KeyError) as error:
        raise FarposeError(f"not an HDF5 file of MPII: {error}", where=path, fix=DAMAGED) from error
    names = _names(columns.pop("imgname"))
    for key, values in columns.items():
        expected = (len(names), *SHAPES.get(key, ()))
        if values.shape != expected or values.dtype.kind not in "fiu":
            problem = f"{key!r} has the shape {values.shape} ({values.dtype}), expected numbers of the shape {expected}"
            raise FarposeError(problem, where=path, fix=DAMAGED)
    joints = columns["part"].astype(np.float64)
    lists = {
        "image": names,
        "center": columns["center"].astype(np.float64).tolist(),
        "scale": columns["scale"].astype(np.float64).tolist(),
        "joints": joints.tolist(),
        "joints_vis": (joints > 0).all(2).astype(int).tolist(),
        "visible": columns["visible"].tolist(),
    }
    if HEAD_SIZES in columns:
        lists["headsize"] = columns[HEAD_SIZES].astype(np.float64).tolist()
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def _names(values: np.ndarray) -> list[str]:
    """Text of a data set of names or of character codes."""
    if values.dtype.kind in "fiu" and values.ndim == 2:
        return ["".join(chr(int(code)) for code in row if code > 0) for row in values]
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values.ravel().tolist()]
