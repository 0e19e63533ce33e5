"""Settings: derived constants, published presets, and errors that say what to do."""

from __future__ import annotations

from typing import Any

import pytest

from components import codecs
from components.base.errors import FarposeError
from components.pose.crop import CropGeometry
from components.pose.skeleton import COCO_17
from tests.codecs.cases import make


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("heatmap", "64x48", {"sigma": 1}),
        ("heatmap", "256x192", {"sigma": 2}),
        ("dark", "64x48", {"sigma": 1, "blur": 3}),
        ("dark", "128x96", {"sigma": 1, "blur": 3}),
        ("dark", "256x192", {"sigma": 2, "blur": 11}),
        ("udp_gaussian", "64x48", {"sigma": 1, "blur": 3}),
        ("udp_gaussian", "256x192", {"sigma": 2, "blur": 7}),
        ("udp_offset", "64x48", {"radius": 2, "blur_heatmap": 3, "blur_offset": 1}),
        ("udp_offset", "128x96", {"radius": 2, "blur_heatmap": 7, "blur_offset": 3}),
        ("udp_offset", "256x192", {"radius": 4, "blur_heatmap": 15, "blur_offset": 7}),
        ("cal", "64x48", {"sigma": 0.5, "radius": 4, "offset_unit": 1, "offset_weight": 1, "confidence": True}),
        ("cal", "128x96", {"sigma": 1}),
    ],
)
def test_constants_scale_with_the_map(name: str, size: str, expected: dict[str, float]) -> None:
    constants = make(name, size).constants
    assert {key: constants[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("name", "size", "preset", "expected"),
    [
        ("dark", "256x192", "published", {"sigma": 2, "blur": 11}),
        ("udp_gaussian", "64x48", "published", {"sigma": 1, "blur": 7}),
        ("udp_offset", "64x48", "published", {"radius": 4, "blur_heatmap": 15, "blur_offset": 7}),
        ("cal", "64x48", "published_w32", {"sigma": 0.3, "offset_unit": 1.5, "offset_weight": 0.7, "confidence": False}),
        ("cal", "64x48", "published_w48", {"sigma": 0.5, "offset_unit": 1.0, "offset_weight": 1.0, "confidence": False}),
        ("cal", "128x96", "published_w32", {"sigma": 1.0, "offset_unit": 1.5, "offset_weight": 0.7}),
    ],
)
def test_published_constants(name: str, size: str, preset: str, expected: dict[str, float]) -> None:
    constants = make(name, size, preset=preset).constants
    assert {key: constants[key] for key in expected} == expected


def test_a_published_blur_on_a_small_map_reaches_across_it() -> None:
    """What the scaling is for: at 64x48 the released constants move a perfect answer by cells."""
    from tests.codecs.cases import people

    errors = {}
    for preset in ("derived", "published"):
        codec = make("udp_offset", "64x48", preset=preset)
        keypoints, visible = people(codec, count=40)
        decoded, _ = codec.decode(codec.perfect(codec.targets(keypoints, visible)))
        errors[preset] = (decoded - codec.geometry.crop_to_heatmap(keypoints))[visible].norm(dim=-1).mean().item()
    assert errors["derived"] < 0.01
    assert errors["published"] > 0.5


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("haetmap", {}, "unknown codec 'haetmap' (did you mean 'heatmap'?)"),
        ("dark", {"bluur": 3}, "codec dark: unknown parameter 'bluur' (did you mean 'blur'?)"),
        ("dark", {"blur": 4}, "blur must be an odd number of cells, got 4"),
        ("dark", {"blur": 3.5}, "codec dark.blur: expected an integer, got 3.5"),
        ("heatmap", {"sigma": 0.0}, "sigma must be positive, got 0.0"),
        ("heatmap", {"preset": "paper"}, "unknown value 'paper'"),
        ("udp_offset", {"preset": "published", "radius": 3.5}, "radius = 3.5 contradicts preset 'published', which fixes it at 4.0"),
        ("cal", {"preset": "published_w32", "sigma": 0.5}, "sigma = 0.5 contradicts preset 'published_w32'"),
        ("cal", {"preset": "published_w32", "confidence": True}, "confidence = True contradicts"),
        ("cal", {"mask": "gaussian"}, "unknown value 'gaussian'"),
        ("heatmap", {"hardest_joints": 18}, "hardest_joints must be 0 to 17, got 18"),
    ],
)
def test_a_wrong_setting_is_one_clear_error(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(FarposeError) as error:
        codecs.build(name, CropGeometry((64, 48), (16, 12)), COCO_17, **settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_size_without_a_published_cal_configuration_is_named() -> None:
    with pytest.raises(FarposeError, match="no CAL configuration was published for a map 18 cells wide"):
        codecs.build("cal", CropGeometry((96, 72), (24, 18), "unbiased"), COCO_17, preset="published_w32")


def test_an_explicit_value_equal_to_the_preset_is_no_contradiction() -> None:
    assert make("udp_offset", "64x48", preset="published", radius=4.0).constants["radius"] == 4.0


def test_every_codec_is_found_by_its_file_and_known_to_be_of_one_kind() -> None:
    from components.codecs.codec import as_crop_codec, as_image_codec

    assert {"heatmap", "dark", "udp_gaussian", "udp_offset", "cal", "simcc", "super_resolution", "sharpose"} < set(codecs.names())
    assert {codecs.record(name).approach for name in codecs.names()} == {"crops", "images"}
    for name in codecs.names():
        record = codecs.record(name)
        size = (64, 64) if name in ("simcc", "super_resolution") else (16, 16)
        codec = codecs.build(name, CropGeometry((64, 64), size, codecs.convention_of(name)), COCO_17)
        assert record.name == name and type(codec).__module__ == f"components.codecs.{name}"
        own, other = (as_crop_codec, as_image_codec) if record.approach == "crops" else (as_image_codec, as_crop_codec)
        assert own(codec) is codec
        with pytest.raises(FarposeError, match="decodes"):
            other(codec)


def test_building_one_codec_imports_no_other() -> None:
    import subprocess
    import sys

    code = """
import sys
from components import codecs
from components.pose.crop import CropGeometry
from components.pose.skeleton import COCO_17
codecs.build("dark", CropGeometry((64, 48), (16, 12), "dark"), COCO_17)
others = ("cal", "simcc", "udp_offset", "sharpose", "associative_embedding")
print([name for name in others if f"components.codecs.{name}" in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
