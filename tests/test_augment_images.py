"""Augmentation of whole images: equal to a published-style trainer given the same draws, repeatable, neutral when off."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from components.base.errors import FarposeError
from components.degrade.augment_images import ImageAugmenter, ImageAugmentParams
from components.degrade.image_shards import TrainImages
from components.degrade.sample import IMAGENET_MEAN, IMAGENET_STD
from components.pose.skeleton import COCO_17
from tests.tiny_image_shard import SIZE, write_tiny_image_shard, write_tiny_images

OUTPUTS = (SIZE // 4, SIZE // 2)
SCENES = [
    ((120, 160), 1, "train", ""),
    ((161, 121), 3, "train", "crowd"),
    ((300, 300), 40, "train", ""),
    ((30, 600), 1, "train", "crowd"),
    ((1, 1), 1, "train", ""),
    ((90, 120), 0, "train", "crowd"),
    ((90, 120), 1, "val", ""),
]
PROTOCOLS = ("direct", "antialias", "sensor")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module")
def tables(folder):
    return write_tiny_images(folder / "direct", SCENES)


@pytest.fixture(scope="module")
def shards(folder):
    return {protocol: TrainImages.open(write_tiny_image_shard(folder / protocol, protocol, SCENES)) for protocol in PROTOCOLS}


def augmenter(params=None, output_sizes=OUTPUTS):
    return ImageAugmenter(SIZE, output_sizes, params or ImageAugmentParams(), COCO_17)


def grey_levels(batch):
    return ((batch.images * torch.tensor(IMAGENET_STD).view(3, 1, 1) + torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) * 255).numpy()


def published_matrix(center, scale, size, degrees):
    """Scale and shift, then a rotation about the output's middle."""
    length = 200 * scale
    matrix = np.array(
        [[size / length, 0, size * (0.5 - center[0] / length)], [0, size / length, size * (0.5 - center[1] / length)], [0, 0, 1]]
    )
    angle = -np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    to_middle = np.array([[1, 0, -size / 2], [0, 1, -size / 2], [0, 0, 1]])
    return (np.linalg.inv(to_middle) @ turn @ to_middle @ matrix)[:2]


def published_sample(image, counted, joints, draw):
    """Image, and per output its mask's grey levels and joints, of one image, in the order of the published loaders."""
    factor, degrees, place_x, place_y, mirrored = draw
    scale = factor * min(image.shape[:2]) / 200
    reach = int(40 * scale)
    shift = [np.floor(place * 2 * reach) - reach for place in (place_x, place_y)] if reach else [0, 0]
    center = np.array([image.shape[1] / 2, image.shape[0] / 2]) + shift
    warped = cv2.warpAffine(image, published_matrix(center, scale, SIZE, degrees), (SIZE, SIZE))
    masks, cells = [], []
    for size in OUTPUTS:
        matrix = published_matrix(center, scale, size, degrees)
        masks.append(cv2.warpAffine((counted * 255).astype(np.uint8), matrix, (size, size)))
        cells.append(joints @ matrix[:, :2].T + matrix[:, 2])
    if mirrored:
        warped, masks = warped[:, ::-1], [mask[:, ::-1] for mask in masks]
        cells = [part[:, list(COCO_17.flip_permutation)] for part in cells]
        for part, size in zip(cells, OUTPUTS, strict=True):
            part[..., 0] = size - part[..., 0] - 1
    return warped[..., ::-1].transpose(2, 0, 1), masks, cells


EXTREMES = {
    "nothing": (1, 0, 0.5, 0.5, 0),
    "mirrored": (1, 0, 0.5, 0.5, 1),
    "small and turned": (1.5, 30, 0.5, 0.5, 0),
    "large, turned and shifted": (0.75, -30, 0.999999, 0, 0),
    "mirrored, turned and shifted": (1.21, 17.5, 0.13, 0.81, 1),
}


