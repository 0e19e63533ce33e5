"""Training goes on past batches that teach nothing, and stops where many in a row do."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from components.base.errors import FarposeError
from components.codecs.codec import CropCodec
from components.degrade.augment import Augmenter
from components.train.guard import MOST_BARREN, Guard
from components.train.loop import train
from tests.codecs.cases import CASES, NUM_KEYPOINTS, Case
from tests.test_train import SHORT, tiny
from tests.tiny_shard import write_tiny_shard

GOOD = torch.tensor(1.0)


def guarded(supervised: list[bool], losses: dict[int, float] | None = None, first: int = 0) -> Guard:
    guard = Guard(torch.device("cpu"), lambda step: f"persons of step {step}")
    for step, teaches in enumerate(supervised, start=first):
        guard.observe(step, torch.tensor((losses or {}).get(step, 1.0)), torch.tensor(teaches))
    return guard


def plainly(supervised: list[bool]) -> int | None:
    """The first step of the first row of `MOST_BARREN` barren ones."""
    text = "".join("x" if teaches else "." for teaches in supervised)
    at = text.find("." * MOST_BARREN)
    return None if at < 0 else at


@pytest.mark.parametrize("seed", range(6))
def test_the_first_long_row_is_found_whenever_it_is_looked_for(seed: int) -> None:
    draws = torch.rand(400, generator=torch.Generator().manual_seed(seed))
    supervised = (draws < 0.2 if seed % 2 else draws < 0.01).tolist()
    expected = plainly(supervised)
    guard = guarded(supervised)
    if expected is None:
        guard.check()
        return
    with pytest.raises(FarposeError, match=rf"^training step {expected}: no labelled joint .*in a row.*persons of step {expected}\)"):
        guard.check()


@pytest.mark.parametrize("count", [1, MOST_BARREN - 1, MOST_BARREN])
def test_a_row_stops_at_its_length(count: int) -> None:
    guard = guarded([True] * 3 + [False] * count + [True] * 3)
    if count < MOST_BARREN:
        assert guard.conclude() == f"{count} of {count + 6} steps taught nothing: no labelled joint lay inside a crop of their batch"
    else:
        with pytest.raises(FarposeError, match=r"training step 3: .*100 batches in a row"):
            guard.conclude()


def test_a_training_that_teaches_nothing_at_all_is_refused() -> None:
    with pytest.raises(FarposeError, match="training step 0: no labelled joint lies inside any crop of the batch, nor of any other"):
        guarded([False] * 4).conclude()
    assert guarded([True] * 4).conclude() == "" and "4 of 4" in guarded([False] * 4, first=90).conclude()  # a resumed one taught before


def test_a_loss_that_is_not_finite_stops_at_once() -> None:
    with pytest.raises(FarposeError, match=r"training step 2: the loss is not finite \(persons of step 2\)"):
        guarded([True, True, False, True], {2: float("nan"), 3: float("inf")}).check()


def losses_of(codec: CropCodec, visible: Tensor) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    height, width = codec.geometry.input_size
    keypoints = torch.rand(2, NUM_KEYPOINTS, 2, generator=generator) * torch.tensor([width - 1.0, height - 1.0])
    perfect = codec.perfect(codec.targets(keypoints, torch.ones_like(visible)))
    outputs = tuple((output + 0.1 * torch.rand(output.shape, generator=generator)).requires_grad_() for output in perfect)
    found = codec.loss(outputs, codec.targets(keypoints, visible))
    found["loss"].backward()
    found["gradients"] = torch.cat([output.grad.ravel() for output in outputs if output.grad is not None])
    return found


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_batch_without_a_joint_has_a_finite_loss_and_gradient(case: Case) -> None:
    for value in losses_of(case.build("64x48"), torch.zeros(2, NUM_KEYPOINTS, dtype=torch.bool)).values():
        assert value.isfinite().all()


@pytest.mark.parametrize("barren", [0, 2])
def test_training_goes_on_past_a_barren_batch_and_says_so(
    barren: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shard, drawn = write_tiny_shard(tmp_path / "tiny", persons=8), []
    draw = Augmenter.apply

    def blinding(self: Augmenter, crops: object, indices: Tensor, draws: Tensor) -> object:
        batch = draw(self, crops, indices, draws)
        drawn.append(draws)
        return dataclasses.replace(batch, visible=torch.zeros_like(batch.visible)) if len(drawn) <= barren else batch

    monkeypatch.setattr(Augmenter, "apply", blinding)
    summary = train(tiny("udp_offset"), shard, tmp_path / "model", SHORT, "cpu", tmp_path / "checkpoints")
    assert summary["steps"] == len(drawn) and (tmp_path / "model" / "model.safetensors").is_file()
    assert (f"{barren} of {summary['steps']} steps taught nothing" in capfd.readouterr().err) == (barren > 0)
