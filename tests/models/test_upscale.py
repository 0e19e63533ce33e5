"""Enlarging the input: what the network then sees, what is frozen, and where the generator's weights come from."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
import torch

from components import codecs
from components.base.errors import FarposeError
from components.base.files import sha256_of
from components.degrade.augment import normalise
from components.models import official, spsr, upscale, zoo
from components.models.variant import EnlargedNetwork, Variant
from components.models.weights import save_weights
from components.train import loop, recipe
from tests.models.fill import filled, fixed_input
from tests.models.subjects import counted_for
from tests.test_official import shapes_of
from tests.tiny_shard import write_tiny_shard

SIZE = (16, 12)  # px; the generator takes seconds for a crop of the tables' size


def enlarging(kind: str, method: str = "hrnet", weights: str | None = None, size: tuple[int, int] = SIZE) -> Variant:
    name = ("" if method == "hrnet" else f"{method}_") + f"hrnet_tiny_coco_{size[0]}x{size[1]}_{kind}"
    network = EnlargedNetwork(upscale=kind, upscale_weights=weights)
    return Variant(name, method, "hrnet_tiny", "coco", size, tag=kind, network=network)


@pytest.fixture
def small_generator(monkeypatch):
    """A generator of few channels: the real one takes seconds an image."""
    monkeypatch.setattr(upscale, "Generator", lambda: spsr.Generator(width=8, growth=8))


@pytest.fixture
def weights(small_generator, tmp_path) -> str:
    """A file of the small generator's weights."""
    save_weights(tmp_path / "spsr.safetensors", upscale.Generator(), {"variant": "spsr_x4"})
    return str(tmp_path / "spsr.safetensors")


def pixels(count: int = 2) -> torch.Tensor:
    """(N, 3, *SIZE) uint8, with edges as steep as can be."""
    return torch.from_numpy(np.random.default_rng(0).choice(np.array([0, 90, 255], np.uint8), (count, 3, *SIZE)))


def denormalised(images: torch.Tensor) -> np.ndarray:
    """(B, H, W, 3) in [0, 1]."""
    return images.permute(0, 2, 3, 1).numpy() * np.float32([0.229, 0.224, 0.225]) + np.float32([0.485, 0.456, 0.406])


