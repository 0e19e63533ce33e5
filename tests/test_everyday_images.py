"""Photographs as cameras and phones write them: turned by EXIF, followed by a video, damaged in the middle. Pillow is the oracle."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from components.base.errors import FarposeError
from components.datasets.fetch import fetch
from components.datasets.params import DataParams
from components.datasets.validate import validate
from components.datasets.validate_images import inspect_images
from components.degrade.images import read_image
from components.degrade.params import DegradeParams, ShardSpec
from components.degrade.shard import Source
from components.degrade.stage import degrade
from components.evaluate.conditions import Condition, condition_crops
from components.pose import decoder
from components.pose.ignored import IgnoredRegions
from components.pose.images import read_images
from components.pose.orientation import orientation_of, turned
from components.pose.persons import Persons
from tests.coco_files import digests, random_coco, write_dataset, write_json

RNG = np.random.default_rng(0)
SMOOTH = cv2.GaussianBlur(RNG.integers(0, 256, (96, 160, 3), dtype=np.uint8), (0, 0), 3)
BACK = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}  # the orientation that undoes another


def file(pixels: np.ndarray, form: str, orientation: int | None = None, **settings: Any) -> bytes:
    """An image file of BGR pixels, written by Pillow."""
    exif, stream = Image.Exif(), io.BytesIO()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(pixels[..., ::-1])).save(stream, form, exif=exif, **settings)
    return stream.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_every_form_is_turned_as_pillow_turns_it(tmp_path: Path, form: str, orientation: int) -> None:
    data = file(SMOOTH, form, orientation, **({"lossless": True} if form == "WEBP" else {}))
    path = tmp_path / f"photo.{form.lower()}"
    path.write_bytes(data)
    expected = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))[..., ::-1].astype(int)
    upright = read_image(path, upright=True)
    assert upright.shape == expected.shape and np.abs(upright - expected).max() <= (4 if form in ("JPEG", "AVIF") else 0)
    if form != "TIFF":  # OpenCV turns it in any case
        assert orientation_of(data) == orientation
        assert read_image(path).shape == SMOOTH.shape and np.array_equal(turned(read_image(path), orientation), upright)


@pytest.mark.parametrize("value", [0, 9, 77])
def test_an_invalid_orientation_turns_nothing(value: int) -> None:
    assert orientation_of(file(SMOOTH, "JPEG", value)) == 1


JPEG = file(SMOOTH, "JPEG", quality=90)
PROGRESSIVE = file(SMOOTH, "JPEG", quality=90, progressive=True)
THUMBNAIL = file(SMOOTH[:8, :8], "JPEG")


def with_segment(data: bytes, segment: bytes) -> bytes:
    return data[:2] + b"\xff\xe2" + (len(segment) + 2).to_bytes(2, "big") + segment + data[2:]


def zeroed(data: bytes, length: int = 300) -> bytes:
    return data[: len(data) // 2] + bytes(length) + data[len(data) // 2 + length :]


VIDEO = b"\0\0\0\x18ftypmp42" + RNG.bytes(5000) + b"\xff\xd8\xff\xda" + RNG.bytes(100)
WHOLE = {
    "plain": JPEG,
    "progressive": PROGRESSIVE,
    "motion photograph": JPEG + VIDEO,
    "a second picture behind": JPEG + THUMBNAIL[: len(THUMBNAIL) // 2],
    "thumbnail in a segment": with_segment(JPEG, THUMBNAIL),
    "padding before the end": JPEG[:-2] + bytes(40) + JPEG[-2:],
    "one byte before the end": JPEG[:-2] + b"\x5a" + JPEG[-2:],
    "fill bytes before the end": JPEG[:-2] + b"\xff\xff" + JPEG[-2:],
    "colour profile in wrong order": with_segment(JPEG, b"ICC_PROFILE\0\x09\x02" + bytes(90)),
}
BROKEN = {
    "zeros in the middle": (zeroed(JPEG), "Corrupt JPEG data"),
    "zeros in the middle of a progressive one": (zeroed(PROGRESSIVE), "cut short|damaged"),
    "zeros in the middle, a video behind": (zeroed(JPEG) + VIDEO, "Corrupt JPEG data"),
    "a piece left out": (JPEG[: len(JPEG) // 2] + JPEG[len(JPEG) // 2 + 200 :], "Corrupt JPEG data"),
    "cut short": (JPEG[: len(JPEG) // 2], "cut short"),
    "cut short behind a thumbnail": (with_segment(JPEG, THUMBNAIL)[: len(JPEG)], "cut short"),
    "cut short in the head": (JPEG[:100], "cut short"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_jpeg_is_whole_for_everyone(tmp_path: Path, name: str) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(WHOLE[name])
    assert inspect_images(tmp_path, ["photo.jpg"], threads=1)["file"].tolist() == ["whole"]
    expected = np.array(Image.open(io.BytesIO(WHOLE[name])).convert("RGB"))[..., ::-1].astype(int)
    assert np.abs(read_image(path) - expected).max() <= 4


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_jpeg_is_broken_for_everyone(tmp_path: Path, name: str) -> None:
    data, words = BROKEN[name]
    (tmp_path / "photo.jpg").write_bytes(data)
    found = inspect_images(tmp_path, ["photo.jpg"], threads=1)["file"][0]
    assert found.startswith("cut short or damaged") and re.search(words, found)
    with pytest.raises(FarposeError, match=rf"photo\.jpg: image file is .*({words})"):
        read_image(tmp_path / "photo.jpg")


@pytest.fixture(params=["own standard error", "shared standard error"])
def ear(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder with and without a table of files per thread, which some systems refuse."""
    decoder._threads.cache_clear()
    if request.param == "shared standard error":
        monkeypatch.setattr(decoder, "CLONE_FILES", -1)
    yield
    decoder._threads.cache_clear()


