"""Shards of whole images: exactly the published inputs, every image and person accounted for, whole or not there."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from components.base.errors import FarposeError
from components.base.files import read_json
from components.degrade.area import area_mean, to_uint8, upright_grid
from components.degrade.held import HeldImages, images_held
from components.degrade.image_shards import COUNTED_FULLY, EvalImages, TrainImages
from components.degrade.images import read_image
from components.degrade.params import DegradeParams, ShardSpec
from components.degrade.protocol import protocols
from components.degrade.shard import Source
from components.degrade.shards import EvalCrops, TrainCrops
from components.degrade.stage import degrade
from components.pose.skeleton import COCO_17
from components.pose.whole_image import FITS
from tests.degrade_cases import FAULTS, damage
from tests.tiny_image_shard import SCENES, SIZE, write_tiny_image_shard, write_tiny_images

PROTOCOLS = tuple(protocols())
each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)
each_fit = pytest.mark.parametrize("fit", FITS)
ODD_SCENES = [
    ((120, 160), 1, "train", "crowd"),
    ((1, 1), 1, "train", ""),
    ((40, 600), 1, "train", ""),
    ((100, 150), 1, "val", ""),
    ((1, 1), 0, "val", ""),
    ((8, 900), 1, "val", ""),
    ((900, 8), 0, "val", "crowd"),
    ((161, 97), 1, "val", ""),
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return {protocol: write_tiny_image_shard(tmp_path_factory.mktemp(protocol), protocol, ODD_SCENES) for protocol in PROTOCOLS}


def spec(protocol="direct", size=SIZE):
    return ShardSpec((size, size), protocol, images=True)


def stored_image(images, row):
    height, width, offset = int(images.height[row]), int(images.width[row]), int(images.offset[row])
    return images.pixels[offset : offset + height * width].numpy().view(np.uint8).reshape(height, width, 4)


def images_of(files: list[Path], shown: ShardSpec, upright: bool = True, params: DegradeParams | None = None) -> HeldImages:
    """Image files as a user's, numbered from 0."""
    return images_held(
        lambda number: read_image(files[number], upright), list(range(len(files))), shown, COCO_17, "short_side", params or DegradeParams()
    )


# ---------------------------------------------------------------- validation


@each_fit
@each_protocol
def test_validation_images_are_those_of_the_protocol(shards, protocol, fit):
    images = EvalImages.open(shards[protocol], fit)
    for row in range(len(images)):
        image = cv2.imread(str(shards[protocol].parent / images.image_path[row]))
        assert image.shape[:2] == (images.height[row], images.width[row])
        place = int(images.width[row]), int(images.height[row])
        size, matrix = images.geometry.input_size(*place), images.geometry.image_to_input(*place)
        pixels = images.pixels(row)
        assert pixels.shape == (3, *size) == (3, *images.input_sizes[row]) and pixels.dtype == np.uint8
        found = pixels.transpose(1, 2, 0)[..., ::-1]
        if protocol == "direct":
            assert np.array_equal(found, cv2.warpAffine(image, matrix, size[::-1], flags=cv2.INTER_LINEAR))
        elif protocol == "antialias":
            step, start = upright_grid(matrix)
            assert np.array_equal(found, to_uint8(area_mean(image, start, step, size)))
        else:
            step, start = upright_grid(matrix)
            blurred = cv2.GaussianBlur(found, (0, 0), 3).astype(float)
            clean = cv2.GaussianBlur(area_mean(image, start, step, size).astype(np.float32), (0, 0), 3)
            assert np.abs(blurred - clean).mean() < 4


def test_validation_holds_all_images_and_all_persons(tmp_path):
    persons, table, ignored = write_tiny_images(tmp_path)
    degrade(Source(persons, tmp_path, table, ignored), spec(), DegradeParams(), tmp_path / "shard", progress=False)
    images, val = EvalImages.open(tmp_path / "shard"), persons.split("val")
    assert images.image_id.tolist() == table["image_id"][table["split"] == "val"].tolist()
    assert np.isin(images.image_id, val.frame["image_id"], invert=True).any(), "an image without persons is among them"
    pd.testing.assert_frame_equal(images.persons.frame, val.frame)
    assert images.persons.frame["iscrowd"].any()
    assert np.array_equal(images.persons.keypoints, val.keypoints) and images.skeleton == COCO_17


def test_one_split_alone_has_the_same_files(tmp_path):
    persons, table, ignored = write_tiny_images(tmp_path, ODD_SCENES)
    made = {}
    for only in (None, "val"):
        source = Source(persons, tmp_path, table, ignored, only=only)
        made[only] = degrade(source, spec(), DegradeParams(), tmp_path / str(only), progress=False)
    assert made["val"]["files"] == {name: found for name, found in made[None]["files"].items() if name.startswith("val")}
    assert made["val"]["splits"] == {"val": made[None]["splits"]["val"]}


