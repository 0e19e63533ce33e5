"""What every codec must do, whatever its method."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from components.codecs.codec import CropCodec
from components.codecs.simcc import SimccCodec
from tests.codecs.cases import CASES, PERMUTATION, SIZES, Case, edge_maps, make, noise, people


def over_all(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.parametrize("size", SIZES)(pytest.mark.parametrize("case", CASES, ids=str)(test))


@over_all
def test_round_trip(case: Case, size: str) -> None:
    codec, index = case.build(size), list(SIZES).index(size)
    keypoints, visible = people(codec, count=60, margin=case.margin[index])
    decoded, scores = codec.decode(codec.perfect(codec.targets(keypoints, visible)))
    error = (decoded - codec.geometry.crop_to_heatmap(keypoints)).abs()[visible]
    assert error.max() <= case.tolerance[index]
    assert (scores[visible] > 0).all()
    assert (scores <= 1).all()


@over_all
def test_targets_have_the_shapes_of_outputs(case: Case, size: str) -> None:
    codec = case.build(size)
    targets = codec.targets(*people(codec, count=2))
    shapes = [tuple(output.shape) for output in codec.perfect(targets)]
    assert shapes == [(2, *shape) for shape in codec.output_shapes]
    assert targets["weights"].shape == (2, codec.num_keypoints)
    if codec.output_shapes[0][1:] == codec.geometry.heatmap_size:
        assert targets["heatmaps"].shape == (2, codec.num_keypoints, *codec.geometry.heatmap_size)


@over_all
def test_flip_twice_is_identity(case: Case, size: str) -> None:
    codec = case.build(size)
    outputs = noise(codec)
    twice = codec.flip(codec.flip(outputs))
    for before, after in zip(outputs, twice, strict=True):
        assert torch.equal(without_border(codec, after), without_border(codec, before))


@over_all
def test_targets_of_a_mirrored_person_flip_onto_the_persons(case: Case, size: str) -> None:
    codec = case.build(size)
    keypoints, visible = people(codec, margin=2)
    keypoints = keypoints.double().round()  # whole px: a plain heatmap's shift of one column is exact only there
    mirrored = keypoints[:, PERMUTATION].clone()
    mirrored[..., 0] = codec.geometry.input_size[1] - 1 - mirrored[..., 0]
    upright = codec.perfect(codec.targets(keypoints, visible))
    aligned = codec.flip(codec.perfect(codec.targets(mirrored, visible[:, PERMUTATION])))
    for expected, found in zip(upright, aligned, strict=True):
        torch.testing.assert_close(without_border(codec, found), without_border(codec, expected), atol=1e-9, rtol=0)


def without_border(codec: CropCodec, output: Tensor) -> Tensor:
    """What mirroring can know: a shifted map has lost its first or last columns."""
    first, last = codec.flip_border
    return output[..., first : output.shape[-1] - last]


@over_all
def test_edge_maps_decode_to_finite_points_near_the_peak(case: Case, size: str) -> None:
    codec = case.build(size)
    rows, columns = codec.geometry.heatmap_size
    maps = edge_maps(rows, columns)
    maps = maps.repeat(-(-len(maps) // codec.num_keypoints) * codec.num_keypoints // len(maps) + 1, 1, 1)
    maps = maps[: len(maps) // codec.num_keypoints * codec.num_keypoints].unflatten(0, (-1, codec.num_keypoints))
    keypoints, scores = codec.decode(as_outputs(codec, maps))
    assert torch.isfinite(keypoints).all()
    assert torch.isfinite(scores).all()
    assert (keypoints >= 0).all()  # the offsets are 0 here, so no codec has a reason to leave the map
    assert (keypoints <= torch.tensor([columns - 1, rows - 1])).all()


def as_outputs(codec: CropCodec, heatmaps: Tensor) -> tuple[Tensor, ...]:
    """Outputs with these heatmaps and offsets of 0; of SimCC, the highest value of every column and row."""
    if isinstance(codec, SimccCodec):
        split = int(codec.split)
        return heatmaps.amax(-2).repeat_interleave(split, -1), heatmaps.amax(-1).repeat_interleave(split, -1)
    per_joint = sum(codec.output_channels) // codec.num_keypoints
    zeros = torch.zeros_like(heatmaps)
    if len(codec.output_channels) == 2:
        return heatmaps, torch.zeros(len(heatmaps), codec.output_channels[1], *heatmaps.shape[-2:])
    return (torch.stack([heatmaps] + [zeros] * (per_joint - 1), 2).flatten(1, 2),)


@over_all
def test_decoding_a_shifted_map_shifts_the_keypoint(case: Case, size: str) -> None:
    codec = case.build(size)
    keypoints, visible = people(codec, margin=codec.geometry.heatmap_size[1] // 3)
    outputs = codec.perfect(codec.targets(keypoints, torch.ones_like(visible)))
    if isinstance(codec, SimccCodec):
        moved = tuple(output.roll(int(codec.split), -1) for output in outputs)
    else:
        moved = tuple(output.roll((1, 1), (-2, -1)) for output in outputs)  # nothing but tails crosses the border
    before, after = codec.decode(outputs)[0], codec.decode(moved)[0]
    torch.testing.assert_close(after, before + 1, atol=1e-3, rtol=0)


@over_all
def test_each_person_is_decoded_and_drawn_alone(case: Case, size: str) -> None:
    codec = case.build(size)
    keypoints, visible = people(codec, count=4)
    whole, outputs = codec.targets(keypoints, visible), noise(codec, count=4)
    together = codec.decode(outputs)
    for i in range(4):
        single = codec.targets(keypoints[i : i + 1], visible[i : i + 1])
        assert all(torch.equal(single[name][0], whole[name][i]) for name in whole)
        alone = codec.decode(tuple(output[i : i + 1] for output in outputs))
        torch.testing.assert_close(alone[0][0], together[0][i], atol=1e-4, rtol=0)
        torch.testing.assert_close(alone[1][0], together[1][i])


@over_all
def test_double_precision_agrees(case: Case, size: str) -> None:
    codec = case.build(size)
    keypoints, visible = people(codec, margin=2)
    single, double = codec.targets(keypoints, visible), codec.targets(keypoints.double(), visible)
    for name in single:
        assert double[name].dtype == torch.float64
        assert (single[name] - double[name]).abs().gt(1e-4).float().mean() < 1e-5  # a disc's edge may fall on either side
    # Noise, because the blurred discs of perfect outputs have several highest cells
    outputs = tuple(output + 1e-3 * other for output, other in zip(codec.perfect(double), noise(codec, len(keypoints)), strict=True))
    single_outputs = tuple(output.float() for output in outputs)
    torch.testing.assert_close(codec.decode(single_outputs)[0].double(), codec.decode(outputs)[0], atol=1e-3, rtol=0)


@over_all
def test_coordinates_of_invisible_joints_are_ignored(case: Case, size: str) -> None:
    codec = case.build(size)
    keypoints, visible = people(codec)
    spoilt = torch.where(visible[..., None], keypoints, float("nan"))
    clean, dirty = codec.targets(keypoints, visible), codec.targets(spoilt, visible)
    assert all(torch.equal(clean[name], dirty[name]) for name in clean)
    assert (clean["weights"][~visible] == 0).all()


@over_all
def test_half_precision_outputs_are_decoded_in_single(case: Case, size: str) -> None:
    codec = case.build(size)
    halves = tuple(output.bfloat16() for output in noise(codec))
    expected = codec.decode(tuple(half.float() for half in halves))
    found = codec.decode(halves)
    assert found[0].dtype == torch.float32
    assert torch.equal(found[0], expected[0])


@over_all
def test_targets_and_loss_never_wait_for_the_device(case: Case, size: str) -> None:
    """On the meta device there are no values, so `.item()`, boolean indexing and their like raise."""
    codec = case.build(size)
    keypoints, visible = people(codec)
    targets = codec.targets(keypoints.to("meta"), visible.to("meta"))
    outputs = tuple(torch.empty_like(output, requires_grad=True) for output in codec.perfect(targets))
    losses = codec.loss(outputs, targets)
    losses["loss"].backward()
    assert all(value.device.type == "meta" and value.shape == () for value in losses.values())
    assert all(output.grad is not None and output.grad.device.type == "meta" for output in outputs)


@pytest.mark.parametrize("name", ["heatmap", "dark"])
@pytest.mark.parametrize("factor", [0.25, 3.0])
def test_keypoints_do_not_depend_on_the_height_of_the_map(name: str, factor: float) -> None:
    codec = make(name, "64x48")
    outputs = codec.perfect(codec.targets(*people(codec, margin=3)))
    before, after = codec.decode(outputs), codec.decode((outputs[0] * factor,))
    torch.testing.assert_close(after[0], before[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(after[1], before[1] * factor)
