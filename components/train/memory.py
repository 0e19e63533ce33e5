"""Too little memory for a batch: it is worked through in smaller parts instead."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from components.base.errors import FarposeError

# On a CPU torch has no error type of its own; the second is oneDNN's, which finds no room for a kernel.
CPU_ALLOCATOR, CPU_KERNELS = "DefaultCPUAllocator: can't allocate memory", "could not create a primitive"


class OutOfMemory(Exception):
    """A training step did not fit into the memory."""


@contextmanager
def noticed() -> Iterator[None]:
    """
    Raises:
        OutOfMemory: the block needs more memory than there is.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(str(error).splitlines()[0] if str(error) else "no memory is left") from error
    except RuntimeError as error:
        sign = next((sign for sign in (CPU_ALLOCATOR, CPU_KERNELS) if sign in str(error)), None)
        if sign is None:
            raise
        raise OutOfMemory(sign + str(error).split(sign)[1].split("\n")[0]) from error


def release() -> None:
    """Give back what a failed step held. The error that reported it must be gone, because its frames hold tensors."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@dataclass
class Passes:
    """Over how many micro-batches a step goes.

    Attributes:
        count: 1 until a batch did not fit.
    """

    count: int = 1

    def double(self, images: int, name: str, problem: str) -> None:
        """Halve the micro-batch and say so.

        Args:
            images: of one process in a batch.
            name: of the variant.
            problem: what the memory's owner said.
        Raises:
            FarposeError: there is one image per pass already.
        """
        if self.count >= images:
            fix = "use another device, a smaller network, or fewer other programs beside this one"
            raise FarposeError(f"not even one image at a time fits into the memory: {problem}", where=f"variant {name}", fix=fix)
        self.count = min(2 * self.count, images)
        most = -(-images // self.count)
        said = f"{images} images at a time do not fit into the memory; going on with at most {most}, and the same batches of the optimiser"
        print(f"{name}: {said} ({problem})", file=sys.stderr, flush=True)
