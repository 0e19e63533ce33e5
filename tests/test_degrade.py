"""Degradation: shards hold what they say, bad images are named."""

from __future__ import annotations

import dataclasses
import json
import shutil

import cv2
import numpy as np
import pytest
from hypothesis import given, settings, strategies

from components.base.config import PARAMS, load_yaml, parse
from components.base.errors import FarposeError
from components.base.files import read_json, write_json
from components.degrade import images
from components.degrade.contact_sheet import contact_sheet
from components.degrade.image_shards import plan_whole
from components.degrade.images import read_image
from components.degrade.params import DegradeParams, ShardSpec
from components.degrade.protocol import View, protocols
from components.degrade.protocol import protocol as protocol_of
from components.degrade.regions import box_center_and_size, plan_regions
from components.degrade.shard import Source, eval_input
from components.degrade.shards import Boxes, EvalCrops, TrainCrops, crop_boxes
from components.degrade.stage import degrade
from components.pose.crop import transform
from components.pose.skeleton import COCO_17
from tests.degrade_cases import FAULTS, PROTOCOLS, SIZE, damage, each_convention, each_protocol
from tests.tiny_people import texture, tiny_people, tiny_people_table


@pytest.fixture(scope="module")
def shards(people, tmp_path_factory):
    """One shard of every protocol: {protocol: directory}."""
    persons, root = people
    out = tmp_path_factory.mktemp("shards")
    for protocol in PROTOCOLS:
        degrade(Source(persons, root), ShardSpec(SIZE, protocol), DegradeParams(), out / protocol, progress=False)
    return {protocol: out / protocol for protocol in PROTOCOLS}


# ---------------------------------------------------------------- shards


@each_protocol
@each_convention
def test_validation_crops_are_those_of_the_protocol(people, shards, protocol, convention):
    persons, root = people
    val = persons.split("val").labelled()
    crops = EvalCrops.open(shards[protocol], convention)
    assert crops.pixels.shape == (len(val), 3, *SIZE) and crops.pixels.dtype == np.uint8
    assert np.array_equal(crops.annotation_id, val.frame["annotation_id"])
    assert np.array_equal(crops.keypoints_image, val.keypoints) and np.array_equal(crops.bbox_xywh, val.bbox_xywh)
    matrices = crops.geometry.image_to_crop(crops.center, crops.size)
    for row in range(len(val)):
        image = cv2.imread(str(root / crops.image_path[row]))
        identity = int(crops.image_id[row]), int(crops.annotation_id[row])
        expected = eval_input(image, View(matrices[row], SIZE, convention), protocol, DegradeParams(), identity)
        assert np.array_equal(crops.pixels[row], expected)
    if protocol == "direct" and convention == "classic":
        warped = cv2.warpAffine(image, matrices[row], SIZE[::-1], flags=cv2.INTER_LINEAR)
        assert np.array_equal(crops.pixels[row], warped[..., ::-1].transpose(2, 0, 1)), "RGB, bilinear, of the original image"


@each_protocol
def test_shards_are_the_same_for_any_number_of_threads_and_order_of_rows(people, shards, protocol, tmp_path):
    persons, root = people
    spec = ShardSpec(SIZE, protocol)
    summary = degrade(Source(persons, root), spec, DegradeParams(threads=1), tmp_path / "one", progress=False)
    assert summary["files"] == read_json(shards[protocol] / "shard.json")["files"]
    shuffled = persons.select(np.random.default_rng(0).permutation(len(persons)))
    degrade(Source(shuffled, root), spec, DegradeParams(), tmp_path / "shuffled", progress=False)
    before, after = EvalCrops.open(shards[protocol], "classic"), EvalCrops.open(tmp_path / "shuffled", "classic")
    order = [np.flatnonzero(after.annotation_id == annotation)[0] for annotation in before.annotation_id]
    assert np.array_equal(after.pixels[order], before.pixels)


