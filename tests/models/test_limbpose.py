"""LimbPose, our own: it starts as HigherHRNet, and its bias knows nothing but the distance along the limbs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import shortest_path
from torch import Tensor, nn

from components.models import costs, official, zoo
from components.models.backbones.hrnet import HRNETS, HighResolutionEnd, HighResolutionTrunk, HRNet
from components.models.methods import higherhrnet, limbpose
from components.models.methods.limbpose import LimbBias, LimbPose, limb_distances
from components.models.official import authors_key
from components.models.variant import Variant
from components.pose.skeleton import COCO_17, CROWDPOSE_14, SKELETONS, Skeleton
from tests.models.fill import filled
from tests.models.subjects import spread

TINY = Variant("limbpose_tiny_coco_128", "limbpose", "hrnet_tiny", "coco", (128, 128))
WITHOUT_BIAS = Variant("limbpose_tiny_coco_128_x", "limbpose", "hrnet_tiny", "coco", (128, 128), "x", {"limb_bias": False})
PLAIN = Variant("higherhrnet_tiny_coco_128", "higherhrnet", "hrnet_tiny", "coco", (128, 128))


def images(count: int, size: tuple[int, int] = (128, 128)) -> Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


def outputs(model: nn.Module, batch: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return model.eval()(batch)


@pytest.fixture(scope="module")
def trained() -> LimbPose:
    """With weights far from the initial ones, the filters and the bias among them."""
    torch.manual_seed(0)
    return spread(zoo.network(TINY), images(4))


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)
def test_distances_are_shortest_paths_along_the_limbs(skeleton: Skeleton):
    rows, columns = np.array(skeleton.limb_indices).T
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(skeleton), len(skeleton)))
    expected = shortest_path(graph, directed=False, unweighted=True)
    furthest = expected[np.isfinite(expected)].max()
    assert np.array_equal(limb_distances(len(skeleton), skeleton.limb_indices), np.where(np.isinf(expected), furthest + 1, expected))


def test_joints_that_no_limbs_connect_are_furthest():
    assert limb_distances(4, [(0, 1), (1, 2)]).tolist() == [[0, 1, 2, 3], [1, 0, 1, 3], [2, 1, 0, 3], [3, 3, 3, 0]]


@pytest.mark.parametrize("skeleton", [COCO_17, CROWDPOSE_14], ids=lambda skeleton: skeleton.name)
def test_left_and_right_are_alike(skeleton: Skeleton):
    distances, swap = limb_distances(len(skeleton), skeleton.limb_indices), list(skeleton.flip_permutation)
    assert np.array_equal(distances[swap][:, swap], distances)


def test_the_bias_depends_on_the_distance_alone():
    distances = limb_distances(17, COCO_17.limb_indices)
    bias = LimbBias(distances)
    assert not bias().any()
    nn.init.normal_(bias.by_distance)
    for head, matrix in enumerate(bias().detach().numpy()):
        for distance in range(distances.max() + 1):
            assert set(matrix[distances == distance]) == {bias.by_distance[head, distance].item()}


def test_it_starts_as_higherhrnet_and_takes_its_weights():
    torch.manual_seed(0)
    fresh, batch = zoo.network(TINY), images(2, (64, 192))
    plain = spread(higherhrnet.build(PLAIN), images(4))
    fitted = fresh.load_state_dict(plain.state_dict(), strict=False)
    assert not fitted.unexpected_keys
    assert {key.split(".")[0] for key in fitted.missing_keys} == {"queries", "filters", "project"}
    for ours, theirs in zip(outputs(fresh, batch), outputs(plain, batch), strict=True):
        assert torch.equal(ours, theirs)
    names = {authors_key(key, TINY) for key in fresh.state_dict()}
    assert {authors_key(key, PLAIN) for key in plain.state_dict()} < names
    assert len(names) == len(fresh.state_dict())


@pytest.mark.parametrize("size", [(128, 128), (64, 192)], ids=str)
def test_outputs_have_a_quarter_and_half_of_the_image_and_each_image_is_on_its_own(trained, size):
    batch = images(3, size)
    together, alone = outputs(trained, batch), outputs(trained, batch[1:2])
    assert [tuple(output.shape) for output in together] == [(3, 34, size[0] // 4, size[1] // 4), (3, 17, size[0] // 2, size[1] // 2)]
    for whole, single in zip(together, alone, strict=True):
        torch.testing.assert_close(whole[1:2], single, rtol=1e-4, atol=1e-4 * float(single.std()))


def test_the_queries_change_heatmaps_and_tags_by_what_they_see(trained):
    """With the filters at work both differ from HigherHRNet's; another image gives other filters, and the same ones twice."""
    batch = images(2)
    coarse, _ = outputs(trained, batch)
    with torch.no_grad():
        plain, _ = trained.head(trained.backbone(batch))
        queries = trained.queries(trained.backbone.trunk(batch)[2])
    for part in (slice(0, 17), slice(17, 34)):
        assert float((coarse - plain)[:, part].std()) > 0.01 * float(plain.std())
    assert queries.shape == (2, 17, 64)
    assert float((queries[0] - queries[1]).std()) > 0.01


