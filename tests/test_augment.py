"""Augmentation: equal to a published-style trainer given the same draws, repeatable, and neutral when switched off."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from components.base.errors import FarposeError
from components.degrade.augment import Augmenter, AugmentParams
from components.degrade.half_body import choose_half, half_body_box
from components.degrade.params import DegradeParams, ShardSpec
from components.degrade.protocol import protocols
from components.degrade.sample import IMAGENET_MEAN, IMAGENET_STD, normalise, sample
from components.degrade.shard import Source
from components.degrade.shards import Boxes, TrainCrops, crop_boxes
from components.degrade.stage import degrade
from components.pose.crop import CONVENTIONS, transform
from components.pose.skeleton import COCO_17, CROWDPOSE_14, MPII_16
from tests.tiny_people import tiny_people

SIZE = (32, 24)
each_convention = pytest.mark.parametrize("convention", CONVENTIONS)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    root = tmp_path_factory.mktemp("people")
    return tiny_people(root, count=40), root


@pytest.fixture(scope="module")
def shards(people, tmp_path_factory):
    persons, root = people
    out = tmp_path_factory.mktemp("shards")
    for protocol in protocols():
        degrade(Source(persons, root), ShardSpec(SIZE, protocol), DegradeParams(), out / protocol, progress=False)
    return {protocol: TrainCrops.open(out / protocol) for protocol in protocols()}


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    """Small persons in large images: persons, folder and training crops."""
    root = tmp_path_factory.mktemp("sparse")
    persons = tiny_people(root / "people", count=20, zoom=5)
    degrade(Source(persons, root / "people"), ShardSpec(SIZE), DegradeParams(), root / "shard", progress=False)
    return persons, root / "people", TrainCrops.open(root / "shard")


def augmenter(convention="classic", params=None, skeleton=COCO_17):
    return Augmenter(ShardSpec(SIZE).geometry(convention), params or AugmentParams(), skeleton)


def grey_levels(batch):
    return ((batch.images * torch.tensor(IMAGENET_STD).view(3, 1, 1) + torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) * 255).numpy()


# ---------------------------------------------------------------- sampling


def test_sampling_is_bilinear_and_black_outside():
    """Against a loop over pixels, with crops of different sizes and places far outside."""
    rng = np.random.default_rng(0)
    sizes = [(5, 9), (12, 4), (3, 3)]
    crops = [np.pad(rng.integers(0, 256, (h - 2, w - 2, 3)), ((1, 1), (1, 1), (0, 0))) for h, w in sizes]
    flat = np.concatenate([np.pad(crop, ((0, 0), (0, 0), (0, 1))).reshape(-1, 4) for crop in crops]).astype(np.uint8)
    offset = torch.tensor(np.cumsum([0] + [h * w for h, w in sizes])[:3])
    height, width = torch.tensor(sizes, dtype=torch.int32).unbind(1)
    matrix = torch.from_numpy(rng.normal(size=(3, 2, 3)) + np.array([[1, 0, -2.0], [0, 1, -2.0]]))
    ours = sample(torch.from_numpy(flat.view(np.int32).reshape(-1)), offset, height, width, matrix, (8, 7)).numpy()

    def pixel(crop, y, x):
        return crop[y, x].astype(float) if 0 <= y < crop.shape[0] and 0 <= x < crop.shape[1] else np.zeros(3)

    for n, crop in enumerate(crops):
        for v in range(8):
            for u in range(7):
                x, y = matrix[n].numpy() @ [u, v, 1]
                left, top = int(np.floor(x)), int(np.floor(y))
                expected = sum(
                    (1 - abs(x - left - dx)) * (1 - abs(y - top - dy)) * pixel(crop, top + dy, left + dx) for dx in (0, 1) for dy in (0, 1)
                )
                np.testing.assert_allclose(ours[n, :, v, u], expected, atol=1e-2)


def test_normalise_is_imagenets():
    images = torch.randint(0, 256, (2, 3, 5, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    expected = (images.double() / 255 - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    ours = normalise(images)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, expected.float(), atol=1e-6, rtol=1e-6)


# ---------------------------------------------------------------- without augmentation


@each_convention
def test_unaugmented_direct_crops_are_those_that_are_evaluated(people, shards, convention):
    persons, root = people
    train, crops = persons.split("train").labelled(), shards["direct"]
    frame = train.frame
    batch = augmenter(convention, AugmentParams.none())(crops.to("cpu"), torch.arange(len(crops)), seed=0)
    boxes = Boxes(root, frame["image_path"].to_numpy(object), frame["image_id"].to_numpy(), train.bbox_xywh)
    expected = crop_boxes(boxes, convention, ShardSpec(SIZE), DegradeParams(), COCO_17)
    assert np.abs(grey_levels(batch) - expected.pixels).max() < 1
    joints = transform(expected.geometry.image_to_crop(crops.center.numpy(), crops.size.numpy()), train.keypoints[..., :2])
    np.testing.assert_allclose(batch.keypoints_crop.numpy(), joints, atol=1e-3)
    assert np.array_equal(batch.visible.numpy(), train.keypoints[..., 2] > 0)


def test_unaugmented_antialiased_crops_are_close_to_those_that_are_evaluated(people, shards):
    """They pass through a store at twice the target's density; direct sampling is several times further away."""
    persons, root = people
    train = persons.split("train").labelled()
    large = np.flatnonzero(shards["antialias"].size[:, 1] > 3 * SIZE[0])
    frame = train.frame.iloc[large]
    boxes = Boxes(root, frame["image_path"].to_numpy(object), frame["image_id"].to_numpy(), train.bbox_xywh[large])
    expected = crop_boxes(boxes, "classic", ShardSpec(SIZE, "antialias"), DegradeParams(), COCO_17).pixels
    distance = {}
    for protocol in ("direct", "antialias"):
        batch = augmenter("classic", AugmentParams.none())(shards[protocol].to("cpu"), torch.from_numpy(large), seed=0)
        distance[protocol] = np.abs(grey_levels(batch) - expected).mean()
    assert len(large) > 3 and distance["antialias"] < 1.5 and distance["antialias"] < distance["direct"] / 2


