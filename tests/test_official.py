"""Authors' checkpoints: our networks compute what the published code computes, and wrong checkpoints are named."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from components.base.errors import FarposeError
from components.models import official, zoo
from components.models.official import authors_key
from tests.models.fill import filled, fixed_input

REFERENCES = {  # reference file → our variant
    "hrnet_w32_256x192": "hrnet_w32_coco_256x192",
    "hrnet_w32_128x96": "hrnet_w32_coco_128x96",
    "hrnet_w32_64x48_b3": "hrnet_w32_coco_64x48",
    "resnet50_256x192": "simple_resnet50_coco_256x192",
    "resnet50_64x48": "simple_resnet50_coco_64x48",
    "udp_resnet50_256x192_gaussian": "udp_gaussian_resnet50_coco_256x192",
    "udp_w32_256x192_offset": "udp_offset_hrnet_w32_coco_256x192",
    "udp_w32_64x48_gaussian_b3": "udp_gaussian_hrnet_w32_coco_64x48",
    "udp_w32_64x48_offset_b3": "udp_offset_hrnet_w32_coco_64x48",
    "cal_w32_64x48": "cal_hrnet_w32_coco_64x48",
    "cal_head_w32_128x96": "cal_hrnet_w32_coco_128x96",
    "sharpose_small_256": "sharpose_small_coco_256x192",
    "sharpose_base_256": "sharpose_base_coco_256x192",
    "sr_td_res50": "sr_head_resnet50_coco_256x192",
    "srpose_td_res50": "srpose_resnet50_coco_256x192",
    "srpose_td_hrnet_w32": "srpose_hrnet_w32_coco_256x192",
    "srpose_td_hrt_small": "srpose_hrformer_s_coco_256x192",
    "simcc_hrnet_w32_64x64": "simcc_hrnet_w32_coco_64x64",
    "simcc_hrnet_w32_256x192": "simcc_hrnet_w32_coco_256x192",
    "simcc_resnet50_64x64": "simcc_resnet50_coco_64x64",
    "simcc_resnet50_256x192": "simcc_resnet50_coco_256x192",
    "simcc_tokenpose_s_64x64": "simcc_tokenpose_s_coco_64x64",
    "tokenpose_s_v1_256x192": "tokenpose_s_v1_coco_256x192",
    "tokenpose_s_v2_256x192": "tokenpose_s_v2_coco_256x192",
    "transpose_r_a4_baseline": "transpose_r_a4_coco_256x192",
    "siu_res50_256": "siu_resnet50_wholebody_256x192",
    "siu_hrnet_w32_256": "siu_hrnet_w32_wholebody_256x192",
    "siu_evit_l0_384": "siu_efficientvit_l0_wholebody_384x288",
    "higherhrnet_w32_coco_in256": "higherhrnet_w32_coco_256",
    "higherhrnet_w32_coco_in512": "higherhrnet_w32_coco_512",
    "litepose_XS_coco_in256": "litepose_xs_coco_256",
    "sr_bu_hrnet_w32": "sr_head_bottomup_hrnet_w32_coco_512",
}
ADDED = ("sharpose_small_256", "sharpose_base_256")  # files that hold more than outputs, after the first two
QUICK = {  # one small network of each family
    "hrnet_w32_64x48_b3",
    "resnet50_64x48",
    "udp_w32_64x48_offset_b3",
    "cal_w32_64x48",
    "sharpose_small_256",
    "srpose_td_res50",
    "srpose_td_hrt_small",
    "simcc_hrnet_w32_64x64",
    "tokenpose_s_v1_256x192",
    "transpose_r_a4_baseline",
    "siu_res50_256",
    "siu_evit_l0_384",
    "higherhrnet_w32_coco_in256",
    "litepose_XS_coco_in256",
    "sr_bu_hrnet_w32",
}
GOLDEN = Path(__file__).parent / "golden" / "network_outputs.npz"
GOLDEN_BOTTOM_UP = GOLDEN.with_name("bottom_up_outputs.npz")
TINY = "hrnet_tiny_coco_64x48"


def reference_module(parity: Path) -> ModuleType:
    """The reader that lies beside the reference tensors."""
    if "parity_reference" not in sys.modules:
        spec = importlib.util.spec_from_file_location("parity_reference", parity / "reference.py")
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["parity_reference"]


@pytest.mark.parametrize("file", [pytest.param(file, marks=() if file in QUICK else pytest.mark.slow) for file in REFERENCES])
def test_outputs_equal_the_published_code(parity, file):
    reference = reference_module(parity).Reference.load(parity / "models" / f"{file}.npz")
    model = official.load(REFERENCES[file], reference.state())
    outputs = official.outputs(model, reference.input())
    names = [
        name.split("__")[0]
        for name in reference.output_names()
        if not (name.endswith("__mean_c") or name.startswith(("train_", "features.", "encoder_tokens", "heatmaps_only")))
    ]
    names = names[:2] if file in ADDED else names  # the rest is for tests/models/test_sharpose.py
    assert len(names) == len(outputs)
    for name, output in zip(names, outputs, strict=True):
        assert tuple(output.shape) == tuple(reference.meta["outputs"][name]["shape"])
        reference.check(name, output.numpy(), tolerance=1e-4)


@pytest.mark.parametrize("file", ["hrnet_w32_64x48_b3", "resnet50_64x48", "udp_w32_64x48_offset_b3", "cal_w32_64x48"])
def test_outputs_equal_the_golden_ones(file):
    name = REFERENCES[file]
    model = official.load(name, filled(shapes_of(name)))
    outputs = official.outputs(model, fixed_input((2, 3, *zoo.variant(name).input_size)))
    with np.load(GOLDEN) as golden:
        for i, output in enumerate(outputs):
            expected = golden[f"{file}.{i}"]
            assert np.abs(output.numpy()[..., ::3, ::3] - expected).max() <= 1e-4 * expected.std()


@pytest.mark.parametrize(("file", "size"), [("higherhrnet_w32_coco_in256", 256), ("litepose_XS_coco_in256", 256), ("sr_bu_hrnet_w32", 128)])
def test_outputs_of_whole_images_equal_the_golden_ones(file, size):
    name = REFERENCES[file]
    outputs = official.outputs(official.load(name, filled(shapes_of(name))), fixed_input((2, 3, size, size)))
    with np.load(GOLDEN_BOTTOM_UP) as golden:
        for i, output in enumerate(outputs):
            expected = golden[f"{file}.{i}"]
            stride = output.shape[-1] // expected.shape[-1]
            assert np.abs(output.numpy()[..., ::stride, ::stride] - expected).max() <= 1e-4 * expected.std()


def shapes_of(name: str) -> dict[str, tuple[int, ...]]:
    variant = zoo.variant(name)
    with torch.device("meta"):
        state = zoo.network(variant).state_dict()
    return {authors_key(key, variant): tuple(value.shape) for key, value in state.items()}


@pytest.fixture
def tiny_state() -> dict[str, np.ndarray]:
    return filled(shapes_of(TINY))


def test_tensors_arrays_and_data_parallel_prefixes_give_the_same_network(tiny_state):
    images = fixed_input((2, 3, 64, 48))
    (expected,) = official.outputs(official.load(TINY, tiny_state), images)
    tensors = {f"module.{key}": torch.from_numpy(value) for key, value in tiny_state.items()}
    (heatmaps,) = official.outputs(official.load(TINY, tensors), torch.from_numpy(images))
    assert torch.equal(heatmaps, expected)
    assert not heatmaps.requires_grad


def test_the_loaded_network_does_not_share_memory_with_the_checkpoint(tiny_state):
    before = {key: value.copy() for key, value in tiny_state.items()}
    model = official.load(TINY, tiny_state)
    with torch.no_grad():
        for value in model.parameters():
            value.zero_()
    assert all(np.array_equal(before[key], value) for key, value in tiny_state.items())


def test_every_parameter_of_the_loaded_network_can_be_trained(tiny_state):
    model = official.load(TINY, tiny_state).train()
    model(torch.from_numpy(fixed_input((4, 3, 64, 48))))[0].square().sum().backward()
    assert all(value.grad is not None for value in model.parameters())


def test_a_missing_and_a_left_over_key_are_named(tiny_state):
    value = tiny_state.pop("layer1.0.conv2.weight")
    with pytest.raises(FarposeError, match=r"hrnet_tiny_coco_64x48.*1 missing \(layer1\.0\.conv2\.weight\)"):
        official.load(TINY, tiny_state)
    with pytest.raises(FarposeError, match=r"1 left over \(surplus\.weight\)"):
        official.load(TINY, tiny_state | {"layer1.0.conv2.weight": value, "surplus.weight": value})


def test_another_method_s_checkpoint_is_refused(tiny_state):
    with pytest.raises(FarposeError, match=r"missing .*left over"):
        official.load("cal_hrnet_tiny_coco_64x48", tiny_state)


def test_a_checkpoint_for_other_joints_is_refused(tiny_state):
    tiny_state["final_layer.weight"] = tiny_state["final_layer.weight"][:16]
    with pytest.raises(FarposeError, match=r"final_layer\.weight.*\(16, 16, 1, 1\).*needs \(17, 16, 1, 1\).*17 keypoints"):
        official.load(TINY, tiny_state)


def test_a_whole_training_checkpoint_is_refused_with_the_way_out(tiny_state):
    with pytest.raises(FarposeError, match=r"'epoch' is a int, not a tensor .*state_dict"):
        official.load(TINY, {"epoch": 3, "state_dict": tiny_state})


def test_an_unknown_variant_is_refused(tiny_state):
    with pytest.raises(FarposeError, match=r"unknown variant 'hrnet_w23_coco_256x192'.*did you mean 'hrnet_w32_coco_256x192'"):
        official.load("hrnet_w23_coco_256x192", tiny_state)


def test_published_simplebaseline_keeps_the_surplus_columns_that_ours_cuts_off():
    name = "simple_resnet50_coco_64x48"
    state = filled(shapes_of(name))
    images = fixed_input((1, 3, 64, 48))
    (published,) = official.outputs(official.load(name, state, published=True), images)
    (corrected,) = official.outputs(official.load(name, state, published=False), images)
    assert tuple(published.shape) == (1, 17, 16, 16)
    assert tuple(corrected.shape) == (1, 17, 16, 12)
    assert torch.allclose(published[..., :12], corrected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("head", ["keypoint_head", "head"])
def test_mmpose_s_names_of_the_same_network_are_taken(tiny_state, head):
    images = fixed_input((2, 3, 64, 48))
    (expected,) = official.outputs(official.load(TINY, tiny_state), images)
    theirs = {f"{head if key.startswith('final_layer') else 'backbone'}.{key}": value for key, value in tiny_state.items()}
    (heatmaps,) = official.outputs(official.load(TINY, theirs), images)
    assert torch.equal(heatmaps, expected)
