"""Matlab's files of annotations (versions up to 7; 7.3 is HDF5, which is not read)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.base.errors import FarposeError
from components.datasets.records import DAMAGED

HDF5 = b"MATLAB 7.3"


def load_matlab(path: Path, key: str) -> Any:
    """One variable of a `.mat` file: a numeric array as it is stored, structs as objects with their fields as attributes.

    Raises:
        FarposeError: the file is missing, damaged, of version 7.3, or has no such variable.
    """
    from scipy.io import loadmat

    try:
        with path.open("rb") as stream:
            if stream.read(len(HDF5)) == HDF5:
                fix = "save it in Matlab or Octave with `save -v7`"
                raise FarposeError("a Matlab file of version 7.3 (HDF5), which is not read", where=path, fix=fix)
        content = loadmat(path, variable_names=[key], struct_as_record=False, squeeze_me=True)
    except FileNotFoundError:
        raise FarposeError("annotation file not found", where=path, fix="acquire the data, or name the file in params/data.yaml") from None
    except (ValueError, TypeError, OSError, NotImplementedError, IndexError, KeyError) as error:
        raise FarposeError(f"not a Matlab file: {error}", where=path, fix=DAMAGED) from error
    if key not in content:
        raise FarposeError(f"the variable {key!r} is missing", where=path, fix=DAMAGED)
    return content[key]
