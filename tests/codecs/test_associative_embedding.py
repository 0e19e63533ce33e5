"""Targets, losses, aggregation and the round trip of associative embedding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from components import codecs
from components.base.errors import FarposeError
from components.codecs import embedding_targets
from components.codecs.aggregation import resize
from components.codecs.associative_embedding import AssociativeEmbeddingCodec
from components.codecs.embedding_loss import tag_loss
from components.codecs.embedding_targets import merged_gaussians, patch, tag_index
from components.pose.crop import CropGeometry
from components.pose.skeleton import COCO_17, CROWDPOSE_14, Skeleton
from tests.codecs.conftest import Reference

FILE = "bottomup_higherhrnet"
BOTH = [pytest.param(skeleton, stride, id=f"{skeleton.name}-{stride}") for skeleton in (COCO_17, CROWDPOSE_14) for stride in (4, 1)]


def make(skeleton: Skeleton, stride: int, size: int = 128, **settings: Any) -> AssociativeEmbeddingCodec:
    codec: AssociativeEmbeddingCodec = codecs.build(
        "associative_embedding", CropGeometry((size, size), (size // stride, size // stride)), skeleton, **settings
    )
    return codec


def people(codec: AssociativeEmbeddingCodec, images: int, persons: int, seed: int = 0) -> tuple[tuple[Tensor, ...], Tensor]:
    """Joints (B, P, K, 2) per output in its cells, some outside of the image and some on its border, and visibility."""
    generator = torch.Generator().manual_seed(seed)
    side = codec.output_sizes[0]
    joints = torch.rand(images, persons, codec.num_keypoints, 2, generator=generator) * (side + 8) - 4
    joints[:, : persons // 4] = joints[:, : persons // 4].round()
    visible = torch.rand(joints.shape[:3], generator=generator) < 0.7
    joints[~visible] = torch.nan
    visible[-1, persons // 2 :] = False  # padded rows
    return tuple(joints * (size / side) for size in codec.output_sizes), visible


def masks(codec: AssociativeEmbeddingCodec, images: int, seed: int = 1) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(images, size, size, generator=generator) < 0.9 for size in codec.output_sizes)


def noise(codec: AssociativeEmbeddingCodec, images: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    return tuple(torch.randn(images, *shape, generator=generator, dtype=dtype) for shape in codec.output_shapes)


# Against the released code


@pytest.mark.parametrize("size", [64, 128, 256])
def test_published_targets(reference: Reference, size: int) -> None:
    joints = reference(FILE, f"tg{size}_joints")[None]
    keypoints, visible = joints[..., :2], joints[..., 2] > 0
    heatmaps = merged_gaussians(keypoints, visible, (size, size), patch(2.0, keypoints.device))
    torch.testing.assert_close(heatmaps[0].double().sum((1, 2)), reference(FILE, f"tg{size}_hm_sum"), rtol=1e-6, atol=0)
    index, tagged = tag_index(keypoints, visible, (size, size))
    expected = reference(FILE, f"tg{size}_vis")
    for person in range(len(index[0])):
        own = index[0, person][tagged[0, person]]
        assert own.tolist() == expected[person, : len(own), 0].tolist()
        assert expected[person, :, 1].sum() == len(own)


@pytest.mark.parametrize("size", [64, 128])
def test_published_heatmaps(reference: Reference, size: int) -> None:
    joints = reference(FILE, f"tg{size}_joints")[None]
    heatmaps = merged_gaussians(joints[..., :2], joints[..., 2] > 0, (size, size), patch(2.0, joints.device))
    torch.testing.assert_close(heatmaps[0], reference(FILE, f"tg{size}_hm"), rtol=0, atol=1e-7)


@pytest.mark.parametrize("stride", [4, 1])
@pytest.mark.parametrize("file", [FILE, "bottomup_litepose", "bottomup_higherpose"])
def test_published_losses(reference: Reference, file: str, stride: int) -> None:
    """Images with no, one and six persons; one output alone is what the SR head has."""
    codec = make(COCO_17, stride)
    outputs, joints = reference(file, "l_out").requires_grad_(), reference(file, "l_joints")
    targets = {"heatmaps0": reference(file, "l_hm"), "mask0": reference(file, "l_mask") > 0}
    targets |= {"tag_index": joints[..., 0].long(), "tagged": joints[..., 1] > 0}
    losses = codec.loss((outputs,), targets)
    losses["loss"].backward()
    torch.testing.assert_close(losses["loss"].detach(), reference(file, "l_total"), rtol=1e-6, atol=0)
    for name, key in (("heatmaps", "l_heat"), ("pull", "l_pull"), ("push", "l_push")):
        torch.testing.assert_close(losses[name], reference(file, key).mean(), rtol=1e-6, atol=0)
    expected = reference(file, "l_grad")
    assert outputs.grad is not None and (outputs.grad - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_published_pull_and_push_of_each_image(reference: Reference) -> None:
    joints = reference(FILE, "l_joints")
    pull, push = tag_loss(reference(FILE, "l_out")[:, 17:], joints[..., 0].long(), joints[..., 1] > 0)
    torch.testing.assert_close(pull, reference(FILE, "l_pull"), rtol=1e-6, atol=0)
    torch.testing.assert_close(push, reference(FILE, "l_push"), rtol=1e-6, atol=0)


@pytest.mark.parametrize("projected", [0, 1])
def test_published_aggregation(reference: Reference, projected: int) -> None:
    codec = make(COCO_17, 4)
    upright = (reference(FILE, "ms_out0"), reference(FILE, "ms_out1"))
    mirrored = (reference(FILE, "ms_out2"), reference(FILE, "ms_out3"))
    expected, tags = reference(FILE, f"ms_p2i{projected}_final"), reference(FILE, f"ms_p2i{projected}_tags")
    found = codec.aggregate([upright], [mirrored], (1.0,), (64, 96) if projected else None)
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(found[1], tags, rtol=0, atol=1e-6)


# Targets


def slow_targets(keypoints: Tensor, visible: Tensor, size: int, sigma: float) -> np.ndarray:
    """(B, K, size, size), one joint and one cell at a time."""
    maps = np.zeros((len(keypoints), visible.shape[2], size, size), np.float32)
    for b, p, k in np.argwhere(visible.numpy()):
        x, y = int(keypoints[b, p, k, 0]), int(keypoints[b, p, k, 1])
        if not (0 <= x < size and 0 <= y < size):
            continue
        reach = int(3 * sigma + 1)
        for row in range(max(0, y - reach), min(size, y + reach + 1)):
            for column in range(max(0, x - reach), min(size, x + reach + 1)):
                value = np.exp(-((row - y) ** 2 + (column - x) ** 2) / (2 * sigma**2))
                maps[b, k, row, column] = max(maps[b, k, row, column], value)
    return maps


@pytest.mark.parametrize("skeleton, stride", BOTH)
def test_targets_equal_a_slow_oracle(skeleton: Skeleton, stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = make(skeleton, stride, size=64, sigma=2.0)
    keypoints, visible = people(codec, 2, 4)
    targets = codec.targets(keypoints, visible, masks(codec, 2))
    for i, size in enumerate(codec.output_sizes):
        np.testing.assert_allclose(targets[f"heatmaps{i}"], slow_targets(keypoints[i], visible, size, 2.0), atol=1e-7)
    monkeypatch.setattr(embedding_targets, "_BLOCK", 1)  # row by row
    again = codec.targets(keypoints, visible, masks(codec, 2))
    assert all(torch.equal(value, again[name]) for name, value in targets.items())


@pytest.mark.parametrize("skeleton, stride", BOTH)
def test_tags_are_read_at_the_joints(skeleton: Skeleton, stride: int) -> None:
    codec = make(skeleton, stride)
    keypoints, visible = people(codec, 2, 5)
    targets = codec.targets(keypoints, visible, masks(codec, 2))
    side = codec.output_sizes[0]
    cells = torch.arange(codec.num_keypoints * side * side).view(codec.num_keypoints, side, side)
    count = 0
    for b, p, k in torch.cartesian_prod(torch.arange(2), torch.arange(5), torch.arange(codec.num_keypoints)).tolist():
        x, y = (int(value) if visible[b, p, k] else -1 for value in keypoints[0][b, p, k])
        inside = 0 <= x < side and 0 <= y < side
        assert bool(targets["tagged"][b, p, k]) == inside
        assert not inside or int(targets["tag_index"][b, p, k]) == int(cells[k, y, x])
        count += inside
    assert count > 20


@pytest.mark.parametrize("size, stride, sigma", [(512, 4, 2.0), (256, 4, 2.0), (448, 4, 2.0), (512, 1, 8.0), (256, 1, 8.0)])
def test_derived_numbers(size: int, stride: int, sigma: float) -> None:
    codec = make(COCO_17, stride, size)
    assert codec.constants["sigma"] == sigma
    assert codec.constants["grouping"]["nms_kernel"] == (11 if stride == 1 else 5)
    assert codec.output_sizes == ((size,) if stride == 1 else (size // 4, size // 2))
    assert [shape[0] for shape in codec.output_shapes] == [34, 17][: len(codec.output_sizes)]
    assert make(COCO_17, stride, size, sigma=3.0).constants["sigma"] == 3.0
    assert make(COCO_17, stride, size, grouping={"nms_kernel": 7}).grouping.nms_kernel == 7


def test_one_output_alone() -> None:
    """A head without finer heatmaps: targets, loss and persons come from its one output."""
    codec = make(COCO_17, 4, 256, outputs=1)
    assert codec.output_shapes == ((34, 64, 64),)
    joints = torch.rand(2, 3, 17, 2, generator=torch.Generator().manual_seed(0)) * 50 + 7
    visible = torch.ones(2, 3, 17, dtype=torch.bool)
    targets = codec.targets((joints,), visible, (torch.ones(2, 64, 64, dtype=torch.bool),))
    outputs = codec.perfect((joints,), visible)
    assert [tuple(output.shape) for output in outputs] == [(2, 34, 64, 64)]
    assert float(codec.loss(outputs, targets)["heatmaps"]) == 0
    heatmaps, tags = codec.aggregate([outputs])
    assert heatmaps.shape == (2, 17, 64, 64) and tags.shape[:4] == (2, 17, 64, 64)
    with pytest.raises(FarposeError, match="outputs must be 1 or 2, got 3"):
        make(COCO_17, 4, 256, outputs=3)


# Losses


def slow_loss(codec: AssociativeEmbeddingCodec, outputs: tuple[Tensor, ...], targets: dict[str, Tensor]) -> Tensor:
    """Image by image, person by person, pair by pair."""
    joints, total = codec.num_keypoints, torch.zeros((), dtype=torch.float64)
    for b in range(len(outputs[0])):
        for i, output in enumerate(outputs):
            error = (output[b, :joints] - targets[f"heatmaps{i}"][b]) ** 2
            total = total + (error * targets[f"mask{i}"][b]).sum() / error.numel()
        tags = outputs[0][b, joints:].reshape(-1)
        groups = [tags[index[mask]] for index, mask in zip(targets["tag_index"][b], targets["tagged"][b], strict=True) if mask.any()]
        means = [group.mean() for group in groups]
        pull = sum((((group - mean) ** 2).mean() for group, mean in zip(groups, means, strict=True)), start=torch.zeros(()))
        push = sum((torch.exp(-((a - c) ** 2)) for a in means for c in means if a is not c), start=torch.zeros(()))
        total = total + 1e-3 * pull / max(1, len(means)) + 1e-3 * 0.5 * push / max(1, len(means) * (len(means) - 1))
    return total / len(outputs[0])


@pytest.mark.parametrize("persons", [0, 1, 2, 34])
@pytest.mark.parametrize("skeleton, stride", BOTH)
def test_loss_equals_one_person_at_a_time(skeleton: Skeleton, stride: int, persons: int) -> None:
    codec = make(skeleton, stride, size=64)
    keypoints, visible = people(codec, 2, persons)
    targets = codec.targets(keypoints, visible, masks(codec, 2))
    fast, slow = ([output.requires_grad_() for output in noise(codec, 2, torch.float64)] for _ in range(2))
    ours, theirs = codec.loss(tuple(fast), targets)["loss"], slow_loss(codec, tuple(slow), targets)
    ours.backward()
    theirs.backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    for mine, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("skeleton, stride", BOTH)
def test_neither_order_nor_padding_of_persons_matters(skeleton: Skeleton, stride: int) -> None:
    codec = make(skeleton, stride, size=64)
    keypoints, visible = people(codec, 2, 33)
    order = torch.randperm(33, generator=torch.Generator().manual_seed(3))
    more = [torch.cat([each[:, order], torch.full_like(each[:, :4], torch.nan)], 1) for each in keypoints]
    more_visible = torch.cat([visible[:, order], torch.zeros_like(visible[:, :4])], 1)
    first = codec.targets(keypoints, visible, masks(codec, 2))
    second = codec.targets(more, more_visible, masks(codec, 2))
    assert all(torch.equal(first[name], second[name]) for name in first if name.startswith("heatmaps"))
    outputs = noise(codec, 2)
    torch.testing.assert_close(codec.loss(outputs, first), codec.loss(outputs, second), rtol=1e-6, atol=0)


@pytest.mark.parametrize("skeleton, stride", BOTH)
def test_loss_of_a_batch_is_the_mean_of_its_images(skeleton: Skeleton, stride: int) -> None:
    codec = make(skeleton, stride, size=64)
    keypoints, visible = people(codec, 3, 6)
    outputs, targets = noise(codec, 3), codec.targets(keypoints, visible, masks(codec, 3))
    alone = []
    for b in range(3):
        image = slice(b, b + 1)
        own = codec.targets([each[image] for each in keypoints], visible[image], [mask[image] for mask in masks(codec, 3)])
        assert all(torch.equal(value[0], targets[name][b]) for name, value in own.items())
        alone.append(codec.loss(tuple(output[b : b + 1] for output in outputs), own)["loss"])
    torch.testing.assert_close(codec.loss(outputs, targets)["loss"], torch.stack(alone).mean())


@pytest.mark.parametrize("skeleton, stride", BOTH)
def test_targets_and_losses_never_wait_for_the_device(skeleton: Skeleton, stride: int) -> None:
    """On the meta device there are no values, so `.item()`, boolean indexing and their like raise."""
    codec = make(skeleton, stride)
    keypoints, visible = people(codec, 2, 3)
    targets = codec.targets([each.to("meta") for each in keypoints], visible.to("meta"), [mask.to("meta") for mask in masks(codec, 2)])
    outputs = tuple(output.to("meta").requires_grad_() for output in noise(codec, 2))
    losses = codec.loss(outputs, targets)
    losses["loss"].backward()
    assert all(value.shape == () for value in losses.values())
    assert all(output.grad is not None and output.grad.device.type == "meta" for output in outputs)


def test_perfect_outputs_have_no_loss_and_bf16_is_scored_in_float32() -> None:
    codec = make(COCO_17, 4)
    keypoints, visible = people(codec, 2, 3)
    targets = codec.targets(keypoints, visible, masks(codec, 2))
    perfect = codec.perfect(keypoints, visible)
    losses = codec.loss(perfect, targets)
    assert losses["heatmaps"] == 0
    half = codec.loss(tuple(output.bfloat16() for output in perfect), targets)
    assert half["loss"].dtype == torch.float32 and 0 < half["heatmaps"] < 1e-5


# Flip and aggregation


@pytest.mark.parametrize("skeleton, stride", BOTH)
def test_flip_twice_is_the_identity(skeleton: Skeleton, stride: int) -> None:
    codec = make(skeleton, stride)
    outputs = noise(codec, 2)
    assert all(torch.equal(twice, once) for twice, once in zip(codec.flip(codec.flip(outputs)), outputs, strict=True))
    assert not torch.equal(codec.flip(outputs)[0], outputs[0])


@pytest.mark.parametrize("skeleton, stride", BOTH)
def test_flip_aligns_a_mirrored_image(skeleton: Skeleton, stride: int) -> None:
    """The perfect outputs for mirrored persons, mirrored back, are those for the persons: no cell's shift at any stride."""
    codec = make(skeleton, stride)
    keypoints, visible = people(codec, 2, 3)
    permutation = list(skeleton.flip_permutation)
    mirrored = []
    for cells, size in zip(keypoints, codec.output_sizes, strict=True):
        fraction = (cells - cells.trunc()).abs().clamp(0.2, 0.8) + cells.trunc()  # not on a border between two cells
        mirrored.append(torch.stack([size - fraction[..., 0], fraction[..., 1]], -1)[:, :, permutation])
    inside = torch.stack([(cells >= 0).all(-1) for cells in keypoints]).all(0) & visible
    aligned = codec.flip(codec.perfect(mirrored, inside[:, :, permutation]))
    assert all(torch.equal(mine, other) for mine, other in zip(aligned, codec.perfect(keypoints, inside), strict=True))


