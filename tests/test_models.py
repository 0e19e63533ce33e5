"""HRNet and CAL: fusions, sizes, what their parts share, and the initial weights of all networks of their repositories.

What holds for every network is in models/test_properties.py.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from components.models import zoo
from components.models.backbones.hrnet import HRNETS, HighResolutionEnd, HighResolutionModule
from components.models.variant import methods
from tests.models.subjects import small_variant

SMALL = [(method, backbone) for method in methods() for backbone in ("hrnet_tiny", "resnet18") if backbone in methods()[method].backbones]
AS_HRNET = ("hrnet", "simple", "dark", "udp_gaussian", "udp_offset", "cal", "higherhrnet", "sr_head_bottomup")
PLAIN = [(method, backbone) for method, backbone in SMALL if method in AS_HRNET]


def network(*args, **kwargs) -> nn.Module:
    torch.manual_seed(0)
    model = zoo.network(small_variant(*args, **kwargs))
    for module in model.modules():  # weights far from the initial ones, so that nothing is equal by chance
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight)
    return model


def images(count: int, size: tuple[int, int] = (64, 48)) -> torch.Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("method", "backbone"), PLAIN)
def test_initial_weights_are_as_published(method, backbone):
    torch.manual_seed(3)
    model = zoo.network(small_variant(method, backbone))
    weights = torch.cat([m.weight.detach().flatten() for m in model.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)])
    assert float(weights.std()) == pytest.approx(0.001, rel=0.02)
    assert abs(float(weights.mean())) < 1e-5
    assert all(m.momentum == 0.1 and m.eps == 1e-5 for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert all(not m.bias.any() for m in model.modules() if isinstance(m, nn.Conv2d) and m.bias is not None)


def test_fusing_to_size_is_the_published_factor_where_sizes_are_powers_of_two():
    """Oracle: the published fusion written out with fixed factors."""
    torch.manual_seed(0)
    module = HighResolutionModule([8, 16, 32], [8, 16, 32], blocks=1, targets=3).eval()
    features = [torch.randn(2, 8 * 2**i, 16 >> i, 12 >> i) for i in range(3)]
    with torch.no_grad():
        branches = [branch(x) for branch, x in zip(module.branches, features, strict=True)]
        paths = module.fuse_layers
        for target, fused in enumerate(module(features)):
            terms = []
            for source, x in enumerate(branches):
                factor = 2 ** max(source - target, 0)
                terms.append(nn.Upsample(scale_factor=factor, mode="nearest")(paths[target][source](x)))
            assert torch.allclose(fused, torch.relu(sum(terms)), atol=1e-5)


def test_four_branches_run_where_the_published_factors_do_not_fit():
    """Branch widths at 64x48 are 12, 6, 3, 2, and 2 x 8 is not 12."""
    for method in ("hrnet", "udp_offset", "cal"):
        outputs = network(method, "hrnet_tiny", branches=4)(images(2))
        assert all(output.shape[-2:] == (16, 12) for output in outputs)


def test_udp_widens_the_last_fusion_only():
    shape = HRNETS["hrnet_w32"]
    plain, widened = (dict(HighResolutionEnd(shape, 3, widen=w).named_parameters()) for w in (1, 4))
    changed = {name for name, value in widened.items() if name not in plain or plain[name].shape != value.shape}
    assert changed == {name for name in widened if name.startswith("stage.2.fuse_layers.")}
    assert widened["stage.2.fuse_layers.0.0.0.weight"].shape == (128, 32, 1, 1)  # the identity path, without batch norm
    assert "stage.2.fuse_layers.0.0.1.weight" not in widened


def test_cal_s_trunks_share_stages_one_to_three_and_nothing_else():
    model = network("cal", "hrnet_tiny").eval()
    reached = {}
    for i, output in enumerate(model(images(2))):
        model.zero_grad()
        output.square().sum().backward(retain_graph=True)
        reached[i] = {name for name, value in model.named_parameters() if value.grad is not None and value.grad.abs().sum() > 0}
    assert all(name.startswith("trunk.") for name in reached[0] & reached[1])
    assert {name for name, _ in model.named_parameters() if name.startswith("trunk.")} == reached[0] & reached[1]