@pytest.mark.usefixtures("ear")
def test_damage_is_told_of_the_right_file_among_many_threads(capfd: pytest.CaptureFixture[str]) -> None:
    broken = {7, 8, 30}
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda n: decoder.decode(zeroed(JPEG) if n in broken else JPEG)[1], range(40)))
        os.write(2, b"someone else's words\n")
    assert {n for n, words in enumerate(said) if "Corrupt" in words} == broken and set(said) == {"", said[7]}
    assert capfd.readouterr().err == "someone else's words\n"


def test_a_thread_that_decodes_holds_no_pipe_open(tmp_path: Path) -> None:
    """A child's pipe ends when the child and this process close it."""
    ends = os.pipe()
    read_image_of(tmp_path)
    os.close(ends[1])
    assert os.read(ends[0], 1) == b""
    os.close(ends[0])
    assert subprocess.run([sys.executable, "-c", "print(7)"], capture_output=True, timeout=60, check=True).stdout == b"7\n"


def read_image_of(folder: Path) -> None:
    decoder._threads.cache_clear()  # so that the threads start now, with the pipe open
    (folder / "photo.jpg").write_bytes(JPEG)
    read_image(folder / "photo.jpg")


# ---------------------------------------------------------------- data sets


def turn_files(root: Path, orientation: int) -> None:
    """Store every picture turned back, with the orientation that turns it upright."""
    for path in root.glob("*/*.png"):
        pixels = cv2.imread(str(path))
        path.write_bytes(file(turned(pixels, BACK[orientation]), "PNG", orientation))


def prepared(folder: Path, orientation: int, used: str) -> tuple[DataParams, Path]:
    params = write_dataset(folder / "data", random_coco(0), random_coco(1, 1000))
    entry = dataclasses.replace(params.files, orientation=used)
    if orientation != 1:
        turn_files(folder / "data", orientation)
    params = DataParams("coco", {"coco": entry})
    fetch(params, folder / "data", folder / "persons", None)
    return params, folder / "data"