def test_bicubic_equals_opencv_s_clamped_to_grey_levels():
    images = pixels()
    enlarged = denormalised(upscale.Upscale("bicubic")(normalise(images)))
    for image, found in zip(images.permute(0, 2, 3, 1).numpy(), enlarged, strict=True):
        expected = cv2.resize(image.astype(np.float32) / 255, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
        assert expected.min() < -0.01 and expected.max() > 1.01
        assert np.abs(found - expected.clip(0, 1)).max() < 1e-5


def test_the_generator_sees_grey_levels_and_its_image_is_clamped(small_generator):
    way = upscale.Upscale("spsr")
    enlarged = denormalised(way(normalise(pixels())))
    image = way.generator(pixels().float() / 255)[1].permute(0, 2, 3, 1).numpy()
    assert image.min() < 0
    assert np.abs(enlarged - image.clip(0, 1)).max() < 1e-5


@pytest.mark.parametrize("method", ["hrnet", "udp_gaussian", "udp_offset"])
def test_the_network_is_the_ordinary_one_at_four_times_the_size(method):
    variant, images = enlarging("bicubic", method), normalise(pixels())
    plain = Variant(variant.name.replace("16x12_bicubic", "64x48"), method, "hrnet_tiny", "coco", (64, 48))
    torch.manual_seed(0)
    small, large = zoo.network(variant).eval(), zoo.network(plain).eval()
    large.load_state_dict(small.state_dict())
    codec = codecs.build(variant.codec_name, variant.geometry(), variant.skeleton)
    with torch.no_grad():
        found, expected = small(images), large(upscale.Upscale("bicubic")(images))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert [tuple(output.shape[1:]) for output in found] == list(codec.output_shapes)


@pytest.mark.parametrize(("name", "settings"), [
    ("hrnet_w32_coco_64x48_spsr", {"sigma": 2.0}),
    ("udp_gaussian_hrnet_w48_coco_64x48_bicubic", {"sigma": 2.0}),
    ("udp_offset_hrnet_w32_coco_64x48_spsr", {"blur_heatmap": 15, "blur_offset": 7}),
])  # fmt: skip
def test_settings_follow_from_the_map_of_one_cell_per_px(name, settings):
    """They are those that the papers publish for 256x192, whose map is as large."""
    variant = zoo.variant(name)
    constants = codecs.build(variant.codec_name, variant.geometry(), variant.skeleton, **variant.codec).constants
    assert variant.heatmap_size == variant.input_size == (64, 48)
    assert variant.network.branches == 4
    assert settings.items() <= constants.items()


def test_cal_s_rows_are_complete():
    """AP and AR of the 64x48 table; the controls have none."""
    printed = {
        ("", "w32"): (50.0, 55.3),
        ("", "w48"): (51.2, 56.4),
        ("udp_gaussian_", "w32"): (52.5, 57.4),
        ("udp_gaussian_", "w48"): (54.1, 59.4),
    }
    variants = zoo.load_variants()
    for (method, width), numbers in printed.items():
        paper = variants[f"{method}hrnet_{width}_coco_64x48_spsr"].paper
        assert (paper.ap, paper.ar) == numbers
        assert variants[f"{method}hrnet_{width}_coco_64x48_bicubic"].paper.ap is None


def test_costs_are_the_generator_s_and_the_network_s():
    found = counted_for("hrnet_w32_coco_64x48_spsr")
    assert found.macs / 1e9 == pytest.approx(160.97 + 7.645, abs=0.01)
    assert found.params / 1e6 == pytest.approx(24.796 + 28.536, abs=0.001)


def test_a_step_trains_the_network_but_not_the_generator(small_generator):
    model = zoo.network(enlarging("spsr")).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    model(normalise(pixels(4)))[0].square().sum().backward()
    optimiser.step()
    for name, value in model.named_parameters():
        frozen = name.startswith("upscale.")
        assert (value.grad is None) == frozen, name
        assert torch.equal(value, before[name]) == frozen, name
    assert not model.upscale.generator.training


def test_the_generator_s_file_is_read_and_known_by_its_bytes(weights, tmp_path):
    variant = enlarging("spsr", weights=weights)
    model, other = zoo.network(variant), zoo.network(variant)
    for network in (model, other):
        upscale.load_generator(network, variant)
    ours, theirs = (network.upscale.generator.state_dict() for network in (model, other))
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    assert upscale.weights_digest(variant) == sha256_of(weights)
    assert upscale.weights_digest(enlarging("bicubic")) is None


def test_the_run_s_key_names_the_generator_s_file(weights, tmp_path):
    variant, settings = enlarging("spsr", weights=weights), recipe.load()
    (tmp_path / "shard.json").write_text("{}")
    first = loop._key(variant, settings, tmp_path, torch.device("cpu"))
    save_weights(weights, upscale.Generator(), {"variant": "spsr_x4"})
    second = loop._key(variant, settings, tmp_path, torch.device("cpu"))
    assert {key for key in first if first[key] != second[key]} == {"upscale"}


def test_training_without_the_file_ends_with_the_way_out(small_generator, tmp_path):
    variant = enlarging("spsr", weights=str(tmp_path / "none.safetensors"), size=(64, 48))
    settings = dataclasses.replace(recipe.load(), epochs=1)
    with pytest.raises(FarposeError, match=r"hrnet_tiny_coco_64x48_spsr.*generator are not there.*farpose import-weights spsr_x4 FILE"):
        loop.train(variant, write_tiny_shard(tmp_path / "data"), tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()


def test_another_network_s_file_is_refused(small_generator, tmp_path):
    save_weights(tmp_path / "spsr.safetensors", upscale.Generator(), {"variant": "hrnet_w32_coco_64x48"})
    with pytest.raises(FarposeError, match="holds weights of variant 'hrnet_w32_coco_64x48', but 'spsr_x4'"):
        upscale.generator_state(enlarging("spsr", weights=str(tmp_path / "spsr.safetensors")))


def test_a_checkpoint_of_the_pose_network_alone_takes_the_generator_from_its_file(weights, monkeypatch):
    variant = enlarging("spsr", weights=weights)
    monkeypatch.setattr(zoo, "variant", lambda name: variant)  # no table has a small backbone with a generator
    whole = filled(shapes_of(variant.name))
    inner = {key: value for key, value in whole.items() if not key.startswith("upscale.")}
    model = official.load(variant.name, inner)
    (heatmaps,) = official.outputs(model, fixed_input((1, 3, *SIZE)))
    assert heatmaps.shape == (1, 17, *SIZE)
    saved = upscale.generator_state(variant)
    assert saved.keys() == whole.keys() - inner.keys()
    assert all(torch.equal(model.state_dict()[key], value) for key, value in saved.items())
    assert not torch.equal(official.outputs(official.load(variant.name, whole), fixed_input((1, 3, *SIZE)))[0], heatmaps)