@pytest.mark.parametrize("draw", EXTREMES.values(), ids=EXTREMES.keys())
def test_direct_training_images_equal_those_of_a_published_loader(folder, tables, shards, draw):
    """Image to a grey level; joints; masks but where the published grey level is at the threshold."""
    persons, _, ignored = tables
    images, labelled = shards["direct"], persons.split("train").labelled()
    batch = augmenter().apply(images.to("cpu"), torch.arange(len(images)), torch.tensor([(*draw, 0, 0)] * len(images), dtype=torch.float64))
    ours, undecided = grey_levels(batch), 0
    for n, image_id in enumerate(images.image_id.tolist()):
        rows = labelled.frame["image_id"].to_numpy() == image_id
        image = cv2.imread(str(folder / "direct" / labelled.frame["image_path"][rows].iloc[0]))
        region = ignored.mask(int(image_id))
        counted = np.ones(image.shape[:2]) if region is None else ~region
        warped, masks, cells = published_sample(image, counted, labelled.keypoints[rows, :, :2], draw)
        assert np.abs(ours[n] - warped).max() < 1.1
        assert batch.visible[n].sum() == batch.visible[n, : rows.sum()].sum() == 17 * rows.sum()
        for output in range(len(OUTPUTS)):
            np.testing.assert_allclose(batch.keypoints[output][n, : rows.sum()].numpy(), cells[output], rtol=2e-6, atol=2e-3)
            clear = np.abs(masks[output] - 127.5) > 1.6
            undecided += (~clear).sum()
            assert np.array_equal(batch.masks[output][n].numpy()[clear], masks[output][clear] > 127)
    assert undecided < 0.01 * len(images) * sum(size**2 for size in OUTPUTS)


