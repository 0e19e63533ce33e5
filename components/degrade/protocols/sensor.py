"""Protocol `sensor`: point spread, area reduction, noise and JPEG, as if a distant camera recorded the person."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from components.degrade.area import area_mean, to_uint8, upright_grid
from components.degrade.protocol import Protocol, View

if TYPE_CHECKING:
    from torch import Tensor

    from components.degrade.sample import Rendered


@dataclass(frozen=True)
class Camera:
    """The settings.

    Attributes:
        psf_sigma: standard deviation of the Gaussian point spread, target px.
        shot_noise: standard deviation of the signal-dependent noise at full scale, grey levels of 255.
        read_noise: standard deviation of the signal-independent noise, grey levels of 255.
        jpeg_quality: 1 (worst) to 100 (best), libjpeg's scale.
    """

    psf_sigma: float = 0.5
    shot_noise: float = 6.0
    read_noise: float = 2.0
    jpeg_quality: int = 75

    def __post_init__(self) -> None:
        if min(self.psf_sigma, self.shot_noise, self.read_noise) < 0:
            raise ValueError("psf_sigma, shot_noise and read_noise must not be negative")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality must be 1 to 100, got {self.jpeg_quality}")


class Sensor(Protocol):
    """Gaussian point spread, area mean, shot and read noise (in encoded grey levels), JPEG. No noise outside the image.

    The point spread acts on area means at twice the target's density, and leaves out the black outside the image.
    """

    name = "sensor"
    caption = "point spread, area mean, noise, JPEG"
    density = 4.0
    taps = 2
    oversampling = 2
    redraws = True
    settings = Camera

    def crop(self, image: np.ndarray, view: View, settings: Camera, seed: tuple[int, int, int]) -> np.ndarray:
        import torch

        step, start = upright_grid(view.image_to_crop)
        dense, padding = self.oversampling, self.padding(settings)
        fine = step[0] / dense, step[1] / dense
        first = tuple(start[axis] - step[axis] / 2 + (0.5 - padding) * fine[axis] for axis in (0, 1))
        size = dense * view.size[0] + 2 * padding, dense * view.size[1] + 2 * padding
        grid = area_mean(image, (first[0], first[1]), fine, size)
        inside = np.outer(*(_inside(first[axis], fine[axis], size[1 - axis], image.shape[1 - axis]) for axis in (1, 0)))
        planes = torch.from_numpy(np.ascontiguousarray(grid.transpose(2, 0, 1)))[None]
        clean, deviation = self._record(planes, torch.from_numpy(inside)[None, None], settings)
        noise = _generator(*seed).standard_normal((*view.size, 3)) * deviation[0].permute(1, 2, 0).numpy()
        noisy = to_uint8(clean[0].permute(1, 2, 0).numpy() + noise)
        _, encoded = cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, settings.jpeg_quality])
        return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))

    def padding(self, settings: Camera) -> int:
        return int(np.ceil(4 * settings.psf_sigma * self.oversampling))

    def degrade(self, rendered: Rendered, settings: Camera) -> Tensor:
        from components.degrade.jpeg import compress
        from components.degrade.render import normal_noise

        clean, deviation = self._record(rendered.grey_levels, rendered.inside(), settings)
        noise = normal_noise(rendered.keys, clean.shape[1:])
        return compress((clean + noise * deviation).round_().clamp_(0, 255), settings.jpeg_quality)

    def _record(self, planes: Tensor, inside: Tensor, settings: Camera) -> tuple[Tensor, Tensor]:
        """Clean targets (B, 3, h, w) of planes on the grid, and the standard deviation of their noise.

        Args:
            inside: (B, 1, H, W) 1 where the grid is inside the image, else 0.
        """
        import torch

        from components.degrade.render import spread_and_reduce

        lens = self.padding(settings), settings.psf_sigma * self.oversampling, self.oversampling
        seen = spread_and_reduce(torch.cat([planes * inside, inside.to(planes.dtype)], 1), *lens)
        share = spread_and_reduce(inside.to(planes.dtype), lens[0], 0.0, lens[2])  # of each target px that the image covers
        clean = seen[:, :3] / seen[:, 3:].clamp(min=1e-3) * share
        return clean, torch.sqrt(settings.shot_noise**2 / 255 * clean + settings.read_noise**2) * (share >= 0.5)


def _inside(start: float, step: float, count: int, length: int) -> np.ndarray:
    centres = start + step * np.arange(count)
    return (centres >= -0.5) & (centres <= length - 0.5)


def _generator(seed: int, image_id: int, annotation_id: int) -> np.random.Generator:
    """The generator of one crop's noise, which depends on neither the order nor the process in which crops are made."""
    identity = [seed, image_id % 2**64, annotation_id % 2**64]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(identity)))


PROTOCOL = Sensor()
