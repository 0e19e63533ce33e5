"""SPSR's generator: what its released code computes, frozen, and clear about checkpoints that are not its."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from components.base.errors import FarposeError
from components.models import costs, official, spsr
from tests.models.fill import filled, fixed_input
from tests.test_official import reference_module

GOLDEN = Path(__file__).parents[1] / "golden" / "spsr_outputs.npz"


@pytest.fixture(scope="module")
def state() -> dict[str, np.ndarray]:
    with torch.device("meta"):
        return filled({key: tuple(value.shape) for key, value in spsr.Generator().state_dict().items()})


@pytest.mark.slow
def test_outputs_equal_the_published_code(parity):
    reference = reference_module(parity).Reference.load(parity / "models" / "spsr_x4_64x48.npz")
    outputs = official.outputs(official.load("spsr_x4", reference.state()), reference.input())
    for name, output in zip(("out0", "out1", "out2"), outputs, strict=True):
        assert tuple(output.shape) == tuple(reference.meta["outputs"][name]["shape"])
        reference.check(name, output.numpy(), tolerance=1e-4)


def test_outputs_equal_the_golden_ones(state):
    outputs = official.outputs(official.load("spsr_x4", state), fixed_input((1, 3, 16, 12)))
    assert [tuple(output.shape) for output in outputs] == [(1, 3, 64, 48), (1, 3, 64, 48), (1, 3, 16, 12)]
    with np.load(GOLDEN) as golden:
        for i, output in enumerate(outputs):
            expected = golden[f"out{i}"]
            assert np.abs(output.numpy()[..., ::3, ::3] - expected).max() <= 1e-4 * expected.std()


def test_the_gradient_is_that_of_two_convolutions():
    images = torch.from_numpy(fixed_input((2, 3, 9, 7)))
    kernel = torch.zeros(3, 1, 3, 3)
    kernel[:, 0, 1] = torch.tensor([-1.0, 0, 1])
    across, down = (functional.conv2d(images, k, padding=1, groups=3) for k in (kernel, kernel.mT))
    assert torch.allclose(spsr.gradient_map(images), (across**2 + down**2 + 1e-6).sqrt(), rtol=1e-6, atol=1e-7)


def test_costs_are_the_measured_ones():
    with torch.device("meta"):
        spent = costs.count(spsr.Generator(), (64, 48))
    assert spent.params / 1e6 == pytest.approx(24.796, abs=5e-4)
    assert spent.macs / 1e9 == pytest.approx(160.97, abs=5e-3)


def test_it_is_never_trained():
    generator = spsr.Generator(width=8, growth=8).train()
    assert not any(module.training for module in generator.modules())
    assert not any(value.requires_grad for value in generator.parameters())


def test_what_is_no_weight_is_left_out_of_a_released_file(state):
    released = {**state, **{key: np.full((1, 1, 3, 3), 9, np.float32) for key in spsr.IGNORED}}
    model = official.load("spsr_x4", released)
    assert all(np.array_equal(value.numpy(), state[key]) for key, value in model.state_dict().items())


def test_another_checkpoint_is_refused(state):
    with pytest.raises(FarposeError, match=r"checkpoint for spsr_x4: .*1 missing \(conv_w\.0\.bias\), 1 left over \(conv_w\.1\.bias\)"):
        official.load("spsr_x4", {("conv_w.1.bias" if key == "conv_w.0.bias" else key): value for key, value in state.items()})
    with pytest.raises(FarposeError, match=r"'f_concat\.0\.bias' has shape \(3,\), .*needs \(64,\)"):
        official.load("spsr_x4", {**state, "f_concat.0.bias": np.zeros(3, np.float32)})
