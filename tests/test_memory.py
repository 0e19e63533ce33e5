"""A batch that does not fit into the memory is worked through in parts; the optimiser's batch stays."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from components.base.errors import FarposeError
from components.base.files import read_json, sha256_of
from components.codecs import as_crop_codec
from components.models import zoo
from components.models.heads.plain import PlainPose
from components.train import loop, memory
from components.train import recipe as recipes
from components.train.memory import OutOfMemory, Passes
from components.train.optimiser import build_optimiser
from components.train.step import eager_step
from tests.test_train import CPU, tiny
from tests.tiny_shard import write_tiny_shard

RECIPE = dataclasses.replace(
    recipes.load(), epochs=2, batch_size=64, num_threads=1, validate_every=0, validate_on="val", checkpoint_seconds=0.0
)
MOBILE = "dark_fused_fpn_synthetic_64x48_x2"  # no batch norms


@pytest.fixture(scope="module")
def shard(tmp_path_factory) -> Path:
    return write_tiny_shard(tmp_path_factory.mktemp("tiny"), persons=64)


@pytest.mark.parametrize(("most", "passes"), [(40, 2), (20, 4), (1, 64)])
def test_too_little_memory_gives_the_weights_of_a_smaller_micro_batch(most, passes, shard, tmp_path, monkeypatch, capfd):
    """Of a network that finds room for `most` images, as a training with such micro-batches from the start."""
    forward = PlainPose.forward

    def limited(self, images):
        if self.training and len(images) > most:
            raise RuntimeError(f"[enforce fail at alloc_cpu.cpp:127] err == 0. {memory.CPU_ALLOCATOR}: you tried to allocate 4 bytes.")
        return forward(self, images)

    def trained(name: str, begun: Passes) -> Path:
        loop.train(tiny(), shard, tmp_path / name, RECIPE, "cpu", tmp_path / "checkpoints", passes=begun)
        return tmp_path / name

    roomy = trained("roomy", Passes(passes))
    monkeypatch.setattr(PlainPose, "forward", limited)
    begun = Passes()
    short = trained("short", begun)
    assert begun.count == passes and "64 images at a time do not fit into the memory; going on with at most" in capfd.readouterr().err
    for name in ("model.safetensors", "history.json", "summary.json"):
        assert sha256_of(short / name) == sha256_of(roomy / name), name
    summary = read_json(short / "summary.json")
    assert summary["passes"] == passes and summary["steps"] == 2, "the optimiser's batches are as large as before"


def test_torchs_own_error_of_too_little_memory_is_known():
    with pytest.raises(OutOfMemory, match="you tried to allocate"), memory.noticed():
        torch.empty(2**50, dtype=torch.uint8)


@pytest.mark.parametrize("passes", [2, 3, 64])
def test_the_gradients_of_micro_batches_add_up_to_that_of_the_batch(passes):
    """With a network without batch norms, and a loss that is a mean over the images."""
    after = []
    for count in (1, passes):
        torch.manual_seed(0)
        torch.set_num_threads(1)
        built = zoo.build(zoo.variant(MOBILE))
        codec, images = as_crop_codec(built.codec), torch.randn(5, 3, 64, 48, generator=torch.Generator().manual_seed(1))
        targets = codec.targets(torch.rand(5, 17, 2, generator=torch.Generator().manual_seed(2)) * 48, torch.ones(5, 17, dtype=torch.bool))
        model = built.model.train()
        step = eager_step(model, codec, build_optimiser(model, RECIPE, CPU, False), RECIPE, CPU, passes=count)
        losses = step(images, targets)
        after.append((losses["loss"], {name: parameter.grad for name, parameter in model.named_parameters()}))
    (loss, gradients), (other_loss, other_gradients) = after
    torch.testing.assert_close(other_loss, loss)
    largest = max(gradient.abs().max() for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            other_gradients[name], gradient, rtol=1e-4, atol=float(1e-6 * largest), msg=lambda text, name=name: f"{name}: {text}"
        )


def test_what_a_killed_run_learned_of_the_memory_is_kept(shard, tmp_path, monkeypatch):
    """A resumed training begins with the micro-batches that fitted."""
    seen = []

    def failing(*arguments, **keywords):
        seen.append(keywords.get("passes", arguments[-1]))
        step = eager_step(*arguments, **keywords)
        steps = iter(range(3 if len(seen) == 2 else 99))

        def run(images, targets, count=None):
            if len(seen) == 1:
                raise torch.OutOfMemoryError("no room")
            if next(steps, None) is None:
                raise KeyboardInterrupt
            return step(images, targets, count)

        return run

    monkeypatch.setattr(loop, "eager_step", failing)
    recipe = dataclasses.replace(RECIPE, batch_size=8, epochs=1)
    for ending in (pytest.raises(KeyboardInterrupt), None):
        if ending is None:
            loop.train(tiny(), shard, tmp_path / "model", recipe, "cpu", tmp_path / "checkpoints")
        else:
            with ending:
                loop.train(tiny(), shard, tmp_path / "model", recipe, "cpu", tmp_path / "checkpoints")
    assert seen == [1, 2, 2]


ERRORS = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB"),
    "python": MemoryError(),
    "onednn": RuntimeError(memory.CPU_KERNELS),
    "cpu": RuntimeError(f"[enforce fail at alloc_cpu.cpp:1] err == 0. {memory.CPU_ALLOCATOR}: you tried"),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_every_allocators_error_is_known(error):
    with pytest.raises(OutOfMemory), memory.noticed():
        raise error
    with pytest.raises(RuntimeError, match="something else"), memory.noticed():
        raise RuntimeError("something else")


def test_one_image_that_does_not_fit_is_one_clear_line(capfd):
    passes = Passes()
    for _ in range(3):
        passes.double(5, "v", "no room")
    assert passes.count == 5 and len(capfd.readouterr().err.splitlines()) == 3
    with pytest.raises(FarposeError, match="variant v: not even one image at a time fits into the memory: no room"):
        passes.double(5, "v", "no room")
