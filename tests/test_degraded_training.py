"""What training sees is what evaluation sees: equally sharp, equally noisy, with noise of its own in every step."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from components.degrade.augment import Augmenter, AugmentParams
from components.degrade.augment_images import ImageAugmenter, ImageAugmentParams
from components.degrade.image_shards import EvalImages, TrainImages
from components.degrade.jpeg import compress
from components.degrade.params import DegradeParams, ShardSpec
from components.degrade.protocol import View, protocol, protocols
from components.degrade.render import KEYS, _mean_of_samples, normal_noise, spread_and_reduce
from components.degrade.sample import IMAGENET_MEAN, IMAGENET_STD
from components.degrade.shard import Source
from components.degrade.shards import Boxes, EvalCrops, TrainCrops, crop_boxes
from components.degrade.stage import degrade
from components.pose.persons import Persons
from tests.tiny_image_shard import write_tiny_image_shard
from tests.tiny_people import texture, tiny_people_table

SIZE = (64, 48)
each_protocol = pytest.mark.parametrize("protocol_name", protocols())
each_faithful_protocol = pytest.mark.parametrize("protocol_name", [name for name, how in protocols().items() if not how.varies])


def grey_levels(images: torch.Tensor) -> np.ndarray:
    return ((images * torch.tensor(IMAGENET_STD).view(3, 1, 1) + torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) * 255).numpy()


def rms_laplacian(images: np.ndarray) -> float:
    """Root mean square of the Laplacian of (N, 3, H, W) grey levels."""
    x = images.astype(float)
    inner = 4 * x[..., 1:-1, 1:-1] - x[..., :-2, 1:-1] - x[..., 2:, 1:-1] - x[..., 1:-1, :-2] - x[..., 1:-1, 2:]
    return float(np.sqrt((inner**2).mean()))


def persons_in(root: Path, step: float, paint: str, count: int = 12) -> Persons:
    """Persons whose target px are `step` image px, in detailed images ("detail") or on even grey ("grey")."""
    rng = np.random.default_rng(0)
    height, width = (round(1.2 * step * side) + 40 for side in SIZE)
    persons = tiny_people_table(count)
    for number in range(4):
        fine = cv2.GaussianBlur(rng.uniform(0, 255, (height, width, 3)), (0, 0), 0.7)  # detail in every px, as photographs have it
        image = 0.5 * texture(height, width, rng) + 1.5 * (fine - 127) + 80 if paint == "detail" else np.full((height, width, 3), 120.0)
        cv2.imwrite(str(root / f"{number}.png"), np.clip(image, 0, 255).astype(np.uint8))
    persons.frame[["image_width", "image_height"]] = [width, height]
    box = np.array([SIZE[1], SIZE[0]]) * step / 1.25
    persons.bbox_xywh[:] = np.concatenate([rng.uniform(0.3, 0.7, (count, 2)) * [width, height] - box / 2, np.tile(box, (count, 1))], 1)
    persons.frame["num_keypoints"] = 17
    return persons


def seen(root: Path, step: float, name: str, paint: str, seed: int = 0, count: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3, H, W) grey levels of the training persons without geometric augmentation, and as they would be evaluated."""
    persons, spec = persons_in(root, step, paint, count), ShardSpec(SIZE, name)
    degrade(Source(persons, root), spec, DegradeParams(), root / "shard", progress=False)
    train, crops = persons.split("train").labelled(), TrainCrops.open(root / "shard")
    batch = Augmenter(spec.geometry("classic"), AugmentParams.none(), train.skeleton)(crops, torch.arange(len(crops)), seed)
    paths, ids = train.frame["image_path"].to_numpy(object), train.frame["image_id"].to_numpy()
    expected = crop_boxes(Boxes(root, paths, ids, train.bbox_xywh), "classic", spec, DegradeParams(), train.skeleton)
    return grey_levels(batch.images), expected.pixels


@pytest.mark.parametrize("step", [0.7, 1.3, 2.6, 5.3])
@each_faithful_protocol
def test_training_crops_are_as_sharp_as_evaluated_ones(tmp_path, protocol_name, step):
    """Within 3 %, from persons larger than the target to persons a fifth of it; and they show the same."""
    ours, expected = seen(tmp_path, step, protocol_name, "detail")
    assert rms_laplacian(ours) == pytest.approx(rms_laplacian(expected), rel=0.03)
    redrawn = protocol(protocol_name).redraws
    assert np.abs(ours - expected).mean() < (8 if redrawn else 2)
    assert ours.mean((1, 2, 3)) == pytest.approx(expected.mean((1, 2, 3)), abs=1)


