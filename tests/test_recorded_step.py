"""A recorded training step computes what the eager one computes, for every method family: on the CPU, with a recorder in CUDA's place.

On a GPU the same cases run in tests/test_gpu.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu_cases import STEPS, Case, Run, Shards, cases
from components import approaches
from components.models import zoo
from components.train import graphed, optimiser, step
from components.train.batches import Batches, step_seed
from components.train.checkpoint import Checkpoints, Progress
from components.train.graphed import GraphedStep
from tests import cpu_graph
from tests.host_waits import GPU, Copies, HostWaits, devices, on_fake_gpu, placed

CPU = torch.device("cpu")
CASES = cases()
# a crop and an image network, and one of each kind of state: batch norms, late losses, groups of rates, averages, a teacher
QUICK = {"cal_gmm", "layer_decay", "transpose", "average_and_clip", "centernet"}
over_all = pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CASES])


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return Shards(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def repeatable() -> Iterator[None]:
    """As the loop configures a CPU."""
    threads, fills = torch.get_num_threads(), torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]
    torch.set_num_threads(threads)


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name, value in one.items() if not torch.equal(value.float(), other[name].float())]


@over_all
def test_a_recorded_step_trains_as_the_eager_one(name: str, shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same bits after two epochs whose last batch is smaller, with rates and late losses that change after the recording."""
    cpu_graph.install(monkeypatch)
    eager, recorded = Run(CASES[name], shards, CPU), Run(CASES[name], shards, CPU, "graphed")
    assert isinstance(recorded.run, GraphedStep)
    assert recorded.losses() == eager.losses()
    assert differing(eager.state(), recorded.state()) == []