@each_protocol
@each_fit
def test_the_original_gives_the_stored_input_again_at_scale_1(shards, protocol, fit):
    images = EvalImages.open(shards[protocol], fit)
    for row in range(len(images)):
        again = images.at_scale(row, 1.0, 1.0, shards[protocol].parent, DegradeParams())
        assert np.array_equal(again, images.pixels(row))
        doubled = images.at_scale(row, 2.0, 1.0, shards[protocol].parent, DegradeParams())
        assert doubled.shape[1:] == tuple(2 * images.input_sizes[row])


@each_protocol
def test_users_files_are_shown_like_validation_images(shards, protocol):
    images = EvalImages.open(shards[protocol])
    files = [shards[protocol].parent / path for path in images.image_path]
    camera = DegradeParams(protocols={"sensor": {"shot_noise": 0.0, "read_noise": 0.0}})  # ids differ, and so would the noise
    own = images_of(files, spec(protocol), upright=False, params=camera)
    assert len(own) == len(files) and not len(own.persons) and own.image_id.tolist() == list(range(len(files)))
    for row in range(len(own)):
        expected = images.at_scale(row, 1, 1, shards[protocol].parent, camera)
        assert np.array_equal(own.pixels(row), expected)
        assert np.array_equal(own.at_scale(row, 1, 1, "/", camera), expected)