def test_one_split_alone_has_the_same_files(people, shards, tmp_path):
    persons, root = people
    summary = degrade(Source(persons, root, only="val"), ShardSpec(SIZE), DegradeParams(), tmp_path / "shard", progress=False)
    whole = read_json(shards["direct"] / "shard.json")
    assert summary["files"] == {name: found for name, found in whole["files"].items() if name.startswith("val")}
    assert summary["splits"] == {"val": whole["splits"]["val"]}
    with pytest.raises(FarposeError, match="the shard has no split 'train'"):
        TrainCrops.open(tmp_path / "shard")


def test_each_image_is_decoded_once_per_split(people, tmp_path, monkeypatch):
    persons, root = people
    read: list[str] = []
    monkeypatch.setattr(images, "read_image", lambda path, *upright: (read.append(path.name), read_image(path, *upright))[1])
    degrade(Source(persons, root), ShardSpec(SIZE), DegradeParams(), tmp_path / "shard", progress=False)
    assert sorted(read) == ["0.png", "1.png", "2.png", "3.png"]


def stored_crop(crops, row):
    """(h, w, 4) uint8 with the black border."""
    height, width, offset = int(crops.height[row]), int(crops.width[row]), int(crops.offset[row])
    return crops.pixels[offset : offset + height * width].numpy().view(np.uint8).reshape(height, width, 4)


def test_native_training_crops_are_cut_from_the_image(people, shards):
    _, root = people
    crops = TrainCrops.open(shards["direct"])
    for row in range(len(crops)):
        height, width = int(crops.height[row]), int(crops.width[row])
        stored = stored_crop(crops, row)
        assert not stored[[0, -1]].any() and not stored[:, [0, -1]].any() and not stored[..., 3].any()
        left, top = np.round(1 - crops.image_to_stored[row, :, 2].numpy()).astype(int)
        image = cv2.imread(str(root / f"{int(crops.image_id[row]) - 10}.png"))[..., ::-1]
        assert np.array_equal(stored[1:-1, 1:-1, :3], image[top : top + height - 2, left : left + width - 2])


def test_persons_of_one_image_share_it_where_that_is_smaller(people, shards):
    persons, _ = people
    train = persons.split("train").labelled()
    about, crops = read_json(shards["direct"] / "shard.json")["splits"]["train"], TrainCrops.open(shards["direct"])
    whole = {key: (height + 2) * (width + 2) for key, height, width in
             train.frame[["image_id", "image_height", "image_width"]].drop_duplicates().itertuples(index=False)}  # fmt: skip
    assert about["pixels"] <= sum(whole.values())
    assert len(np.unique(crops.offset)) < len(crops)


@each_protocol
def test_stored_training_crops_keep_the_place_of_things(protocol, tmp_path):
    """A blob is found in the stored crop where `image_to_stored` says, also where the store is reduced."""
    y, x = np.mgrid[0:600, 0:800]
    persons = tiny_people(tmp_path / "people", zoom=4)
    blob = np.repeat(230 * np.exp(-((x - 400) ** 2 + (y - 280) ** 2) / (2 * 48**2))[..., None], 3, 2).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "people" / "0.png"), blob)
    persons.bbox_xywh[0] = [280, 140, 264, 320]
    summary = degrade(Source(persons, tmp_path / "people"), ShardSpec((16, 16), protocol), DegradeParams(), tmp_path / "shard", False)
    reduced = summary["splits"]["train"]["reduced"]
    assert (reduced > 0) == (protocol_of(protocol).density is not None)
    crops = TrainCrops.open(tmp_path / "shard")
    stored = stored_crop(crops, 0)[..., 0].astype(float)
    rows, columns = np.mgrid[0 : stored.shape[0], 0 : stored.shape[1]]
    found = [(columns * stored).sum() / stored.sum(), (rows * stored).sum() / stored.sum()]
    np.testing.assert_allclose(found, transform(crops.image_to_stored[:1].numpy(), np.array([[400.0, 280.0]]))[0], atol=0.1)