def test_a_number_that_python_decides_stays_in_a_recording(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above sees what it is for: rates that are no tensors, and a late loss whose weight is none."""
    cpu_graph.install(monkeypatch)
    eager = Run(CASES["transpose"], shards, CPU)
    own = optimiser.build_optimiser
    monkeypatch.setattr("benchmarks.gpu_cases.build_optimiser", lambda model, recipe, device, graphed: own(model, recipe, device, False))
    recorded = Run(CASES["transpose"], shards, CPU, "graphed")
    assert recorded.losses(3) != eager.losses(3)


def test_a_recording_leaves_everything_as_it_was(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a training, as after a resume: weights, statistics and moments are those before, and training goes on as without."""
    cpu_graph.install(monkeypatch)
    case = CASES["layer_decay"]
    eager, resumed = Run(case, shards, CPU), Run(case, shards, CPU)
    for run in (eager, resumed):
        run.optimiser = optimiser.build_optimiser(run.model, run.recipe, CPU, graphed=True)
        run.run = run.eager = step.eager_step(run.model, run.codec, run.optimiser, run.recipe, CPU)
        run.losses(2)
    before, example = resumed.state(), resumed.draw(2)
    resumed.run = GraphedStep(resumed.eager, resumed.model, resumed.optimiser, example.images, example.targets)
    assert differing(before, resumed.state()) == []
    assert eager.losses(STEPS - 2) == resumed.losses(STEPS - 2)
    assert differing(eager.state(), resumed.state()) == []


@pytest.mark.parametrize("forgotten", ["weights", "moments"])
def test_what_the_recording_changes_would_show(forgotten: str, shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the copy that brings back the weights or the moments, the recorded run is another one."""
    cpu_graph.install(monkeypatch)
    own = graphed._snapshot

    def partial(model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> Any:
        restore = own(model, optimiser)

        def restored() -> None:
            values = model.state_dict().values() if forgotten == "weights" else [v for s in optimiser.state.values() for v in s.values()]
            kept = [value.clone() for value in values]
            restore()
            for value, old in zip(values, kept, strict=True):
                value.copy_(old)

        return restored

    monkeypatch.setattr(graphed, "_snapshot", partial)
    eager, recorded = Run(CASES["transpose"], shards, CPU), Run(CASES["transpose"], shards, CPU, "graphed")
    assert eager.losses(3) != recorded.losses(3)


def test_a_recorded_run_resumes_from_its_checkpoint(shards: Shards, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A checkpoint holds counts of steps and moments as tensors on the device, which a new recording continues."""
    cpu_graph.install(monkeypatch)
    case = CASES["average_and_clip"]
    whole = Run(case, shards, CPU, "graphed")
    first = whole.losses(4)
    store = Checkpoints(tmp_path, "run", {}, seconds=3600.0)
    store.save(whole.model, whole.optimiser, Progress(step=4), whole.average)
    rest = whole.losses(STEPS - 4)
    resumed = Run(case, shards, CPU, "graphed")
    resumed.optimiser = optimiser.build_optimiser(resumed.model, resumed.recipe, CPU, graphed=True)
    resumed.done = store.resume(resumed.model, resumed.optimiser, resumed.average).step
    resumed.eager = step.eager_step(resumed.model, resumed.codec, resumed.optimiser, resumed.recipe, CPU)
    example = resumed.draw(resumed.done)
    resumed.run = GraphedStep(resumed.eager, resumed.model, resumed.optimiser, example.images, example.targets)
    assert resumed.done == 4 and resumed.losses(STEPS - 4) == rest != first
    assert differing(whole.state(), resumed.state()) == []


@over_all
def test_no_operator_of_a_step_makes_the_host_wait(name: str, shards: Shards) -> None:
    """Draw, forward, backward and optimiser, seen operator by operator; constants are on the device after the first steps."""
    run = Run(CASES[name], shards, CPU)
    run.losses(4)
    with HostWaits():
        run.step()  # the second of an epoch: the order of crops came with the first


@pytest.mark.parametrize(
    "wait", [lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: x.nonzero(), lambda x: x.repeat_interleave(x.long())]
)
def test_operators_that_wait_are_seen(wait: Any) -> None:
    with pytest.raises(AssertionError, match="waits for the device"), HostWaits():
        wait(torch.ones(3))


def drawn_on_a_fake_gpu(case: Case, shards: Shards, disturb: Any = lambda value: value) -> tuple[Any, list[tuple[str, tuple[int, ...]]]]:
    """Losses, batch and outputs of a second step on a GPU that is not there, and what it copied while the host waits."""
    recipe = case.recipe()
    feed = approaches.feed(case.variant.approach).open(case.variant, shards.of(case), recipe.validate_on)
    built = zoo.build(case.variant, feed.skeleton)
    with on_fake_gpu():
        model = placed(built.model).train()
        feed.place(built.codec, recipe, GPU)
        batches = Batches(len(feed), recipe.batch_size, recipe.seed, recipe.drop_last, GPU)

        def forward(number: int) -> Any:
            built.codec.progress(number / 2)
            batch = feed.draw(batches.indices(number), step_seed(0, number))
            outputs = tuple(output.float() for output in model(batch.images))
            return built.codec.loss(disturb(outputs), batch.targets), vars(batch), outputs

        forward(0)
        with Copies() as copies:
            found = forward(1)
    return found, copies.waiting


@over_all
def test_a_step_stays_on_the_device(name: str, shards: Shards) -> None:
    """On tensors of a GPU without numbers: no value is read, no operator mixes devices, and nothing is uploaded but the step's draws."""
    found, waiting = drawn_on_a_fake_gpu(CASES[name], shards)
    assert devices(found) == {"cuda"} and waiting == []


def test_a_step_that_leaves_the_device_is_seen(shards: Shards) -> None:
    case = CASES["transpose"]
    _, waiting = drawn_on_a_fake_gpu(case, shards, lambda outputs: (outputs[0] * torch.ones(17, 1, 1).to(GPU),))
    assert waiting == [("_to_copy", (17, 1, 1))]
    with pytest.raises(RuntimeError, match="devices"):
        drawn_on_a_fake_gpu(case, shards, lambda outputs: (outputs[0] * torch.ones(17, 1, 1),))
    with pytest.raises(Exception, match="_local_scalar_dense"):
        drawn_on_a_fake_gpu(case, shards, lambda outputs: (outputs[0] / outputs[0].max().item(),))


@over_all
def test_a_step_in_bf16_is_near_that_in_fp32(name: str, shards: Shards) -> None:
    """Losses within 0.5 %, and gradients of a common direction (cosine above 0.8): with random weights, rounding is much of the maps.

    CAL's mixture weights offsets by a covariance that it fits to the maps, which rounding moves by a tenth while they are noise, and
    the loss by less than 5 %; its heatmaps keep to 0.5 %.
    """
    single, half = (Run(CASES[name], shards, CPU, precision=precision) for precision in ("fp32", "bf16"))
    steps = [{key: value.item() for key, value in run.step().items()} for run in (single, half)]
    near = 0.05 if name == "cal_gmm" else 0.005
    assert steps[1]["loss"] == pytest.approx(steps[0]["loss"], rel=near) and steps[0]["loss"] != steps[1]["loss"]
    if name == "cal_gmm":
        assert steps[1]["heatmap_loss"] == pytest.approx(steps[0]["heatmap_loss"], rel=0.005)
    gradients = [torch.cat([value.grad.flatten() for value in run.model.parameters() if value.grad is not None]) for run in (single, half)]
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.8
    assert all(value.dtype == torch.float32 for value in half.model.parameters())


def test_precision_auto_is_bf16_on_a_gpu_alone() -> None:
    recipe = dataclasses.replace(CASES["heatmap"].recipe(), precision="auto")
    assert [step.precision_of(recipe, torch.device(kind)) for kind in ("cpu", "cuda")] == ["fp32", "bf16"]