# ---------------------------------------------------------------- against a trainer in the published style


def published_half_body(joints, visible, upper_mask, prefers_upper, aspect):
    """HRNet's half-body rule, joint by joint."""
    upper = [joint for joint, seen, is_upper in zip(joints, visible, upper_mask, strict=True) if seen and is_upper]
    lower = [joint for joint, seen, is_upper in zip(joints, visible, upper_mask, strict=True) if seen and not is_upper]
    takes_upper = (prefers_upper and len(upper) > 2) or len(lower) <= 2
    selected = upper if takes_upper else lower
    if len(selected) < 2:
        return None
    selected = np.array(selected)
    width, height = selected.max(0) - selected.min(0)
    if width > aspect * height:
        height = width / aspect
    else:
        width = height * aspect
    return selected.mean(0), np.array([width, height]) * 1.5


@pytest.mark.parametrize("skeleton", [COCO_17, MPII_16, CROWDPOSE_14], ids=lambda skeleton: skeleton.name)
@pytest.mark.parametrize("labelled", [0.05, 0.2, 0.5, 0.9])
def test_half_body_boxes_follow_the_published_rule(skeleton, labelled):
    rng = np.random.default_rng(round(100 * labelled))
    joints, visible = rng.uniform(0, 200, (60, len(skeleton), 2)), rng.random((60, len(skeleton))) < labelled
    prefers, mask = rng.random(60) < 0.5, torch.from_numpy(skeleton.upper_body_mask)
    chosen = choose_half(torch.from_numpy(visible), mask, torch.from_numpy(prefers))
    center, size, exists = (value.numpy() for value in half_body_box(torch.from_numpy(joints), chosen, 0.75))
    for n in range(60):
        expected = published_half_body(joints[n], visible[n], skeleton.upper_body_mask, prefers[n], 0.75)
        assert exists[n] == (expected is not None)
        if expected is not None:
            np.testing.assert_allclose(center[n], expected[0])
            np.testing.assert_allclose(size[n], expected[1])