def shards(folder: Path, images: bool) -> dict[str, str]:
    persons, ignored = Persons.read(folder / "persons" / "persons.parquet"), IgnoredRegions.read(folder / "persons" / "ignored.parquet")
    source = Source(persons, folder / "data", read_images(folder / "persons" / "images.parquet"), ignored)
    spec = ShardSpec((64, 64), images=True) if images else ShardSpec((64, 48))
    degrade(source, spec, DegradeParams(threads=1), folder / "shard", progress=False)
    found = digests(folder / "shard")
    return {name: digest for name, digest in found.items() if name.endswith((".npy", ".png"))}


@pytest.mark.parametrize("images", [False, True], ids=["crops", "images"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_upright_annotations_give_the_same_shards_whatever_the_files_orientation(tmp_path: Path, orientation: int, images: bool) -> None:
    folders = {1: tmp_path / "plain", orientation: tmp_path / "turned"}
    made = {}
    for number, folder in folders.items():
        params, data = prepared(folder, number, "upright")
        summary = validate(folder / "persons", data, params, folder / "validation")
        assert summary.images_turned == (12 if number != 1 else 0)
        made[number] = shards(folder, images)
    assert made[1] == made[orientation] and len(made[1]) >= 3


def test_crops_of_conditions_are_turned_too(tmp_path: Path) -> None:
    from components.degrade.shards import EvalCrops
    from components.evaluate.approach import EvaluationData

    found = []
    for number in (1, 6):
        folder = tmp_path / str(number)
        _, data = prepared(folder, number, "upright")
        shards(folder, images=False)
        crops = EvalCrops.open(folder / "shard", "classic")
        persons = Persons.read(folder / "persons" / "persons.parquet").split("val")
        table = read_images(folder / "persons" / "images.parquet")
        own = EvaluationData(crops, persons, table, data, DegradeParams(threads=1), "val")
        found.append(condition_crops(Condition("antialias", protocol="antialias"), own).pixels)
    assert np.array_equal(*found)


def test_validation_warns_of_orientations_that_change_no_size(tmp_path: Path) -> None:
    params, data = prepared(tmp_path, 3, "stored")
    summary = validate(tmp_path / "persons", data, params, tmp_path / "out")
    note = "12 of 12 images carry an EXIF orientation; such images are read as stored"
    assert note in summary.table() and "data.sources.coco.orientation must be upright" in summary.table()
    assert note in (tmp_path / "out" / "docs" / "index.html").read_text()
    assert note in summary.metrics()["notes"][0] and summary.metrics()["images_turned"] == 12


@pytest.mark.parametrize("used", ["stored", "upright"])
def test_swapped_sizes_name_exif_and_the_way_out(tmp_path: Path, used: str) -> None:
    params, data = prepared(tmp_path, 6, used)
    if used == "upright":  # annotated as stored
        for name in ("train", "val"):
            write_json(data / "annotations" / f"{name}.json", swapped(random_coco(*{"train": (0,), "val": (1, 1000)}[name])))
        fetch(params, data, tmp_path / "persons", None)
    other = {"stored": "upright", "upright": "stored"}[used]
    message = rf"as large as annotated.*orientation fit the {other} image only: set data\.sources\.coco\.orientation to {other}"
    with pytest.raises(FarposeError, match=message):
        validate(tmp_path / "persons", data, params, tmp_path / "out")
    persons = Persons.read(tmp_path / "persons" / "persons.parquet")
    with pytest.raises(FarposeError, match=r"image is \d+x\d+ px, its table says .*EXIF"):
        degrade(Source(persons, data), ShardSpec((64, 48)), DegradeParams(threads=1), tmp_path / "shard", progress=False)


def swapped(value: dict[str, Any]) -> dict[str, Any]:
    for entry in value["images"]:
        entry["width"], entry["height"] = entry["height"], entry["width"]
    return value