@settings(max_examples=30, deadline=None)
@given(
    sides=strategies.tuples(strategies.integers(300, 12_000), strategies.integers(300, 12_000)),
    share=strategies.floats(0.02, 1.0),
    size=strategies.sampled_from([(64, 48), (256, 192), (384, 288)]),
)
@each_protocol
def test_no_image_is_too_large_for_training_to_see_what_evaluation_sees(protocol, sides, share, size):
    """A store is as dense as the image, or four times as dense as the target of an unscaled view; no limit lies below that."""
    persons = tiny_table(sides, share)
    box = box_center_and_size(persons.bbox_xywh, ShardSpec(size, protocol))[1][0, 0]
    step = plan_regions(persons, ShardSpec(size, protocol)).step[0]
    images = [plan_whole(np.array([sides]), ShardSpec((512, 512), protocol, images=True)).step[0]]
    if protocol_of(protocol).density is None:
        assert step == images[0] == 1
    else:
        assert step == pytest.approx(max(box / size[1] / 4, 1)) and images[0] == pytest.approx(max(min(sides) / 512 / 4, 1))


def tiny_table(sides, share):
    """One person who takes a share of the height of an image of (width, height) px; the image need not be there."""
    persons = tiny_people_table(1)
    persons.frame[["image_width", "image_height"]] = [sides]
    height = share * sides[1]
    persons.bbox_xywh[0] = [sides[0] / 3, (sides[1] - height) / 2, height / 3, height]
    return persons


@each_protocol
def test_shards_hold_every_split_but_training(people, protocol, tmp_path):
    persons, root = people
    persons = persons.select(np.arange(len(persons)))
    persons.frame.loc[persons.frame["image_path"] == "3.png", "split"] = "dev"
    summary = degrade(Source(persons, root), ShardSpec(SIZE, protocol), DegradeParams(), tmp_path / "shard", progress=False)
    assert list(summary["splits"]) == ["train", "dev", "val"]
    for split in ("dev", "val"):
        crops, expected = EvalCrops.open(tmp_path / "shard", "classic", split), persons.split(split).labelled()
        assert np.array_equal(crops.annotation_id, expected.frame["annotation_id"])
        boxes = Boxes(root, crops.image_path, crops.image_id, crops.bbox_xywh)
        alone = crop_boxes(boxes, "classic", ShardSpec(SIZE, protocol), DegradeParams(), persons.skeleton)
        if not protocol_of(protocol).redraws:
            assert np.array_equal(crops.pixels, alone.pixels)
    assert not set(EvalCrops.open(tmp_path / "shard", "classic", "dev").image_id) & set(
        EvalCrops.open(tmp_path / "shard", "classic").image_id
    )


def test_a_split_that_a_shard_lacks_is_named(shards):
    with pytest.raises(
        FarposeError, match=r"has no split 'dev' \(it has train, val; make the split in params/data\.yaml .*`validate_on: val`"
    ):
        EvalCrops.open(shards["direct"], "classic", "dev")


def test_a_skeleton_of_ones_own_travels_with_the_shard(tmp_path):
    own = dataclasses.replace(COCO_17, name="of_my_own", sigmas=(0.05,) * 17)
    persons = tiny_people(tmp_path / "people", skeleton=own)
    degrade(Source(persons, tmp_path / "people"), ShardSpec(SIZE), DegradeParams(), tmp_path / "shard", progress=False)
    assert TrainCrops.open(tmp_path / "shard").skeleton == EvalCrops.open(tmp_path / "shard", "classic").skeleton == own


@pytest.mark.parametrize("protocol", ["direct", "antialias"])
@each_convention
def test_boxes_of_a_detector_are_cropped_like_validation_boxes(people, shards, protocol, convention):
    persons, root = people
    val = EvalCrops.open(shards[protocol], convention)
    boxes = Boxes(root, val.image_path, val.image_id, val.bbox_xywh)
    crops = crop_boxes(boxes, convention, ShardSpec(SIZE, protocol), DegradeParams(), persons.skeleton)
    assert np.array_equal(crops.pixels, val.pixels) and np.array_equal(crops.size, val.size)


