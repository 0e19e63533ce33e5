"""The nearest point that a decoder can give: a search over maps finds none that is nearer, and comes close to it."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from components import codecs
from components.codecs.associative_embedding import AssociativeEmbeddingCodec
from components.codecs.codec import CropCodec
from components.pose.crop import CropGeometry
from components.pose.skeleton import COCO_17
from tests.codecs.cases import CASES, NUM_KEYPOINTS, SIZES, Case, edge_maps, make, noise, people
from tests.codecs.test_properties import as_outputs

SMALL = 1e-4  # cells


def subcell(codec: CropCodec, keypoints_heatmap: Tensor, sigma: float) -> tuple[Tensor, ...]:
    """Outputs whose heatmaps are Gaussians around the joints themselves, not around cells; offsets are 0."""
    rows, columns = codec.geometry.heatmap_size
    x, y = (keypoints_heatmap[..., axis, None, None] for axis in (0, 1))
    squares = (torch.arange(columns) - x).square() + (torch.arange(rows)[:, None] - y).square()
    return as_outputs(codec, torch.exp(-squares / (2 * sigma**2)))


def searched(codec: CropCodec, keypoints: Tensor) -> list[Tensor]:
    """Points (B, K, 2) that the decoder gives for maps of many kinds, some drawn for these keypoints (B, K, 2) px of the crop."""
    cells, visible = codec.geometry.crop_to_heatmap(keypoints), torch.ones(keypoints.shape[:2], dtype=torch.bool)
    maps = [noise(codec, len(keypoints), seed) for seed in range(3)]
    maps += [subcell(codec, cells, sigma) for sigma in (0.5, 1.0, 2.0)]
    maps += [codec.perfect(codec.targets(keypoints, visible))]
    maps += [tuple(0.05 * other + output for output, other in zip(maps[-1], maps[0], strict=True))]
    edges = edge_maps(*codec.geometry.heatmap_size).repeat(8, 1, 1)[: len(keypoints) * NUM_KEYPOINTS]
    maps += [as_outputs(codec, edges.unflatten(0, (-1, NUM_KEYPOINTS)))]
    return [codec.decode(outputs)[0] for outputs in maps]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_map_decodes_nearer_than_the_nearest_point(case: Case, size: str) -> None:
    codec = case.build(size)
    keypoints, _ = people(codec, count=8, margin=-1.0)  # some outside of the map
    cells = codec.geometry.crop_to_heatmap(keypoints)
    least = (codec.nearest(cells) - cells).norm(dim=-1)
    for decoded in searched(codec, keypoints):
        assert ((decoded - cells).norm(dim=-1) >= least - SMALL).all()
        assert (codec.nearest(decoded) - decoded).abs().max() < SMALL, "what a decoder gives is within its own reach"


@pytest.mark.parametrize("size", SIZES)
def test_a_plain_map_reaches_the_nearest_point(size: str) -> None:
    """Brute force over peaks and neighbours: some map decodes to exactly the point."""
    codec = make("heatmap", size)
    keypoints, _ = people(codec, count=4, margin=-1.0)
    cells = codec.geometry.crop_to_heatmap(keypoints)
    rows, columns = codec.geometry.heatmap_size
    best = torch.full(cells.shape[:2], torch.inf)
    for step_x, step_y in itertools.product((-1, 0, 1), (-1, 0, 1)):
        for up in itertools.product((-1, 0, 1), (-1, 0, 1)):
            x = (cells[..., 0].round() + up[0]).clamp(0, columns - 1).long()
            y = (cells[..., 1].round() + up[1]).clamp(0, rows - 1).long()
            maps = torch.zeros(*cells.shape[:2], rows + 2, columns + 2)
            row, joint = torch.arange(len(cells))[:, None], torch.arange(NUM_KEYPOINTS)
            maps[row, joint, y + 1, x + 1 + step_x] = 0.5
            maps[row, joint, y + 1 + step_y, x + 1] = 0.5
            maps[row, joint, y + 1, x + 1] = 1.0
            best = torch.minimum(best, (codec.decode((maps[..., 1:-1, 1:-1],))[0] - cells).norm(dim=-1))
    torch.testing.assert_close(best, (codec.nearest(cells) - cells).norm(dim=-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["dark", "udp_gaussian", "sharpose", "udp_offset", "cal", "simcc"])
def test_a_codecs_own_targets_come_close_to_the_nearest_point(name: str, size: str) -> None:
    """So the bound of these codecs is not idle: inside the map their own targets leave little of it."""
    codec = make(name, size)
    keypoints, visible = people(codec, count=20, margin=codec.geometry.heatmap_size[1] / 8)
    cells = codec.geometry.crop_to_heatmap(keypoints)
    found = codec.decode(codec.perfect(codec.targets(keypoints, torch.ones_like(visible))))[0]
    lost = (found - cells).norm(dim=-1) - (codec.nearest(cells) - cells).norm(dim=-1)
    assert lost.mean() < 0.05


GROUPINGS = [{}, {"adjust": False}, {"refine": False}, {"adjust": False, "refine": False}]


@pytest.mark.parametrize("stride", [4, 1])
@pytest.mark.parametrize("grouping", GROUPINGS, ids=str)
def test_no_group_has_a_joint_nearer_than_the_nearest_point(stride: int, grouping: dict[str, bool]) -> None:
    codec = codecs.build("associative_embedding", CropGeometry((64, 64), (64 // stride,) * 2), COCO_17, grouping=grouping)
    assert isinstance(codec, AssociativeEmbeddingCodec)
    generator = torch.Generator().manual_seed(0)
    joints = torch.rand(1, 3, NUM_KEYPOINTS, 2, generator=generator, dtype=torch.float64) * 66 - 1
    visible = torch.rand(1, 3, NUM_KEYPOINTS, generator=generator) < 0.8
    perfect = codec.perfect([joints.float() * side / 64 for side in codec.output_sizes], visible)
    random = tuple(torch.randn(1, *shape, generator=generator) for shape in codec.output_shapes)
    mixed = tuple(a + 0.1 * b for a, b in zip(perfect, random, strict=True))
    for size in ((64, 64), (64, 96)):
        least = (codec.nearest(joints[0], size) - joints[0]).norm(dim=-1)  # (P, K)
        for outputs in (perfect, random, mixed):
            (persons,) = codec.decode(*codec.aggregate([outputs], project_to=size))
            found = torch.from_numpy(persons.keypoints)
            assert len(found)
            assert ((found[:, None] - joints).norm(dim=-1) >= least - SMALL).all()
            torch.testing.assert_close(codec.nearest(found, size), found, atol=SMALL, rtol=0)