def published_sample(image, center, size, joints, visible, draw, geometry):
    """One sample as the published loaders make it: mirror the whole image, then warp around the box."""
    scale, degrees, mirrored, half_body, prefers_upper = draw
    if half_body and visible.sum() > 8:
        aspect = geometry.input_size[1] / geometry.input_size[0]
        center, size = published_half_body(joints, visible, COCO_17.upper_body_mask, prefers_upper, aspect) or (center, size)
    if mirrored:
        width = image.shape[1]
        image, center = image[:, ::-1], np.array([width - 1 - center[0], center[1]])
        permutation = list(COCO_17.flip_permutation)
        joints = np.stack([width - 1 - joints[:, 0], joints[:, 1]], 1)[permutation]
        visible = visible[permutation]
    matrix = geometry.image_to_crop(center[None], size[None] * scale, float(degrees))[0]
    crop = cv2.warpAffine(np.ascontiguousarray(image), matrix, geometry.input_size[::-1], flags=cv2.INTER_LINEAR)
    return crop[..., ::-1].transpose(2, 0, 1), transform(matrix[None], joints[None])[0], visible


EXTREMES = {
    "nothing": (1, 0, 0, 0, 0),
    "mirrored": (1, 0, 1, 0, 0),
    "zoomed out and turned": (1.35, 45, 0, 0, 0),
    "zoomed in, on the side": (0.65, -90, 0, 0, 0),
    "upper body, zoomed out": (1.35, -45, 0, 1, 1),
    "lower body, mirrored, zoomed out": (1.35, 30, 1, 1, 0),
}


@each_convention
@pytest.mark.parametrize("draw", EXTREMES.values(), ids=EXTREMES.keys())
@pytest.mark.parametrize("stored", ["whole images", "crops with margin"])
def test_direct_training_crops_equal_those_of_a_published_loader(people, shards, sparse, convention, draw, stored):
    """To a grey level, from the store instead of the original image: the margin holds all that can be asked for."""
    persons, root = people if stored == "whole images" else sparse[:2]
    train, crops = persons.split("train").labelled(), shards["direct"] if stored == "whole images" else sparse[2]
    assert (len(np.unique(crops.offset)) == len(crops)) == (stored == "crops with margin")
    subject = augmenter(convention)
    draws = torch.tensor([(*draw, 0, 0, 0)] * len(crops), dtype=torch.float64)
    batch = subject.apply(crops.to("cpu"), torch.arange(len(crops)), draws)
    ours = grey_levels(batch)
    for n in range(len(crops)):
        image = cv2.imread(str(root / train.frame["image_path"][n]))
        box, joints = (crops.center[n].numpy(), crops.size[n].numpy()), train.keypoints[n]
        expected = published_sample(image, *box, joints[:, :2], joints[:, 2] > 0, draw, subject.geometry)
        assert np.abs(ours[n] - expected[0]).max() < 1.1
        np.testing.assert_allclose(batch.keypoints_crop[n].numpy(), expected[1], atol=2e-3)
        assert np.array_equal(batch.visible[n].numpy(), expected[2])


# ---------------------------------------------------------------- draws