def test_sensor_noise_of_detector_boxes_follows_the_box_and_not_its_place_in_the_list(people, shards):
    persons, root = people
    val = EvalCrops.open(shards["sensor"], "classic")
    order = np.arange(len(val))[::-1]

    def crop(rows):
        boxes = Boxes(root, val.image_path[rows], val.image_id[rows], val.bbox_xywh[rows])
        return crop_boxes(boxes, "classic", ShardSpec(SIZE, "sensor"), DegradeParams(), persons.skeleton).pixels

    assert np.array_equal(crop(order)[order], crop(np.arange(len(val))))


# ---------------------------------------------------------------- bad input


def jpeg(path, image):
    cv2.imwrite(str(path), image)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("fault", ["missing", "empty", "cut short", "no image"])
def test_an_unreadable_image_is_named(tmp_path, suffix, fault):
    path = tmp_path / f"photo{suffix}"
    data = jpeg(path, texture(60, 60, np.random.default_rng(0)))
    contents = {"empty": b"", "cut short": data[: len(data) // 2], "no image": b"<html>not found</html>"}
    path.unlink() if fault == "missing" else path.write_bytes(contents[fault])
    message = {"missing": "image not found", "empty": "is empty", "cut short": "cut short", "no image": "OpenCV cannot decode"}[fault]
    with pytest.raises(FarposeError, match=message) as caught:
        read_image(path)
    assert str(path) in str(caught.value)


def test_a_whole_image_with_bytes_behind_its_end_is_read(tmp_path):
    image = texture(60, 50, np.random.default_rng(0))
    data = jpeg(tmp_path / "photo.jpg", image)
    (tmp_path / "photo.jpg").write_bytes(data + b"\0" * 100)
    assert read_image(tmp_path / "photo.jpg").shape == (60, 50, 3)


def test_exif_orientation_is_ignored(tmp_path):
    data = jpeg(tmp_path / "photo.jpg", texture(60, 50, np.random.default_rng(0)))
    tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # one entry: orientation 6, a quarter turn
    segment = b"Exif\0\0" + tiff
    (tmp_path / "photo.jpg").write_bytes(data[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + data[2:])
    assert cv2.imread(str(tmp_path / "photo.jpg")).shape == (50, 60, 3), "OpenCV would turn it"
    assert read_image(tmp_path / "photo.jpg").shape == (60, 50, 3)


@pytest.mark.parametrize("fault", ["damaged image", "other size", "no persons", "no split"])
def test_a_failed_run_leaves_the_earlier_shard_intact(tmp_path, fault):
    persons = tiny_people(tmp_path / "people")
    spec, out = ShardSpec(SIZE), tmp_path / "shard"
    degrade(Source(persons, tmp_path / "people"), spec, DegradeParams(), out, progress=False)
    before = (out / "shard.json").read_bytes()
    message = {"damaged image": "1.png.*cut short", "other size": "2.png.*80x64 px, its table says 81x64",
               "no persons": "split 'train' has no labelled person", "no split": "unknown split 'val'"}[fault]  # fmt: skip
    if fault == "damaged image":
        path = tmp_path / "people" / "1.png"
        path.write_bytes(path.read_bytes()[:500])
    elif fault == "other size":
        persons.frame.loc[persons.frame["image_path"] == "2.png", "image_width"] += 1
    elif fault == "no persons":
        persons.frame.loc[persons.frame["split"] == "train", "num_keypoints"] = 0
    else:
        persons.frame["split"] = "train"
    with pytest.raises(FarposeError, match=message):
        degrade(Source(persons, tmp_path / "people"), spec, DegradeParams(), out, progress=False)
    assert (out / "shard.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["people", "shard"], "no half-written directory stays"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_shard_is_named(shards, tmp_path, fault):
    folder = tmp_path / "shard"
    shutil.copytree(shards["direct"], folder)
    message = damage(folder, fault, ("train_pixels.npy", "val_classic.npy"))
    for opened in (lambda: TrainCrops.open(folder), lambda: EvalCrops.open(folder, "classic")):
        with pytest.raises(FarposeError, match=message) as caught:
            opened()
        assert str(folder) in str(caught.value)


def test_another_opencv_is_a_warning(shards, tmp_path):
    shutil.copytree(shards["direct"], tmp_path / "shard")
    about = json.loads((tmp_path / "shard" / "shard.json").read_text())
    write_json(tmp_path / "shard" / "shard.json", {**about, "opencv": "4.10.0"})
    with pytest.warns(UserWarning, match=r"OpenCV 4\.10\.0"):
        assert len(EvalCrops.open(tmp_path / "shard", "dark"))


# ---------------------------------------------------------------- parameters and the contact sheet


def test_the_shipped_parameters_are_the_defaults():
    shipped = parse(DegradeParams, load_yaml(PARAMS / "degrade.yaml")["degrade"], "degrade.yaml: degrade")
    assert dataclasses.replace(shipped, protocols={}) == DegradeParams()
    assert shipped.protocols.keys() == {name for name, how in protocols().items() if how.settings}
    for name in protocols():
        assert shipped.of(name) == DegradeParams().of(name)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"thread": 3}, "did you mean 'threads'"),
        ({"protocols": {"sensor": {"jpeg_quality": 0}}}, "degrade.protocols.sensor: jpeg_quality must be 1 to 100"),
        ({"protocols": {"sensor": {"read_noise": -1}}}, "must not be negative"),
        ({"protocols": {"sensor": {"jpeg_qualty": 3}}}, "did you mean 'jpeg_quality'"),
        ({"protocols": {"direct": {"jpeg": 3}}}, "unknown parameter 'jpeg'"),
        ({"protocols": {"sensr": {}}}, "unknown protocol 'sensr'"),
    ],
)
def test_wrong_parameters_are_refused(values, message):
    with pytest.raises(FarposeError, match=message):
        parse(DegradeParams, values, "degrade.yaml: degrade")


