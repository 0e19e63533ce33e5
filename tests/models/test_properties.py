"""What every network of crops must do, whatever its method; export is in test_export.py, codecs alone are in tests/codecs, networks of
whole images in test_bottom_up.py.

One small network of each method, each backbone and each switch is quick to test; all pairs of them, and the rows of the tables,
are slow.
"""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch

from components.models import zoo
from components.models.official import authors_key
from components.models.variant import Variant
from tests.models.learning import learned_share
from tests.models.subjects import (
    SMALL,
    TINY,
    TOP_DOWN,
    check_saved_weights,
    codec_of,
    images,
    network,
    people,
    representatives,
    small_variant,
)

VARIANTS = zoo.load_variants()
DEMO = {
    name: variant
    for name, variant in VARIANTS.items()
    if variant.dataset == "synthetic" and variant.tag is None and variant.approach == "crops"
}
WITHOUT_DEMO = {name: SMALL[name] for name in ("simple_efficientvit_tiny_coco_64x48", "udp_gaussian_hrnet_tiny_coco_64x48")}
FROZEN = (  # what is stored among the parameters, as in the authors' checkpoints, but not trained
    r"(backbone|encoder)\.pos_embedding",  # the sines of TransPose and TokenPose
    r"backbone\..*\.relative_position_bias_table",  # HRFormer's, which its released pose code does not add
    r"backbone\.stage4\.\d+\.fuse_layers\.[123]\..*",  # HRFormer's fusions to branches that a plain head does not read
    r"upscale\.generator\..*",  # SPSR
)
slow = pytest.mark.slow


over_all = pytest.mark.parametrize("variant", representatives())


@over_all
def test_evaluation_is_deterministic_and_each_image_is_on_its_own(variant: Variant):
    """In double precision: 152 random layers enlarge float32's rounding, which depends on the batch, a thousandfold."""
    model, batch = network(variant).double(), images(variant, 3).double()
    with torch.no_grad():
        whole, again, alone = model(batch), model(batch), model(batch[1:2])
    for output, repeated, single in zip(whole, again, alone, strict=True):
        assert torch.isfinite(output).all() and output.std() > 0
        assert torch.equal(output, repeated)
        torch.testing.assert_close(single, output[1:2], rtol=1e-6, atol=1e-6 * float(output.std()))


@over_all
def test_the_seed_decides_weights_loss_and_gradients(variant: Variant):
    first, again, other = (first_step(variant, seed) for seed in (3, 3, 4))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def first_step(variant: Variant, seed: int) -> dict[str, torch.Tensor]:
    """Loss, gradients and state of a fresh network after one backward pass in training mode."""
    torch.manual_seed(seed)
    model, codec = zoo.network(variant).train(), codec_of(variant)
    losses = codec.loss(model(images(variant, 2)), codec.targets(*people(codec, 2)))
    losses["loss"].backward()
    gradients = {f"{name}.grad": value.grad for name, value in model.named_parameters() if value.grad is not None}
    return losses | gradients | model.state_dict()


@over_all
def test_the_gradient_reaches_every_trainable_parameter(variant: Variant):
    model, codec = network(variant).train(), codec_of(variant)
    codec.progress(1.0)  # losses that begin late have begun
    codec.loss(model(images(variant, 4)), codec.targets(*people(codec, 4)))["loss"].backward()
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    unreached = [name for name, value in model.named_parameters() if name not in frozen and (value.grad is None or not value.grad.any())]
    assert not unreached
    assert all(re.fullmatch("|".join(FROZEN), name) for name in frozen)


@over_all
def test_saved_weights_give_the_same_network(variant: Variant, tmp_path):
    check_saved_weights(variant, tmp_path / "model.safetensors")


SIZES = [(64, 48), (128, 96), (256, 192)]


def sized_cases() -> list[Any]:
    """Every small plain network at every size; quick to test are the quick ones at 64x48, and one of a method at 128x96."""
    cases = [case for case in representatives() if case.id in SMALL and SMALL[case.id].name == case.id]
    larger = {case.values[0].method: case.id for case in reversed(cases) if not case.marks}.values()
    return [
        pytest.param(*case.values, size, id="{}-{}x{}".format(case.id, *size),
                     marks=case.marks if size == SIZES[0] or (size == SIZES[1] and case.id in larger) else slow)
        for case in cases for size in SIZES
    ]  # fmt: skip


