"""Training steps on a GPU, for every method family: recorded as eager, without a wait, in bf16, and resumed (`make test-gpu`).

Without pytest, `python -m benchmarks.gpu --check` asks the same. On a CPU, tests/test_recorded_step.py checks the mathematics.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_checks
from benchmarks.gpu_cases import Shards, cases

CASES = cases()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]
over_all = pytest.mark.parametrize("name", CASES)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return Shards(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def configured() -> Iterator[None]:
    """What the training loop sets for the whole process is set back."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic, torch.get_num_threads()
    yield
    cudnn.benchmark, cudnn.deterministic = before[:2]
    torch.set_num_threads(before[2])
    torch.use_deterministic_algorithms(False)


@over_all
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_recorded_step_trains_as_the_eager_one(name: str, precision: str, shards: Shards) -> None:
    apart = gpu_checks.graphed_equals_eager(CASES[name], shards, precision)
    assert apart.same, apart


@over_all
def test_a_step_never_waits_for_the_device(name: str, shards: Shards) -> None:
    gpu_checks.never_waits(CASES[name], shards)


@over_all
def test_bf16_is_near_single_precision(name: str, shards: Shards) -> None:
    apart = gpu_checks.bf16_to_fp32(name, CASES[name], shards)
    assert all(apart[loss] < bound for loss, bound in gpu_checks.bf16_bounds(name).items()), apart


@pytest.mark.parametrize("name", gpu_checks.RESUMED)
def test_an_interrupted_training_goes_on_with_the_same_curve(name: str, shards: Shards, tmp_path: Path) -> None:
    assert gpu_checks.resumes(CASES[name], shards, tmp_path) <= gpu_checks.TOLERANCE
