"""The error of a GPU whose memory is full."""

from __future__ import annotations

from components.base.errors import FarposeError
from pipelines import causes

KIND = "OutOfMemoryError"  # torch's; importing it to compare would take seconds


def named(error: BaseException) -> BaseException:
    """The error itself, or a FarposeError with the way out if a full GPU is behind it."""
    if not any(type(one).__name__ == KIND for one in causes.chain(error, suppressed=True)):
        return error
    fix = (
        "wait until the other jobs on it have ended (`nvidia-smi` lists them), use the CPU (FARPOSE_DEVICE=cpu), or make the batch smaller"
    )
    return FarposeError("the memory of the GPU is full", fix=fix)
