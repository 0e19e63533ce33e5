"""EfficientViT-L: its attention equals the definition, its stages the published ones, and ImageNet weights find their places."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.models.efficientvit_mit import LiteMLA
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from components.base.errors import FarposeError
from components.models import official, zoo
from components.models.backbones.efficientvit import EFFICIENTVITS, EfficientViT, authors_name
from components.models.official import authors_key
from components.models.pretrained import load_backbone
from tests.models.fill import filled, fixed_input
from tests.models.subjects import counted_for

VARIANTS = zoo.load_variants()
L0, L1 = (f"simple_efficientvit_{size}_wholebody_384x288" for size in ("l0", "l1"))


def tiny() -> EfficientViT:
    torch.manual_seed(0)
    return EfficientViT(EFFICIENTVITS["efficientvit_tiny"]).eval()


def attentions(model: nn.Module) -> list[LiteMLA]:
    return [module for module in model.modules() if isinstance(module, LiteMLA)]


def meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return zoo.network(VARIANTS[name])


def test_the_attention_equals_its_definition():
    """Equation 1: every token is the mean of all values, weighted by relu(query) · relu(key); heads of two scales side by side."""
    (attention,) = attentions(tiny())
    attention.double()
    x = torch.randn(2, 128, 4, 3, dtype=torch.float64)
    with torch.no_grad():
        qkv = attention.qkv(x)
        tokens = torch.cat([qkv, attention.aggreg[0](qkv)], 1).flatten(2)
        heads = []
        for head in tokens.split(3 * attention.dim, dim=1):
            query, key, value = head.split(attention.dim, dim=1)  # (B, dim, N)
            weights = torch.einsum("bdn,bdm->bnm", query.relu(), key.relu())
            heads.append(torch.einsum("bnm,bdm->bdn", weights / weights.sum(-1, keepdim=True), value))
        expected = attention.proj(torch.cat(heads, 1).reshape(2, -1, 4, 3))
        assert len(heads) == 2 * 128 // attention.dim
        assert torch.allclose(attention(x), expected, atol=1e-5)  # it runs in float32


class Products(TorchDispatchMode):
    """Remembers the types in which matrices are multiplied and images are convolved."""

    def __init__(self) -> None:
        super().__init__()
        self.types: dict[str, set[torch.dtype]] = {"bmm": set(), "convolution": set()}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in self.types:
            self.types[name].add(args[0].dtype)
        return func(*args, **(kwargs or {}))


def test_the_attention_stays_in_float32_under_autocast():
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), Products() as products:
        features = tiny()(torch.randn(1, 3, 64, 48))
    assert products.types == {"bmm": {torch.float32}, "convolution": {torch.bfloat16}}
    assert torch.isfinite(features).all()


def test_constants_are_those_of_the_pose_code():
    model = tiny()
    assert {module.eps for module in model.modules() if isinstance(module, nn.BatchNorm2d)} == {1e-5}
    assert {module.eps for module in attentions(model)} == {1e-15}


@pytest.mark.parametrize("size", [(256, 192), (64, 48), (70, 33)])
def test_features_have_stride_32(size):
    with torch.device("meta"):
        features = EfficientViT(EFFICIENTVITS["efficientvit_l0"]).eval()(torch.empty(1, 3, *size))
    assert tuple(features.shape) == (1, 512, -(-size[0] // 32), -(-size[1] // 32))


def test_the_initial_weights_pass_the_signal_on():
    assert tiny().train()(torch.randn(4, 3, 64, 48)).std() > 0.1


@pytest.mark.parametrize("name", EFFICIENTVITS)
def test_the_authors_names_are_distinct_and_count_the_stem_as_a_stage(name):
    shape = EFFICIENTVITS[name]
    with torch.device("meta"):
        keys = list(EfficientViT(shape).state_dict())
    theirs = [authors_name(key) for key in keys]
    assert len(set(theirs)) == len(keys)
    blocks = {tuple(map(int, key.split(".")[1:4:2])) for key in theirs}
    assert blocks == {(stage, block) for stage, depth in enumerate(shape.depths) for block in range(depth + 1)}
    assert all(key.startswith(f"stages.{key.split('.')[1]}.op_list.") for key in theirs)


def test_stages_have_the_published_means(parity):
    with np.load(parity / "models" / "siu_evit_l0_384.npz") as stored:
        expected = [stored[f"stage{stage}__mean_c"] for stage in range(5)]
    name = "siu_efficientvit_l0_wholebody_384x288"
    shapes = {authors_key(key, VARIANTS[name]): tuple(value.shape) for key, value in meta(name).state_dict().items()}
    backbone = official.load(name, filled(shapes)).backbone
    features = torch.from_numpy(fixed_input((2, 3, 384, 288)))
    for stage, means in zip((backbone.stem, *backbone.stages), expected, strict=True):
        with torch.no_grad():
            features = stage(features)
        assert np.abs(features.mean((2, 3)).numpy() - means).max() <= 1e-4 * means.std()


def test_the_simplebaseline_on_it_costs_what_siu_s_authors_print():
    """27.805 of the backbone, 4.196 of three deconvolutions, 0.034 of the last layer."""
    counted = [counted_for(name) for name in (L0, L1)]
    assert [round(cost.params_backbone / 1e6, 3) for cost in counted] == [27.805, 38.037]
    assert [round(cost.params_head / 1e6, 3) for cost in counted] == [4.230, 4.230]
    assert [round(cost.macs / 1e9, 3) for cost in counted] == [12.655, 14.118]


def test_the_simplebaseline_on_it_has_mmpose_s_names():
    keys = {authors_key(key, VARIANTS[L0]) for key in meta(L0).state_dict()}
    assert {key.split(".")[0] for key in keys} == {"backbone", "head"}
    assert {"head.deconv_layers.0.weight", "head.deconv_layers.7.bias", "head.final_layer.weight"} <= keys


def test_timm_s_imagenet_weights_fit_l1(monkeypatch):
    import timm

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: create(name, pretrained=not pretrained))
    model = zoo.network(VARIANTS[L1])
    before = model.backbone.stem.in_conv.conv.weight.clone()
    taken = load_backbone(model, "timm")
    assert taken == sum(not key.endswith("num_batches_tracked") for key in model.backbone.state_dict())
    assert not torch.equal(before, model.backbone.stem.in_conv.conv.weight)


def test_l0_is_not_among_timm_s():
    with pytest.raises(FarposeError, match="backbone efficientvit_l0 from timm: timm does not know it"):
        load_backbone(zoo.network(VARIANTS["siu_efficientvit_l0_coco_64x48"]), "timm")