def test_draws_have_the_published_distributions():
    draws = augmenter().draw(40000, seed=3).numpy()
    scale, degrees, mirrored, half_body, prefers_upper = draws[:, :5].T
    assert scale.min() == 0.65 and scale.max() == 1.35 and np.abs(degrees).max() == 90
    assert scale.std() == pytest.approx(0.254, abs=0.01)  # of a normal of deviation 0.35 clipped at one deviation
    assert (degrees != 0).mean() == pytest.approx(0.6, abs=0.01)
    assert (np.abs(degrees) == 90).mean() == pytest.approx(0.6 * 0.0455, abs=0.005)
    for flags, expected in ((mirrored, 0.5), (half_body, 0.3), (prefers_upper, 0.5)):
        assert flags.mean() == pytest.approx(expected, abs=0.01)
    correlation = np.corrcoef(draws[:, :5].T) - np.eye(5)
    assert np.abs(correlation).max() < 0.02
    assert not draws[:, 5:7].any(), "the box stays where it is"


def test_the_published_half_body_choice_prefers_the_upper_half():
    published = augmenter(params=AugmentParams(half_body_choice="published")).draw(40000, seed=3)[:, 4].mean()
    assert float(published) == pytest.approx((np.random.default_rng(0).standard_normal(400_000) < 0.5).mean(), abs=0.01)


SHIFTED = AugmentParams(shift_probability=0.3, shift_factor=0.16)


def test_the_shift_of_the_box_is_mmposes():
    """uniform(-1, 1, 2) * 0.16 * box with probability 0.3; everything else is drawn as without it."""
    draws = augmenter(params=SHIFTED).draw(40000, seed=3).numpy()
    assert np.array_equal(draws[:, :5], augmenter().draw(40000, seed=3).numpy()[:, :5])
    shifts = draws[:, 5:7][draws[:, 5:7].any(1)]
    assert len(shifts) / 40000 == pytest.approx(0.3, abs=0.01)
    assert np.abs(shifts).max() == pytest.approx(0.16, abs=1e-4)
    np.testing.assert_allclose(shifts.mean(0), 0, atol=2e-3)
    np.testing.assert_allclose(shifts.std(0), 0.16 / 3**0.5, atol=2e-3)
    assert np.abs(np.corrcoef(draws[:, :8].T)[5:, :5]).max() < 0.02


@pytest.mark.parametrize("convention", ["classic", "unbiased"])
def test_a_shifted_box_moves_the_joints_by_that_share_of_the_crop(shards, convention):
    crops, subject, indices = shards["direct"].to("cpu"), augmenter(convention, AugmentParams.none()), torch.arange(4)
    draws = subject.draw(4, seed=0)
    draws[:, 5:7] = torch.tensor([0.1, -0.05])
    units = np.array(SIZE[::-1]) - (0 if convention == "classic" else 1)  # px that the box's width and height span in the crop
    moved = subject.apply(crops, indices, draws).keypoints_crop - subject(crops, indices, seed=0).keypoints_crop
    np.testing.assert_allclose(moved, np.broadcast_to(-np.array([0.1, -0.05]) * units, moved.shape), atol=1e-3)


def test_colours_scale_and_shift_the_normalised_image_and_leave_all_else(shards):
    crops, indices = shards["direct"].to("cpu"), torch.arange(6)
    plain, coloured = augmenter(), augmenter(params=AugmentParams(colour_sigma=0.2))
    draws = coloured.draw(6, seed=4)
    assert torch.equal(draws[:, :8], plain.draw(6, seed=4)[:, :8])
    before, after = plain(crops, indices, seed=4), coloured(crops, indices, seed=4)
    factor, summands = draws[:, 8].numpy(), draws[:, 9:].numpy()
    expected = before.images.numpy() * factor[:, None, None, None] + summands[:, :, None, None]
    np.testing.assert_allclose(after.images.numpy(), expected, atol=1e-5)
    assert torch.equal(before.keypoints_crop, after.keypoints_crop)
    many = coloured.draw(40000, seed=5).numpy()[:, 8:]
    np.testing.assert_allclose(many.mean(0), [1, 0, 0, 0], atol=5e-3)
    np.testing.assert_allclose(many.std(0), 0.2, atol=5e-3)