def test_ignored_people_and_what_lies_outside_do_not_count(shards):
    images = shards["direct"]
    batch = augmenter(ImageAugmentParams.none()).apply(
        images.to("cpu"), torch.tensor([0, 1]), torch.tensor([[1, 0, 0.5, 0.5, 0, 0, 0]] * 2).double()
    )
    assert batch.masks[1][0].all(), "the middle square of an image without ignored people counts as a whole"
    columns = batch.masks[1][1].float().mean(0).numpy()
    third = OUTPUTS[1] / 3
    assert (columns[: int(third) - 1] == 0).all() and (columns[int(third) + 2 :] == 1).all()
    out = augmenter().apply(images.to("cpu"), torch.tensor([0]), torch.tensor([[1.5, 0, 0.5, 0.5, 0, 0, 0]], dtype=torch.float64))
    middle = slice(2, -2)  # the view is 180 px wide and high, the image 160 and 120
    assert not out.masks[0][0][0].any() and out.masks[0][0][OUTPUTS[0] // 2, middle].all(), "black above the image does not count"


def test_nobody_is_dropped(shards):
    batch = augmenter()(shards["direct"].to("cpu"), torch.arange(len(shards["direct"])), seed=0)
    assert batch.visible.shape == (5, 40, 17)
    assert batch.visible.any(2).sum(1).tolist() == [1, 3, 40, 1, 1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_batch_depends_on_its_seed_alone(shards, protocol):
    images, subject, indices = shards[protocol].to("cpu"), augmenter(), torch.tensor([3, 1, 4, 1, 0])
    first = subject(images, indices, seed=7)
    torch.manual_seed(99)
    subject(images, indices, seed=8)
    again, other = augmenter()(images, indices, seed=7), subject(images, indices, seed=8)
    assert torch.equal(first.images, again.images) and not torch.equal(first.images, other.images)
    for one, two in zip(first.keypoints + first.masks, again.keypoints + again.masks, strict=True):
        assert torch.equal(one, two)
    assert first.images.shape == (5, 3, SIZE, SIZE) and first.images.dtype == torch.float32 and torch.isfinite(first.images).all()
    assert [mask.shape[1:] for mask in first.masks] == [(size, size) for size in OUTPUTS]
    assert all(mask.dtype == torch.bool for mask in first.masks) and all(part.dtype == torch.float32 for part in first.keypoints)


@pytest.mark.parametrize("protocol", ["antialias", "sensor"])
def test_reduced_stores_show_the_same_scene(shards, protocol):
    """Same joints; masks and pixels differ from the originals' by what the protocol does to them."""
    indices = torch.tensor([0, 1, 2])
    native, reduced = (augmenter()(shards[name].to("cpu"), indices, seed=3) for name in ("direct", protocol))
    for ours, expected in zip(reduced.keypoints, native.keypoints, strict=True):
        assert torch.equal(ours, expected)
    for ours, expected in zip(reduced.masks, native.masks, strict=True):
        assert (ours != expected).float().mean() < 0.02
    difference = grey_levels(reduced) - grey_levels(native)
    blocks = difference.reshape(3, 3, SIZE // 8, 8, SIZE // 8, 8).mean((3, 5))
    assert np.abs(difference).mean() < 15 and np.abs(blocks).mean() < 3


def test_draws_have_the_published_distributions():
    scale, degrees, place_x, place_y, mirrored, person, _ = augmenter().draw(40000, seed=3).numpy().T
    for values, low, high in ((scale, 0.75, 1.5), (degrees, -30, 30), (place_x, 0, 1), (place_y, 0, 1), (person, 0, 1)):
        assert low <= values.min() < values.max() <= high
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.01 * (high - low))
        assert values.std() == pytest.approx((high - low) / np.sqrt(12), rel=0.02)
    assert mirrored.mean() == pytest.approx(0.5, abs=0.01)
    correlation = np.corrcoef(augmenter().draw(40000, seed=3).numpy().T) - np.eye(7)
    assert np.abs(correlation).max() < 0.02


def test_shifts_are_whole_pixels_of_a_fifth_of_the_view(shards):
    images = shards["direct"].to("cpu")
    draws = augmenter().draw(2000, seed=1)
    center, side = augmenter()._views(images, torch.zeros(2000, dtype=torch.long), draws)
    shift = center - torch.tensor([80.0, 60.0])
    reach = torch.floor(40 * side / 200)
    assert torch.equal(shift, shift.round()) and (shift >= -reach[:, None]).all() and (shift < reach[:, None]).all()
    assert shift.min() <= -32 and shift.max() >= 31


def test_views_of_persons_show_each_labelled_person_as_often_and_as_large(shards, tables):
    """`focus: person`: around the middle of one's joints, their extent filling 1 / scale of the view."""
    images, labelled = shards["direct"].to("cpu"), tables[0].labelled()
    subject = augmenter(replace(ImageAugmentParams.none(), focus="person", min_scale=1.25, max_scale=1.25))
    for row, image_id in enumerate(shards["direct"].image_id.tolist()):
        keypoints = labelled.keypoints[labelled.frame["image_id"].to_numpy() == image_id]
        batch = subject(images, torch.full((400,), row), seed=row)
        shown = []
        for cells, visible in zip(batch.keypoints[0].numpy(), batch.visible.numpy(), strict=True):
            spans = [np.ptp(joints[seen], axis=0).max() for joints, seen in zip(cells, visible, strict=True) if seen.any()]
            middles = [(joints[seen].min(0) + joints[seen].max(0)) / 2 for joints, seen in zip(cells, visible, strict=True) if seen.any()]
            nearest = np.abs(np.array(middles) - OUTPUTS[0] / 2).max(1).argmin()
            np.testing.assert_allclose(middles[nearest], OUTPUTS[0] / 2, atol=1e-3)
            joints = keypoints[nearest][keypoints[nearest][:, 2] > 0, :2]
            expected = OUTPUTS[0] / 1.25 * min(1.0, np.ptp(joints, axis=0).max() / 16)  # one that spans less than 16 px stays smaller
            assert spans[nearest] == pytest.approx(expected, rel=1e-4)
            shown.append(nearest)
        share = np.bincount(shown, minlength=len(keypoints)) / len(shown)
        np.testing.assert_allclose(share, 1 / len(keypoints), atol=4 * np.sqrt(1 / len(keypoints) / 400))


def test_an_image_without_labelled_persons_is_seen_whole_where_views_show_persons(shards):
    images, row = shards["direct"].to("cpu"), torch.tensor([0])
    nobody = replace(images, visible=torch.zeros_like(images.visible))
    one, other = (augmenter(ImageAugmentParams(focus=focus))(nobody, row, seed=2) for focus in ("person", "image"))
    assert torch.equal(one.images, other.images) and torch.equal(one.masks[0], other.masks[0]) and torch.isfinite(one.images).all()


def test_the_long_side_may_be_fitted(shards):
    params = ImageAugmentParams(flip_probability=0, max_rotation=0, min_scale=1, max_scale=1, max_translation=0, scale_type="long")
    batch = augmenter(params)(shards["direct"].to("cpu"), torch.tensor([0]), seed=0)
    rows = batch.masks[1][0].any(1).numpy()
    assert rows.sum() == pytest.approx(OUTPUTS[1] * 120 / 160, abs=1) and batch.masks[1][0][OUTPUTS[1] // 2].all()


@pytest.mark.parametrize("output_sizes", [(SIZE,), (SIZE // 4, SIZE // 2)])
def test_every_output_has_its_own_cells(shards, output_sizes):
    subject = augmenter(output_sizes=output_sizes)
    batch = subject(shards["direct"].to("cpu"), torch.tensor([0, 1, 2]), seed=11)
    assert [mask.shape for mask in batch.masks] == [(3, size, size) for size in output_sizes]
    mirrored = subject.draw(3, 11)[:, 4] > 0.5
    upright = [torch.where(mirrored[:, None, None], size - 1 - part[..., 0], part[..., 0]) / size
               for part, size in zip(batch.keypoints, output_sizes, strict=True)]  # fmt: skip
    torch.testing.assert_close(upright[0], upright[-1], atol=1e-5, rtol=1e-5)


def test_a_graph_of_the_device_half_gives_the_same_batch(shards):
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    images, subject, indices = shards["antialias"], augmenter(), torch.arange(5)
    on_cpu, device_images = subject(images.to("cpu"), indices, seed=5), images.to("cuda")
    on_gpu = subject(device_images, indices, seed=5)
    torch.testing.assert_close(on_gpu.images.cpu(), on_cpu.images, atol=0.02, rtol=0)
    torch.testing.assert_close(on_gpu.keypoints[0].cpu(), on_cpu.keypoints[0])
    device_indices, draws = indices.cuda(), subject.draw(5, 5).cuda()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = subject.apply(device_images, device_indices, draws)
    graph.replay()
    torch.testing.assert_close(captured.images, on_gpu.images)
    assert all(torch.equal(one, two) for one, two in zip(captured.masks, on_gpu.masks, strict=True))


def test_a_shard_of_another_size_is_refused(shards):
    with pytest.raises(FarposeError, match=r"shard is for input size \(64, 64\)"):
        ImageAugmenter(128, (32,), ImageAugmentParams(), COCO_17)(shards["direct"].to("cpu"), torch.arange(2), seed=0)


@pytest.mark.parametrize(
    "values", [{"flip_probability": 1.5}, {"min_scale": 0.0}, {"min_scale": 2.0}, {"max_rotation": -1.0}, {"max_translation": -1.0}]
)
def test_impossible_settings_are_refused(values):
    with pytest.raises(ValueError, match=r"must (lie in 0\.\.1|be positive|not be negative)"):
        ImageAugmentParams(**values)


def test_a_smaller_training_square_is_the_whole_one_at_the_same_density(tmp_path):
    """Half of the side at half of the size shows the middle of what the whole square shows, cell for cell."""
    half = replace(ImageAugmentParams.none(), side=64, min_scale=0.5, max_scale=0.5)
    images = TrainImages.open(write_tiny_image_shard(tmp_path, size=128)).to("cpu")
    big = ImageAugmenter(128, (32, 64), ImageAugmentParams.none(), COCO_17)
    small = ImageAugmenter(128, (32, 64), half, COCO_17)
    indices = torch.arange(len(images))
    whole, part = big(images, indices, 0), small(images, indices, 0)
    assert part.images.shape[2:] == (64, 64) and [mask.shape[1:] for mask in part.masks] == [(16, 16), (32, 32)]
    torch.testing.assert_close(part.images, whole.images[:, :, 32:96, 32:96], rtol=0, atol=1e-4)
    for few, many, size in zip(part.keypoints, whole.keypoints, (16, 32), strict=True):
        torch.testing.assert_close(few, many - size / 2, rtol=0, atol=1e-3)