@each_faithful_protocol
def test_training_crops_are_as_noisy_as_evaluated_ones(tmp_path, protocol_name):
    ours, expected = (crops[:, :, 16:48, 12:36].astype(float) for crops in seen(tmp_path, 2.6, protocol_name, "grey", count=160))
    assert ours.std() == pytest.approx(expected.std(), rel=0.05, abs=0.01) and ours.mean() == pytest.approx(expected.mean(), abs=0.3)
    assert (expected.std() > 1) == protocol(protocol_name).redraws


@each_faithful_protocol
def test_every_step_draws_noise_of_its_own(tmp_path, protocol_name):
    """The same persons, without geometric augmentation: other noise with another seed, the same with the same."""
    first, _ = seen(tmp_path, 1.3, protocol_name, "grey", seed=1)
    crops = TrainCrops.open(tmp_path / "shard")
    subject = Augmenter(ShardSpec(SIZE, protocol_name).geometry("classic"), AugmentParams.none(), crops.skeleton)
    again, other = (grey_levels(subject(crops, torch.arange(len(crops)), seed).images) for seed in (1, 2))
    assert np.array_equal(first, again)
    assert np.array_equal(first, other) != protocol(protocol_name).redraws
    if protocol(protocol_name).redraws:
        one, two = (crops[:, :, 16:48, 12:36] - 120 for crops in (first, other))
        assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.05


@each_faithful_protocol
def test_training_images_are_as_sharp_as_evaluated_ones(tmp_path, protocol_name):
    scenes = [((400, 400), 2, "train", ""), ((400, 400), 2, "train", ""), ((400, 400), 1, "val", "")]
    folder = write_tiny_image_shard(tmp_path, protocol_name, scenes, size=128)
    for number in (0, 1):  # the validation image becomes the first training image
        cv2.imwrite(str(tmp_path / "images" / "2.png"), cv2.imread(str(tmp_path / "images" / f"{number}.png")))
    images, val = TrainImages.open(folder), EvalImages.open(folder)
    batch = ImageAugmenter(128, (32,), ImageAugmentParams.none(), images.skeleton)(images, torch.arange(2), 0)
    expected = val.at_scale(0, 1, 1, tmp_path, DegradeParams())
    assert rms_laplacian(grey_levels(batch.images)[1:]) == pytest.approx(rms_laplacian(expected[None]), rel=0.04)
    assert np.abs(grey_levels(batch.images)[1] - expected).mean() < 6


@each_protocol
def test_dev_and_val_crops_are_made_alike(tmp_path, protocol_name):
    persons = persons_in(tmp_path, 2.0, "detail")
    persons.frame["split"] = np.where(persons.frame["split"] == "train", "train", np.where(np.arange(12) % 2, "dev", "val"))
    persons.frame.loc[[2, 3], "split"] = ["val", "dev"]
    degrade(Source(persons, tmp_path), ShardSpec(SIZE, protocol_name), DegradeParams(), tmp_path / "shard", progress=False)
    sharpness = [rms_laplacian(EvalCrops.open(tmp_path / "shard", "classic", split).pixels) for split in ("dev", "val")]
    assert sharpness[0] == pytest.approx(sharpness[1], rel=0.15)


# ---------------------------------------------------------------- the parts


@pytest.mark.parametrize("quality", [10, 50, 75, 95, 100])
@pytest.mark.parametrize("size", [(64, 48), (37, 51)])
def test_jpeg_is_libjpegs_up_to_its_rounding(size, quality):
    """Against OpenCV's encoder and decoder: 9 px in 10 within two grey levels, on average a tenth of what JPEG itself changes."""
    rng = np.random.default_rng(quality)
    image = np.clip(texture(*size, rng) + rng.normal(0, 8, (*size, 3)), 0, 255).astype(np.uint8)
    expected = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)
    ours = compress(torch.from_numpy(image[None, ..., ::-1].copy()).permute(0, 3, 1, 2).float(), quality)
    difference = np.abs(ours[0].permute(1, 2, 0).numpy()[..., ::-1] - expected)
    changed = np.abs(image.astype(float) - expected).mean()
    assert changed > 2 and difference.mean() < 0.13 * changed and difference.mean() < 0.8 and difference.max() <= 12
    assert (difference <= 2).mean() > 0.9 and torch.equal(ours, ours.round())