def permuted(model: LimbPose, order: list[int], limbs: list[tuple[int, int]]) -> LimbPose:
    """The network of a skeleton whose joint i is joint `order[i]` of `model`'s."""
    shape, count = HRNETS["hrnet_tiny"], len(order)
    made = LimbPose(HRNet(HighResolutionTrunk(shape), HighResolutionEnd(shape)), count, limb_distances(count, limbs))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    both = [*order, *(count + joint for joint in order)]  # heatmaps, then tags
    state["queries.joints"] = state["queries.joints"][order]
    for key in ("head.coarse.weight", "head.coarse.bias"):
        state[key] = state[key][both]
    for key in ("head.fine.weight", "head.fine.bias"):
        state[key] = state[key][order]
    features = shape.width
    state["head.up.0.weight"] = state["head.up.0.weight"][[*range(features), *(features + joint for joint in both)]]
    made.load_state_dict(state)
    return made.eval()


def test_joints_in_another_order_give_the_same_outputs_in_that_order(trained):
    order = np.random.default_rng(0).permutation(17).tolist()
    limbs = [(order.index(a), order.index(b)) for a, b in COCO_17.limb_indices]
    expected = outputs(trained, images(2))
    found = outputs(permuted(trained, order, limbs), images(2))
    both = [*order, *(17 + joint for joint in order)]
    for ours, theirs in zip(found, (expected[0][:, both], expected[1][:, order]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.std()))
    wrong = outputs(permuted(trained, order, list(COCO_17.limb_indices)), images(2))[0]  # limbs that were not renamed
    assert float((wrong - expected[0][:, both]).abs().max()) > 1e-2 * float(expected[0].std())


def test_without_the_bias_it_is_the_same_network_with_the_bias_at_zero(trained):
    torch.manual_seed(0)
    plain = zoo.network(WITHOUT_BIAS)
    state = {key: value.clone() for key, value in trained.state_dict().items()}
    bias = [key for key in state if key.endswith("by_distance")]
    assert len(bias) == limbpose.LAYERS
    plain.load_state_dict({key: value for key, value in state.items() if key not in bias})
    zeroed = zoo.network(TINY)
    zeroed.load_state_dict(state | {key: torch.zeros_like(state[key]) for key in bias})
    ours, theirs, with_bias = (outputs(model, images(2))[0] for model in (plain, zeroed, trained))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.std()))
    assert float((ours - with_bias).abs().max()) > 1e-2 * float(theirs.std())


def test_training_reaches_every_parameter(trained):
    model = zoo.network(TINY)
    model.load_state_dict(trained.state_dict())
    coarse, fine = model.train()(images(4))
    (coarse.square().mean() + fine.square().mean()).backward()
    assert not [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]


def test_a_step_of_adam_moves_an_untrained_one_no_further_than_higherhrnet():
    """Its filters start at 0 and stand behind 128 numbers that move at once: the scale keeps that in check."""
    batch, moved = images(4), {}
    for variant in (TINY, PLAIN):
        torch.manual_seed(0)
        model = zoo.network(variant).train()
        optimiser = torch.optim.Adam(model.parameters(), 1e-3)
        before = model(batch)[0].detach()
        (model(batch)[0] - 0.1).square().mean().backward()
        optimiser.step()
        moved[variant.method] = float((model(batch)[0].detach() - before).abs().mean())
    assert 0 < moved["limbpose"] < 2 * moved["higherhrnet"]


@pytest.mark.parametrize("name", ["limbpose_w32_coco_512", pytest.param("limbpose_w32_crowdpose_256", marks=pytest.mark.slow)])
def test_it_costs_little_more_than_higherhrnet(name):
    variant = zoo.variant(name)
    side = variant.input_size[0]
    plain = costs.of_variant(
        Variant(f"higherhrnet_w32_{variant.dataset}_{side}", "higherhrnet", "hrnet_w32", variant.dataset, variant.input_size)
    )
    ours = costs.of_variant(variant)
    assert plain.macs < ours.macs < 1.005 * plain.macs
    assert plain.params < ours.params < 1.02 * plain.params


def test_saved_weights_load_by_the_names_of_the_authors():
    """`official.load` builds it without numbers; the limbs' distances must be there all the same."""
    with torch.device("meta"):
        state = zoo.network(zoo.variant("limbpose_tiny_synthetic_256")).state_dict()
    variant = zoo.variant("limbpose_tiny_synthetic_256")
    model = official.load(variant.name, filled({authors_key(key, variant): tuple(value.shape) for key, value in state.items()}))
    for layer in model.queries.layers:
        assert np.array_equal(layer.bias.distances.numpy(), limb_distances(17, COCO_17.limb_indices))
    assert all(torch.isfinite(output).all() for output in official.outputs(model, images(1, (128, 128))))
