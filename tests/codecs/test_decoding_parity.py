"""Decoding and flip alignment equal to the published code's, edge cases included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from components.codecs.blur import blur
from components.codecs.codec import Codec
from components.codecs.dark import decode_dark, smooth
from components.codecs.peaks import find_peaks
from components.codecs.udp_gaussian import decode_gaussian
from components.codecs.udp_offset import decode_offset
from tests.codecs.cases import make
from tests.codecs.conftest import Reference

SIZES = ["64x48", "128x96", "256x192"]
over_sizes = pytest.mark.parametrize("size", SIZES)


def to_image(codec: Codec, keypoints: Tensor, reference: Reference, file: str, size: str) -> Tensor:
    center, scale = (reference(file, f"{size}_{name}").double() for name in ("center", "scale"))
    return codec.geometry.heatmap_to_image(keypoints.double(), center, scale * 200)


def check(found: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found.double(), expected.double(), atol=atol, rtol=1e-6, equal_nan=True)


@over_sizes
def test_peaks(reference: Reference, size: str) -> None:
    peaks = find_peaks(reference("hrnet", f"{size}_hm"))
    check(peaks.coordinates(), reference("hrnet", f"{size}_argmax"), atol=0)
    check(peaks.scores[..., None], reference("hrnet", f"{size}_maxvals"), atol=0)


@over_sizes
@pytest.mark.parametrize("shift", [True, False])
def test_heatmap(reference: Reference, size: str, shift: bool) -> None:
    codec = make("heatmap", size, quarter_shift=shift)
    keypoints, scores = codec.decode((reference("hrnet", f"{size}_hm"),))
    check(to_image(codec, keypoints, reference, "hrnet", size), reference("hrnet", f"{size}_preds_post{int(shift)}"), atol=1e-4)
    check(scores[..., None], reference("hrnet", f"{size}_maxvals"), atol=0)


@over_sizes
def test_heatmap_flip(reference: Reference, size: str) -> None:
    heatmaps = reference("hrnet", f"{size}_hm")
    fused = (heatmaps + make("heatmap", size).flip((heatmaps,))[0]) / 2
    expected = reference("hrnet", f"{size}_flip_fused_shift")
    check(fused[: len(expected)], expected, atol=0)


@over_sizes
@pytest.mark.parametrize("kernel", [3, 7, 11])
@pytest.mark.parametrize("published", [True, False])
def test_dark(reference: Reference, size: str, kernel: int, published: bool) -> None:
    """On these maps no step is refused or cut, so both forms agree."""
    keypoints, _ = decode_dark(reference("dark", f"{size}_hm"), kernel, published)
    check(keypoints, reference("dark", f"{size}_coords_k{kernel}"))


@pytest.mark.parametrize("size", SIZES[:2])
@pytest.mark.parametrize("kernel", [3, 7, 11])
def test_dark_blur(reference: Reference, size: str, kernel: int) -> None:
    found, expected = smooth(reference("dark", f"{size}_hm"), kernel), reference("dark", f"{size}_blur_k{kernel}")
    assert torch.isfinite(found).all()
    undefined = torch.isnan(expected)
    assert (found[undefined] == 0).all()  # the flat-zero map: published 0 / 0
    check(torch.where(undefined, 0.0, found), torch.where(undefined, 0.0, expected), atol=1e-6)


@over_sizes
def test_udp_gaussian_as_released(reference: Reference, size: str) -> None:
    codec = make("udp_gaussian", size, preset="published")
    keypoints, _ = codec.decode((reference("udp", f"{size}_hm"),))
    expected = reference("udp", f"{size}_gauss_coords")
    assert torch.isnan(expected).any()
    check(keypoints, expected)


@over_sizes
def test_udp_gaussian_ours_is_the_released_one_where_that_one_is_sound(reference: Reference, size: str) -> None:
    heatmaps, expected = reference("udp", f"{size}_hm"), reference("udp", f"{size}_gauss_coords")
    found, _ = decode_gaussian(heatmaps, 7)
    start = find_peaks(heatmaps).coordinates()
    rows, columns = heatmaps.shape[-2:]
    step = (expected - start).abs().amax(-1)
    on_map = ((expected >= 0) & (expected <= torch.tensor([columns - 1, rows - 1]))).all(-1)
    sound = (step < 1) & on_map
    assert sound.float().mean() > 0.7
    same = (found - expected).abs().amax(-1) < 2e-3
    unmoved = (found == start).all(-1)  # no parabola with a top: the released step leads to a saddle
    assert (same | unmoved)[sound].all()
    assert same[sound].float().mean() > 0.95
    assert torch.isfinite(found).all()
    assert ((found - start).abs() <= 1).all()


@over_sizes
@pytest.mark.parametrize("radius", [4.0, 3.5])
def test_udp_offset(reference: Reference, size: str, radius: float) -> None:
    combined = reference("udp", f"{size}_offset_net")
    keypoints, scores = decode_offset(combined, radius, 15, 7)
    check(scores[..., None], reference("udp", f"{size}_offset_maxvals_kpd{radius}"), atol=1e-6)
    found = make("udp_offset", size).geometry.heatmap_to_crop(keypoints)
    expected = reference("udp", f"{size}_offset_in_input_kpd{radius}")
    equal = (found - expected).abs().amax(-1) < 1e-3
    # Symmetric maps have two highest cells once blurred, between which rounding decides
    highest = blur(combined.unflatten(1, (-1, 3))[:, :, 0], 15, "reflect").flatten(2).topk(2).values
    tied = highest[..., 0] - highest[..., 1] <= 1e-6 * highest[..., 0]
    assert (equal | tied).all()
    assert (~equal).sum() <= 4


@pytest.mark.parametrize("size", SIZES[:2])
def test_udp_offset_flip(reference: Reference, size: str) -> None:
    combined = reference("udp", f"{size}_offset_net")
    fused = (combined + make("udp_offset", size).flip((combined,))[0]) / 2
    expected = reference("udp", f"{size}_offset_fused")
    check(fused[: len(expected)], expected, atol=0)


@over_sizes
def test_cal(reference: Reference, size: str) -> None:
    codec = make("cal", size, preset="published_w32")
    keypoints, scores = codec.decode((reference("cal", f"{size}_hm"), reference("cal", f"{size}_om")))
    check(to_image(codec, keypoints, reference, "cal", size), reference("cal", f"{size}_cal_preds_locref1.5"), atol=1e-4)
    check(scores[..., None], reference("cal", f"{size}_cal_maxvals"), atol=0)


@over_sizes
def test_cal_flip(reference: Reference, size: str) -> None:
    outputs = reference("cal", f"{size}_hm"), reference("cal", f"{size}_om")
    mirrored = make("cal", size).flip(outputs)
    for key, upright, aligned in zip(("flip_hm", "flip_om"), outputs, mirrored, strict=True):
        expected = reference("cal", f"{size}_{key}")
        check(((upright + aligned) / 2)[: len(expected)], expected, atol=1e-7)