def test_noise_is_normal_and_independent_between_keys_and_places():
    noise = normal_noise(torch.arange(64) * (KEYS // 64), (3, 31, 17)).double()
    assert noise.mean().abs() < 0.01 and noise.std().item() == pytest.approx(1, abs=0.01)
    assert (noise.abs() > 1.96).double().mean().item() == pytest.approx(0.05, abs=0.003)
    assert noise.abs().max() < 6 and (noise**4).mean().item() == pytest.approx(3, abs=0.1)
    flat = noise.reshape(64, -1)
    others = torch.corrcoef(flat) - torch.eye(64)
    assert others.abs().max() < 5 / flat.shape[1] ** 0.5
    for lag in (1, 17, 31 * 17, flat.shape[1] // 2):
        assert (flat[:, lag:] * flat[:, :-lag]).mean().abs() < 0.02


def test_noise_of_a_target_depends_on_its_key_alone():
    keys = torch.tensor([5, 7, 5, KEYS - 1])
    noise = normal_noise(keys, (3, 8, 6))
    assert torch.equal(noise[0], noise[2]) and not torch.equal(noise[0], noise[1])
    assert torch.equal(normal_noise(keys[1:2], (3, 8, 6))[0], noise[1])


@pytest.mark.parametrize(("sigma", "dense"), [(1.0, 2), (0.0, 2), (2.3, 4)])
def test_spreading_is_a_gaussian_and_then_a_mean(sigma, dense):
    rng = np.random.default_rng(0)
    padding = int(np.ceil(4 * sigma))
    plane = rng.uniform(0, 255, (6 * dense + 2 * padding, 5 * dense + 2 * padding))
    blurred = cv2.GaussianBlur(plane, (2 * padding + 1,) * 2, sigma) if sigma else plane
    middle = blurred[padding : padding + 6 * dense, padding : padding + 5 * dense]
    ours = spread_and_reduce(torch.from_numpy(plane)[None, None], padding, sigma, dense)[0, 0]
    np.testing.assert_allclose(ours, middle.reshape(6, dense, 5, dense).mean((1, 3)), atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_samples_that_a_target_does_not_need_have_no_weight(tmp_path, count):
    """A GPU takes as many samples for every target; a CPU leaves out those without weight."""
    degrade(Source(persons_in(tmp_path, 2.6, "detail"), tmp_path), ShardSpec(SIZE, "antialias"), DegradeParams(), tmp_path / "shard", False)
    crops, indices = TrainCrops.open(tmp_path / "shard"), torch.arange(3)
    to_stored = torch.tensor([[[2.0, 0.5, 9.0], [-0.5, 2.0, 30.0]]], dtype=torch.float64).repeat(3, 1, 1)
    needed = torch.full((3,), count, dtype=torch.float64)
    few, all_of_them = (_mean_of_samples(crops, indices, to_stored, SIZE, 0.2 + 0 * needed, needed, taps) for taps in (count, 4))
    torch.testing.assert_close(few, all_of_them, atol=1e-3, rtol=0)


def test_the_devices_half_records_as_a_graph_and_equals_the_cpus():
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    images = torch.randint(0, 256, (4, 3, 64, 48)).float()
    on_cpu, keys = compress(images, 75), torch.arange(4)
    assert ((compress(images.cuda(), 75).cpu() - on_cpu).abs() <= 2).float().mean() > 0.98
    torch.testing.assert_close(normal_noise(keys.cuda(), (3, 64, 48)).cpu(), normal_noise(keys, (3, 64, 48)), atol=1e-4, rtol=1e-4)


def test_the_black_beside_the_image_has_no_noise_in_training_either(tmp_path):
    """A person at the image's corner: what lies outside stays black but for JPEG, and inside nothing darkens toward the edge."""
    persons = persons_in(tmp_path, 2.0, "grey")
    height, width = (int(persons.frame[name][0]) for name in ("image_height", "image_width"))
    persons.bbox_xywh[:, :2] = [width - 0.5 * persons.bbox_xywh[0, 2], height - 0.5 * persons.bbox_xywh[0, 3]]
    quiet = DegradeParams(protocols={"sensor": {"jpeg_quality": 100}})
    degrade(Source(persons, tmp_path), ShardSpec(SIZE, "sensor"), quiet, tmp_path / "shard", progress=False)
    crops = TrainCrops.open(tmp_path / "shard")
    batch = Augmenter(ShardSpec(SIZE).geometry("classic"), AugmentParams.none(), crops.skeleton)(crops, torch.arange(len(crops)), 0)
    ours = grey_levels(batch.images)
    matrix = ShardSpec(SIZE).geometry("classic").image_to_crop(crops.center[:1].numpy(), crops.size[:1].numpy())[0]
    image = np.full((height, width, 3), 120, np.uint8)
    expected = protocol("sensor").crop(image, View(matrix, SIZE), quiet.settings("sensor"), (0, 0, 0))
    assert ours[:, :, 40:, :].max() < 12 and ours[:, :, :, 30:].max() < 12
    edge = ours[:, :, 8:24, 22:26].mean((0, 1, 2))
    np.testing.assert_allclose(edge, expected[8:24, 22:26].mean((0, 2)), atol=4)