def test_an_unknown_protocol_is_refused():
    with pytest.raises(FarposeError, match="did you mean 'antialias'"):
        parse(ShardSpec, {"input_size": [64, 48], "protocol": "antialais"}, "pipeline.yaml: shards.x")


def test_a_margin_is_part_of_the_shards_name_and_of_its_crops(tmp_path):
    assert [ShardSpec((64, 48), margin_scale=margin).name for margin in (1.35, 1.5, 1.675)] == [
        "direct_64x48", "direct_64x48_margin150", "direct_64x48_margin167p5",
    ]  # fmt: skip
    persons = tiny_people(tmp_path / "people", zoom=5)
    pixels = {}
    for margin in (1.35, 1.5):
        spec = ShardSpec(SIZE, margin_scale=margin)
        pixels[margin] = degrade(Source(persons, tmp_path / "people"), spec, DegradeParams(), tmp_path / "shard", False)["splits"]["train"]
        assert TrainCrops.open(tmp_path / "shard").margin_scale == margin
    assert pixels[1.5]["pixels"] > pixels[1.35]["pixels"]
    with pytest.raises(ValueError, match="margin_scale must be at least 1"):
        ShardSpec((64, 48), margin_scale=0.9)


@each_protocol
def test_the_contact_sheet_shows_the_evaluated_crop(people, shards, protocol):
    persons, root = people
    crops = EvalCrops.open(shards[protocol], "classic")
    val = persons.split("val").labelled().select(np.array([2]))
    page = contact_sheet(Source(val, root), ShardSpec(SIZE, protocol), DegradeParams())
    enlarged = cv2.resize(crops.pixels[2].transpose(1, 2, 0).copy(), None, fx=7, fy=7, interpolation=cv2.INTER_NEAREST)
    top, left = np.unravel_index(cv2.matchTemplate(page, enlarged, cv2.TM_SQDIFF).argmin(), np.subtract(page.shape, enlarged.shape)[:2] + 1)
    assert np.array_equal(page[top : top + enlarged.shape[0], left : left + enlarged.shape[1]], enlarged)
    sheet = cv2.imread(str(shards[protocol] / "contact_sheet.png"))
    assert sheet is not None and sheet.std() > 20
