"""Small videos, a model with random weights, and what `farpose predict` made of them."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from components.models import zoo
from components.models.weights import save_weights
from components.registry import store
from pipelines import videos

VARIANTS = functools.cache(zoo.load_variants)
NAME = "dark_hrnet_tiny_synthetic_64x48"
FPS, FRAMES, WIDTH, HEIGHT = 12.5, 30, 96, 64
CODECS = {".mp4": "mp4v", ".avi": "XVID", ".mkv": "mp4v", ".mov": "mp4v", ".webm": "VP80"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    model = zoo.network(zoo.variant(NAME)).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter)
    save_weights(folder / NAME / "model.safetensors", model, {"variant": NAME})
    return folder / NAME / "model.safetensors"


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.setattr(store, "exists", lambda: False)
    monkeypatch.setattr(zoo, "load_variants", VARIANTS)  # reading every table takes half a second
    monkeypatch.setenv("FARPOSE_DEVICE", "cpu")


def asked(weights: Path, out: Path, *inputs: Path | str, options: tuple[str, ...] = ()) -> list[str]:
    given = ["--variant", NAME, "--weights", str(weights), "--whole-image", "--output", str(out)]
    return ["predict", *map(str, inputs), *given, *options]


def pixels(index: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A frame whose upper left corner is light and whose grey level tells its number."""
    image = np.full((height, width, 3), 40 + 5 * (index % 30), np.uint8)
    image[: height // 4, : width // 4] = 250
    return image


def film(path: Path, codec: str | None = None, frames: int = FRAMES, size: tuple[int, int] = (WIDTH, HEIGHT), fps: float = FPS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with videos.quiet():
        fourcc = cv2.VideoWriter.fourcc(*(codec or CODECS[path.suffix]))
        writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, fps, size)
        for index in range(frames):
            writer.write(pixels(index, *size))
        writer.release()
    return path


def read(path: Path) -> tuple[list[np.ndarray], float]:
    capture, frames = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG), []
    while (frame := capture.read())[0]:
        frames.append(frame[1])
    return frames, capture.get(cv2.CAP_PROP_FPS)


def records(out: Path) -> list[dict]:
    return json.loads((out / "predictions.json").read_text())


def images(out: Path) -> dict[str, dict]:
    return json.loads((out / "images.json").read_text())


def error_of(capfd) -> str:
    """The only line on standard error, FFmpeg's and OpenCV's own words included."""
    error = capfd.readouterr().err
    assert error.startswith("farpose: error: ") and error.count("\n") == 1 and "not foreseen" not in error, error
    return error