@pytest.mark.parametrize("stride", [4, 1])
def test_aggregation_over_scales(stride: int) -> None:
    """Heatmaps are the mean over scales; tags come from scale 1, the mirrored image's beside the upright one's."""
    codec = make(COCO_17, stride, size=64)
    scales, joints = (2.0, 1.0, 0.5), 17
    upright: list[tuple[Tensor, ...]] = []
    mirrored: list[tuple[Tensor, ...]] = []
    for scale in scales:
        generator = torch.Generator().manual_seed(int(10 * scale))
        for each in (upright, mirrored):
            shapes = [(1, shape[0], int(shape[1] * scale), int(shape[2] * scale * 1.5)) for shape in codec.output_shapes]
            each.append(tuple(torch.randn(shape, generator=generator) for shape in shapes))
    heatmaps, tags = codec.aggregate(upright, mirrored, scales, (80, 120))
    means = []
    for up, mirror in zip(upright, map(codec.flip, mirrored), strict=True):
        size = (up[-1].shape[2], up[-1].shape[3])
        means.append(torch.stack([resize(output[:, :joints], size) for outputs in (up, mirror) for output in outputs]).mean(0))
    expected = torch.stack([resize(mean, (80, 120)) for mean in means]).mean(0)
    torch.testing.assert_close(heatmaps, expected, rtol=0, atol=1e-5)
    assert tags.shape == (1, 17, 80, 120, 2)
    size = (upright[1][-1].shape[2], upright[1][-1].shape[3])
    for t, outputs in enumerate((upright[1], codec.flip(mirrored[1]))):
        torch.testing.assert_close(tags[..., t], resize(resize(outputs[0][:, joints:], size), (80, 120)), rtol=0, atol=1e-5)
    free, free_tags = codec.aggregate(upright, None, scales)
    assert free.shape == (1, 17, *upright[0][-1].shape[2:]) and free_tags.shape == (*free.shape, 1)


