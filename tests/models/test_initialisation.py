"""He's initialisation: the convolutions that a batch norm follows, whatever the network, and nothing that puts out maps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from components.models import zoo
from components.models.backbones.blocks import he_initialisation
from tests.models.subjects import BOTTOM_UP, SMALL, small_variant

NETWORKS = {
    **SMALL,
    **{method: small_variant(method, "litepose_tiny" if method == "litepose" else "hrnet_tiny") for method in BOTTOM_UP},
}


def normalised_convolutions(model: nn.Module, images: Tensor) -> dict[str, nn.Module]:
    """The convolutions whose output goes straight into a batch norm, as seen while the network runs."""
    made: dict[int, tuple[str, Tensor]] = {}
    found: dict[str, nn.Module] = {}

    def after(name: str):
        return lambda module, given, out: made.__setitem__(id(out), (name, out))  # the tensor is kept, so that no other takes its id

    def before(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        if id(given[0]) in made:
            name = made[id(given[0])][0]
            found[name] = parts[name]

    parts = dict(model.named_modules())
    for name, part in parts.items():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            part.register_forward_hook(after(name))
        elif isinstance(part, nn.BatchNorm2d):
            part.register_forward_pre_hook(before)
    with torch.no_grad():
        model(images)
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_normalised_convolutions_start_as_he_has_them_and_outputs_as_published(name):
    variant = NETWORKS[name]
    images = torch.randn((2, 3, *variant.input_size), generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    model = zoo.network(variant).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    he_initialisation(model)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    convolutions = {f"{key}.weight": part for key, part in normalised_convolutions(model, images).items() if part.bias is None}
    assert bool(convolutions) == (variant.method != "sharpose") and set(convolutions) <= changed  # a transformer alone has none
    parts = dict(model.named_modules())
    for key in changed:
        layer = parts[key.removesuffix(".weight")]
        assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.bias is None
        inputs = layer.out_channels if isinstance(layer, nn.ConvTranspose2d) else layer.in_channels // layer.groups
        expected = math.sqrt(2 / (inputs * layer.kernel_size[0] * layer.kernel_size[1]))
        assert layer.weight.std().item() == pytest.approx(expected, rel=5 / math.sqrt(layer.weight.numel()))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_first_outputs_are_no_larger(name):
    """A first loss that is a thousand times too large would cost the epochs that the initialisation saves."""
    variant = NETWORKS[name]
    images = torch.randn((4, 3, *variant.input_size), generator=torch.Generator().manual_seed(1))
    sizes = []
    for initialise in (lambda model: None, he_initialisation):
        torch.manual_seed(0)
        model = zoo.network(variant).train()
        initialise(model)
        with torch.no_grad():
            outputs = model(images)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        sizes.append(max(output.std().item() for output in outputs))
    assert sizes[1] < 2 * sizes[0] + 0.1