def test_photographs_are_turned_upright(tmp_path):
    cv2.imwrite(str(tmp_path / "photo.jpg"), np.full((60, 90, 3), 200, np.uint8))
    data = (tmp_path / "photo.jpg").read_bytes()
    tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # one entry: orientation 6, a quarter turn
    segment = b"Exif\0\0" + tiff
    (tmp_path / "photo.jpg").write_bytes(data[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + data[2:])
    turned, stored = (images_of([tmp_path / "photo.jpg"], spec(), upright) for upright in (True, False))
    assert (turned.width[0], turned.height[0]) == (60, 90) and (stored.width[0], stored.height[0]) == (90, 60)
    assert np.array_equal(turned.at_scale(0, 1, 1, tmp_path, DegradeParams()), turned.pixels(0))


@pytest.mark.parametrize("kind", ["grey", "16 bit", "alpha"])
def test_other_pixel_formats_are_read_as_colours(tmp_path, kind):
    grey = np.random.default_rng(0).integers(0, 256, (70, 90), dtype=np.uint8)
    written = {"grey": grey, "16 bit": grey.astype(np.uint16) * 257, "alpha": np.dstack([grey, grey, grey, np.full_like(grey, 9)])}[kind]
    cv2.imwrite(str(tmp_path / "photo.png"), written)
    cv2.imwrite(str(tmp_path / "plain.png"), np.dstack([grey] * 3))
    images = images_of([tmp_path / "photo.png", tmp_path / "plain.png"], spec(), upright=False)
    assert np.array_equal(images.pixels(0), images.pixels(1)) and images.pixels(0).any()


# ---------------------------------------------------------------- training


def test_training_holds_images_with_labelled_persons_once(tmp_path):
    persons, table, ignored = write_tiny_images(tmp_path, [*SCENES, ((90, 120), 0, "train", "crowd")])
    degrade(Source(persons, tmp_path, table, ignored), spec(), DegradeParams(), tmp_path / "shard", progress=False)
    images = TrainImages.open(tmp_path / "shard")
    labelled = persons.split("train").labelled()
    assert images.image_id.tolist() == [10, 11, 12], "nobody's and the crowd's images are not in it"
    for row, image_id in enumerate(images.image_id.tolist()):
        expected = labelled.keypoints[(labelled.frame["image_id"] == image_id).to_numpy()]
        assert np.array_equal(images.keypoints_image[row, : len(expected)].numpy(), expected[..., :2].astype(np.float32))
        assert images.visible[row].sum() == 17 * len(expected)


def test_direct_training_images_are_the_originals_with_their_ignore_masks(shards):
    images = TrainImages.open(shards["direct"])
    assert images.image_id.tolist() == [10, 11, 12]
    for row in range(len(images)):
        stored = stored_image(images, row)
        assert not stored[[0, -1]].any() and not stored[:, [0, -1]].any()
        image = cv2.imread(str(shards["direct"].parent / "images" / f"{row}.png"))
        counted = np.full(image.shape[:2], COUNTED_FULLY)
        counted[:, : image.shape[1] // 3 if row == 0 else 0] = 0
        assert np.array_equal(stored[1:-1, 1:-1, :3], image[..., ::-1]) and np.array_equal(stored[1:-1, 1:-1, 3], counted)
        assert images.image_to_stored[row].tolist() == [[1, 0, 1], [0, 1, 1]]


@pytest.mark.parametrize("protocol", ["antialias", "sensor"])
def test_reduced_training_images_keep_the_protocols_density(tmp_path, protocol):
    scenes = [((600, 800), 1, "train", "crowd"), ((60, 80), 1, "train", ""), ((90, 120), 1, "val", "")]
    images = TrainImages.open(write_tiny_image_shard(tmp_path, protocol, scenes))
    large, small = (stored_image(images, row)[1:-1, 1:-1] for row in (0, 1))
    assert large.shape[0] == 4 * SIZE and small.shape[:2] == (60, 80)
    counted, third = large[..., 3] / COUNTED_FULLY, large.shape[1] * 266 / 800
    assert not counted[:, : int(third)].any() and (counted[:-1, int(third) + 1 : -1] == 1).all()
    assert counted[:-1, :-1].sum() / counted.shape[1] / len(counted) == pytest.approx(1 - 266 / 800, abs=2 / large.shape[0])


# ---------------------------------------------------------------- the stage as a whole


@each_protocol
def test_shards_are_the_same_for_any_number_of_threads(tmp_path, protocol):
    persons, table, ignored = write_tiny_images(tmp_path)
    files = []
    for threads in (1, 4):
        params, source = DegradeParams(threads=threads), Source(persons, tmp_path, table, ignored)
        summary = degrade(source, spec(protocol), params, tmp_path / "shard", progress=False)
        assert summary == read_json(tmp_path / "shard" / "shard.json")
        files.append(summary["files"])
    assert files[0] == files[1]


def test_the_sensors_noise_follows_the_image_and_not_its_place(tmp_path):
    persons, table, ignored = write_tiny_images(tmp_path)
    tables = {"given": table, "reversed": table.iloc[::-1].reset_index(drop=True)}
    opened = {}
    for name, rows in tables.items():
        degrade(Source(persons, tmp_path, rows, ignored), spec("sensor"), DegradeParams(), tmp_path / name, progress=False)
        images, train = EvalImages.open(tmp_path / name), TrainImages.open(tmp_path / name)
        opened[name] = ({int(key): images.pixels(row) for row, key in enumerate(images.image_id)},
                        {int(key): stored_image(train, row) for row, key in enumerate(train.image_id)})  # fmt: skip
    for given, other in zip(opened["given"], opened["reversed"], strict=True):
        assert given.keys() == other.keys() and all(np.array_equal(given[key], other[key]) for key in given)


def test_the_summary_counts_what_is_in_the_shard(shards):
    about = read_json(shards["direct"] / "shard.json")
    assert (about["format"], about["version"], about["spec"]["input_size"]) == ("farpose image shard", 2, [SIZE, SIZE])
    assert about["splits"]["train"]["images"] == 3 and about["splits"]["train"]["persons"] == 3
    assert about["splits"]["val"] == {"images": 5, "persons": 3}
    assert spec("sensor", 512).name == "sensor_512" and ShardSpec((64, 48)).name == "direct_64x48"


@pytest.mark.parametrize("fault", ["damaged image", "other size", "no persons", "no split", "no row", "region of another size"])
def test_a_failed_run_leaves_the_earlier_shard_intact(tmp_path, fault):
    shard = write_tiny_image_shard(tmp_path)
    before = (shard / "shard.json").read_bytes()
    persons, table, ignored = write_tiny_images(tmp_path)
    message = {
        "damaged image": "1.png.*cut short",
        "other size": "4.png: image is 150x100 px.* says 151x100",
        "no persons": "split 'train' has no labelled person",
        "no split": "unknown split 'val'",
        "no row": "image 14 of split 'val' has persons but no row",
        "region of another size": "ignore region is for",
    }[fault]
    if fault == "damaged image":
        path = tmp_path / "images" / "1.png"
        path.write_bytes(path.read_bytes()[:500])
    elif fault == "other size":
        table.loc[table["image_id"] == 14, "image_width"] += 1
    elif fault == "no persons":
        persons.frame.loc[persons.frame["split"] == "train", "num_keypoints"] = 0
    elif fault == "no split":
        persons.frame["split"] = "train"
    elif fault == "no row":
        table = table[table["image_id"] != 14]
    else:
        ignored.frame[["height", "width"]] = ignored.frame[["width", "height"]].to_numpy()
    with pytest.raises(FarposeError, match=message):
        degrade(Source(persons, tmp_path, table, ignored), spec(), DegradeParams(), shard, progress=False)
    assert (shard / "shard.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "shard"], "no half-written directory stays"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_shard_is_named(shards, tmp_path, fault):
    folder = tmp_path / "shard"
    shutil.copytree(shards["direct"], folder)
    message = damage(folder, fault, ("train_pixels.npy", "val_short_side.npy"))
    for opened in (TrainImages.open, EvalImages.open):
        with pytest.raises(FarposeError, match=message) as caught:
            opened(folder)
        assert str(folder) in str(caught.value)


def test_crops_and_whole_images_are_not_mistaken_for_each_other(shards):
    for opened in (TrainCrops.open, lambda folder: EvalCrops.open(folder, "classic")):
        with pytest.raises(FarposeError, match=r"farpose image shard.*bottom-up ones whole images"):
            opened(shards["direct"])
    with pytest.raises(FarposeError, match="unknown image fit 'longside'"):
        EvalImages.open(shards["direct"], "longside")


@pytest.mark.parametrize("size", [(64, 48), (96, 96)])
def test_only_squares_of_64_px_are_whole_images(size):
    with pytest.raises(ValueError, match="multiple of 64"):
        ShardSpec(size, images=True)


def test_the_contact_sheet_shows_the_images(shards):
    for shard in shards.values():
        sheet = cv2.imread(str(shard / "contact_sheet.png"))
        assert sheet is not None and sheet.std() > 20