@pytest.mark.parametrize(("variant", "size"), sized_cases())
def test_every_method_runs_and_trains_larger_without_waiting_for_the_device(variant: Variant, size):
    """On the meta device there are no values, so whatever waits for one raises."""
    sized = small_variant(variant.method, variant.backbone, size, network=variant.network)
    codec = codec_of(sized)
    with torch.device("meta"):
        model, batch = zoo.network(sized), torch.empty(2, 3, *size)
        trained = model.train()(batch)
        evaluated = model.eval()(batch)
    assert isinstance(trained, tuple) and isinstance(evaluated, tuple)
    assert [tuple(output.shape[1:]) for output in evaluated] == list(codec.output_shapes)
    keypoints, visible = people(codec, 2)
    codec.loss(trained, codec.targets(keypoints.to("meta"), visible.to("meta")))["loss"].backward()


def one_of_each() -> set[str]:
    """The smallest row of each method, of each number of joints, and of each method with each setting of its network."""
    chosen: dict[tuple[object, ...], str] = {}
    for name, variant in sorted(VARIANTS.items(), key=lambda item: (item[1].backbone not in TINY, math.prod(item[1].input_size))):
        chosen.setdefault((variant.method,), name)
        chosen.setdefault((variant.num_keypoints,), name)
        chosen.setdefault((variant.method, *variant.network.changed), name)
    return set(chosen.values())


ONE_OF_EACH = one_of_each()


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in ONE_OF_EACH else slow) for name in VARIANTS])
def test_a_row_s_network_puts_out_what_its_codec_reads_under_keys_that_its_authors_know(name):
    variant = VARIANTS[name]
    with torch.device("meta"):
        model = zoo.network(variant).eval()
        outputs = model(torch.empty(2, 3, *variant.input_size))
    assert [tuple(output.shape) for output in outputs] == [(2, *shape) for shape in codec_of(variant).output_shapes]
    keys = list(model.state_dict())
    assert len({authors_key(key, variant) for key in keys}) == len(keys)


def codecs_of_all_rows() -> dict[str, Variant]:
    """A row for each codec that the tables ask for, by its name and what decides it."""
    chosen: dict[str, Variant] = {}
    for variant in VARIANTS.values():
        if variant.approach == "images":
            continue
        size = "{}x{}".format(*variant.input_size)
        settings = [f"{key}={value}" for key, value in variant.codec.items()]
        chosen.setdefault(
            "-".join([variant.codec_name, variant.skeleton.name, size, "{}x{}".format(*variant.heatmap_size), *settings]), variant
        )
    return chosen


CODECS = codecs_of_all_rows()


MISALIGNED = pytest.mark.xfail(strict=True, reason="as released: 1.5 bins per px, shifted by one bin instead of a half")
MISALIGNED_AS_RELEASED = {"simcc_hrnet_w48_coco_384x288_gaussian"}


@pytest.mark.parametrize(
    "variant", [pytest.param(v, id=i, marks=MISALIGNED if v.name in MISALIGNED_AS_RELEASED else ()) for i, v in CODECS.items()]
)
def test_outputs_for_a_mirrored_person_align_with_those_for_the_person(variant: Variant):
    codec, width = codec_of(variant), variant.input_size[1]
    keypoints, visible = people(codec, 2, margin=2)
    keypoints = keypoints.double().round()  # whole px: a plain heatmap's shift of one column is exact only there
    swap = list(variant.skeleton.flip_permutation)
    mirrored = torch.stack([width - 1 - keypoints[:, swap, 0], keypoints[:, swap, 1]], -1)
    upright = codec.perfect(codec.targets(keypoints, visible))
    aligned = codec.flip(codec.perfect(codec.targets(mirrored, visible[:, swap])))
    first, last = codec.flip_border
    for expected, found in zip(upright, aligned, strict=True):
        torch.testing.assert_close(
            found[..., first : found.shape[-1] - last], expected[..., first : found.shape[-1] - last], atol=1e-9, rtol=0
        )


LEARNERS = DEMO | WITHOUT_DEMO


LIKE_HEATMAP = ("dark", "dark_ranked", "udp_gaussian")  # codecs that decode otherwise, but learn from the same Gaussians by the same loss
QUICK_LEARNERS = {v.codec_name: n for n, v in reversed(LEARNERS.items()) if v.codec_name not in LIKE_HEATMAP}.values()  # one a codec


@pytest.mark.parametrize("variant", [pytest.param(v, id=n, marks=() if n in QUICK_LEARNERS else slow) for n, v in LEARNERS.items()])
def test_a_small_form_of_each_method_learns_a_batch_by_heart(variant: Variant, tmp_path):
    assert learned_share(variant, tmp_path) >= 0.95


def test_every_method_has_a_small_form_that_learns():
    assert {variant.method for variant in LEARNERS.values()} == set(TOP_DOWN)