def test_half_body_boxes_are_not_shifted(shards):
    crops, subject, indices = shards["direct"].to("cpu"), augmenter(params=AugmentParams.none()), torch.arange(len(shards["direct"]))
    draws = subject.draw(len(indices), seed=0)
    draws[:, 3] = 1
    plain = subject.apply(crops, indices, draws).keypoints_crop
    draws[:, 5:7] = 0.1
    stays = (subject.apply(crops, indices, draws).keypoints_crop - plain).abs().amax((1, 2)) < 1e-6
    whole = crops.visible[indices].sum(1) <= subject.params.half_body_joints
    assert stays.any() and not stays[whole].any()


@pytest.mark.parametrize("protocol", protocols())
def test_a_batch_depends_on_its_seed_alone(shards, protocol):
    crops, subject = shards[protocol].to("cpu"), augmenter()
    indices = torch.tensor([3, 1, 4, 1, 5])
    first = subject(crops, indices, seed=7)
    torch.manual_seed(99)
    subject(crops, indices, seed=8)
    again, other = augmenter()(crops, indices, seed=7), subject(crops, indices, seed=8)
    assert torch.equal(first.images, again.images) and torch.equal(first.keypoints_crop, again.keypoints_crop)
    assert not torch.equal(first.images, other.images)
    assert first.images.dtype == first.keypoints_crop.dtype == torch.float32 and first.visible.dtype == torch.bool
    assert first.images.shape == (5, 3, *SIZE) and torch.isfinite(first.images).all()


def test_switched_off_augmentation_draws_nothing():
    draws = augmenter(params=AugmentParams.none()).draw(1000, seed=1)
    assert torch.equal(draws[:, :4], torch.tensor([1.0, 0, 0, 0], dtype=torch.float64).expand(1000, 4))
    assert not draws[:, 5:7].any()


@pytest.mark.parametrize("protocol", protocols())
def test_a_graph_of_the_device_half_gives_the_same_batch(shards, protocol):
    """On both devices as well, where no grey level is rounded."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    crops, subject, indices = shards[protocol], augmenter(), torch.arange(16)
    on_cpu, on_gpu = subject(crops.to("cpu"), indices, seed=5), subject(crops.to("cuda"), indices, seed=5)
    difference = (on_gpu.images.cpu() - on_cpu.images).abs()
    assert difference.mean() < 0.02 and (protocols()[protocol].redraws or difference.max() < 0.02)
    torch.testing.assert_close(on_gpu.keypoints_crop.cpu(), on_cpu.keypoints_crop)
    device_crops, device_indices, draws = crops.to("cuda"), indices.cuda(), subject.draw(16, 5).cuda()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = subject.apply(device_crops, device_indices, draws)
    graph.replay()
    torch.testing.assert_close(captured.images, on_gpu.images)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("params", [AugmentParams(scale_sigma=0.5), SHIFTED])
def test_more_scale_or_shift_than_margin_is_refused(shards, params):
    subject = augmenter(params=params)
    with pytest.raises(FarposeError, match=r"asks for more margin \(1\.\d+x\) than the shard holds"):
        subject(shards["direct"].to("cpu"), torch.arange(2), seed=0)


def test_a_shard_of_another_size_is_refused(shards):
    subject = Augmenter(ShardSpec((64, 48)).geometry("classic"), AugmentParams(), COCO_17)
    with pytest.raises(FarposeError, match=r"shard is for input size \(32, 24\)"):
        subject(shards["direct"].to("cpu"), torch.arange(2), seed=0)


@pytest.mark.parametrize("values", [{"flip_probability": 1.5}, {"scale_sigma": 1.0}, {"rotation_sigma": -1.0}])
def test_impossible_settings_are_refused(values):
    with pytest.raises(ValueError, match=r"must (lie in 0\.\.1|not be negative)"):
        AugmentParams(**values)