# Round trip


def separated(codec: AssociativeEmbeddingCodec, persons: int, seed: int) -> tuple[tuple[Tensor, ...], Tensor]:
    """Persons of whom any two have each joint at least 8 cells of the first output's sigma apart, most joints visible."""
    generator = torch.Generator().manual_seed(seed)
    side, gap = codec.output_sizes[0], 4 * codec.sigma
    columns = int(side // gap)
    joints = torch.zeros(1, persons, codec.num_keypoints, 2)
    for k in range(codec.num_keypoints):
        places = torch.randperm(columns * columns, generator=generator)[:persons]
        corner = torch.stack([places % columns, places // columns], -1) * gap
        joints[0, :, k] = corner + gap / 2 + (torch.rand(persons, 2, generator=generator) - 0.5) * gap / 4
    visible = torch.rand(joints.shape[:3], generator=generator) < 0.9
    return tuple(joints * (size / side) for size in codec.output_sizes), visible


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("persons", [1, 8, 30])
@pytest.mark.parametrize("skeleton, stride", BOTH)
def test_separated_persons_come_back(skeleton: Skeleton, stride: int, persons: int, flip: bool) -> None:
    codec = make(skeleton, stride, size=256 if stride == 4 else 192)
    keypoints, visible = separated(codec, persons, seed=persons)
    outputs = codec.perfect(keypoints, visible)
    mirrored = [codec.flip(outputs)] if flip else None
    found = codec.decode(*codec.aggregate([outputs], mirrored))[0]
    assert len(found.scores) == persons and found.keypoints.dtype == np.float64
    expected = keypoints[-1][0].numpy()
    distance = np.abs(found.keypoints[:, None] - expected).max(-1)  # (N, P, K)
    near = (distance < 1) & (found.keypoint_scores[:, None] > 0.5) & visible[0].numpy()
    match = near.sum(-1).argmax(1)
    assert sorted(match.tolist()) == list(range(persons))
    assert (near[np.arange(persons), match] == visible[0].numpy()[match]).all()
    if stride == 1:
        assert distance[np.arange(persons), match][visible[0].numpy()[match]].max() <= 0.7501


@pytest.mark.parametrize("skeleton, stride", BOTH)
def test_an_image_without_persons(skeleton: Skeleton, stride: int) -> None:
    codec = make(skeleton, stride, size=64)
    keypoints, visible = people(codec, 2, 0)
    outputs = codec.perfect(keypoints, visible, [(size, size + 16) for size in codec.output_sizes])
    for persons in codec.decode(*codec.aggregate([outputs])):
        assert persons.keypoints.shape == (0, codec.num_keypoints, 2)
        assert persons.keypoint_scores.shape == (0, codec.num_keypoints) and persons.scores.shape == (0,)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"sigma": 0.0}, "sigma must be positive"),
        ({"grouping": {"nms_kernel": 4}}, "nms_kernel must be an odd number"),
        ({"grouping": {"max_persons": 0}}, "max_persons must be positive"),
        ({"grouping": {"detection_threshold": -0.1}}, "detection_threshold must not be negative"),
        ({"grouping": {"tag_threshold": 0.0}}, "tag_threshold must be positive"),
        ({"grouping": {"tag_treshold": 0.5}}, r"codec associative_embedding.grouping: unknown parameter 'tag_treshold'"),
        ({"max_persons": 3}, "unknown parameter 'max_persons'"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(FarposeError, match=problem):
        make(COCO_17, 4, **settings)
