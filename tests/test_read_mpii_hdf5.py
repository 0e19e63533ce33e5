"""The stacked hourglass's HDF5 files of MPII: written here in their layout, read as the same persons as from JSON."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from components.base.errors import FarposeError
from tests import benchmark_files as files
from tests.coco_files import read_file

LONGEST = 16  # character codes of a name in the authors' files


def codes(names: list[str]) -> np.ndarray:
    """(N, 16) float64, filled up with zeros."""
    return np.array([[*map(ord, name), *[0] * (LONGEST - len(name))] for name in names], np.float64)


NAMES = {
    "codes": codes,
    "fixed length": lambda names: np.array(names, "S16"),
    "text": lambda names: np.array(names, object),
}


def layout(persons: list[dict[str, Any]], names: Any = codes) -> dict[str, Any]:
    """The data sets of `annot/valid.h5`, of persons with the keys of the JSON lists."""
    columns = {new: np.array([p[old] for p in persons]) for new, old in (("center", "center"), ("scale", "scale"), ("part", "joints"))}
    visible = np.array([p["visible"] for p in persons], np.float64)
    heads = {"normalize": np.array([p["headsize"] for p in persons])} if "headsize" in persons[0] else {}
    index = {"index": np.arange(1.0, len(persons) + 1), "person": np.ones(len(persons)), "torsoangle": np.zeros(len(persons))}
    return {"imgname": names([p["image"] for p in persons]), "visible": visible, **columns, **heads, **index}


def write(path: Path, columns: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for key, values in columns.items():
            file.create_dataset(key, data=values)


def hourglass_persons(seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [{**p, "visible": (rng.random(16) < 0.5).astype(int).tolist()} for p in files.mpii_persons(seed)]


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("heads", [True, False], ids=["heads", "no heads"])
def test_the_same_persons_as_from_json(tmp_path: Path, names: str, heads: bool) -> None:
    persons = [{**p, **({"headsize": 10.0 + n} if heads else {})} for n, p in enumerate(hourglass_persons(0))]
    (tmp_path / "valid.json").write_text(json.dumps(persons))
    write(tmp_path / "valid.h5", layout(persons, NAMES[names]))
    expected = read_file(tmp_path, "valid.json", "images", "mpii").persons
    found = read_file(tmp_path, "valid.h5", "images", "mpii").persons
    assert found.frame.equals(expected.frame)
    assert (found.keypoints == expected.keypoints).all() and (found.bbox_xywh == expected.bbox_xywh).all()
    assert {0, 1, 2} == set(found.keypoints[..., 2].ravel())


def test_all_of_mpiis_validation_persons(tmp_path: Path, real_data: Path) -> None:
    """Numbers of the whole file: 2,958 persons on 2,729 images with 44,195 joints."""
    persons = json.loads(gzip.decompress((real_data / "annotations" / "mpii_valid_2958.json.gz").read_bytes()))
    write(tmp_path / "annot" / "valid.h5", layout(persons))
    found = read_file(tmp_path, "annot/valid.h5", "images", "mpii").persons
    assert (len(found), found.frame["image_id"].nunique(), int((found.keypoints[..., 2] > 0).sum())) == (2958, 2729, 44195)
    assert found.frame["head_size"].tolist() == [p["headsize"] for p in persons]


GOOD = layout(hourglass_persons(1))
WRONG = {
    "a data set missing": ({"part": None}, "the data set 'part' is missing; it has .*visible"),
    "joints": ({"part": np.ones((8, 14, 2))}, r"'part' has the shape \(8, 14, 2\) .float64., expected numbers of the shape \(8, 16, 2\)"),
    "persons": ({"scale": np.ones(7)}, r"'scale' has the shape \(7,\)"),
    "text": ({"center": np.array([["a", "b"]] * 8, "S1")}, r"'center' has the shape \(8, 2\) .\|S1."),
    "head": ({"normalize": np.zeros(8)}, "'headsize' is 0 px, expected more than 0"),
    "flag": ({"visible": np.full((8, 16), 3.0)}, "'visible' holds 3, expected 0 or 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_are_named(tmp_path: Path, case: str) -> None:
    change, message = WRONG[case]
    write(tmp_path / "valid.h5", {key: values for key, values in {**GOOD, **change}.items() if values is not None})
    with pytest.raises(FarposeError, match=rf"valid\.h5.*{message}"):
        read_file(tmp_path, "valid.h5", "images", "mpii")


@pytest.mark.parametrize(("content", "message"), [(None, "annotation file not found"), (b"text" * 300, "not an HDF5 file of MPII")])
def test_no_such_file(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "valid.h5").write_bytes(content)
    with pytest.raises(FarposeError, match=rf"valid\.h5: {message}"):
        read_file(tmp_path, "valid.h5", "images", "mpii")
