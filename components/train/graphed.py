"""The training step as one CUDA graph: recorded once, replayed with a single launch.

At 64x48 HRNet's step is some 2,700 small kernels, whose launches take longer than their work.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from components.base.errors import FarposeError
from components.codecs.codec import Targets
from components.train.step import Step

WARM_UP_STEPS = 3  # before recording: libraries choose their kernels, the optimiser makes its state


class GraphedStep:
    """A step that replays a recording of `step`; batches of another shape than the example's run `step` itself.

    Weights, batch norm statistics and optimiser state are after the recording as they were before it.

    Args:
        step: eager step, whose optimiser is capturable and holds its learning rate in a tensor.
        images: (B, 3, H, W) example on the GPU.
        targets: example of the codec's targets.
    Raises:
        FarposeError: the step cannot be recorded.
    """

    def __init__(self, step: Step, model: nn.Module, optimiser: Optimizer, images: Tensor, targets: Targets) -> None:
        self.eager = step
        self.images = images.clone(memory_format=torch.preserve_format)
        self.targets = {name: target.clone() for name, target in targets.items()}
        restore = _snapshot(model, optimiser)
        self.graph = torch.cuda.CUDAGraph()
        try:
            self.losses = self._record()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise FarposeError(
                f"the training step cannot be recorded as a CUDA graph: {str(error).splitlines()[0]}", fix="set cuda_graphs: never"
            ) from error
        restore()

    def __call__(self, images: Tensor, targets: Targets, count: int | None = None) -> dict[str, Tensor]:
        """Losses of one step; the tensors are overwritten by the next call."""
        if images.shape != self.images.shape:
            return self.eager(images, targets, count)
        self.images.copy_(images)
        for name, target in targets.items():
            self.targets[name].copy_(target)
        self.graph.replay()
        return self.losses

    def _record(self) -> dict[str, Tensor]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_STEPS):
                self.eager(self.images, self.targets)
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(self.graph):
            return self.eager(self.images, self.targets)


def _snapshot(model: nn.Module, optimiser: Optimizer) -> Callable[[], None]:
    """Copy all that a step changes; the returned function copies it back in place, because the recording holds addresses.

    Optimiser state that did not exist yet starts at zero.
    """
    tensors = dict(model.state_dict())
    weights = {name: tensor.clone() for name, tensor in tensors.items()}
    moments = {p: {key: value.clone() for key, value in state.items()} for p, state in optimiser.state.items()}

    @torch.no_grad()
    def restore() -> None:
        for name, tensor in tensors.items():
            tensor.copy_(weights[name])
        for parameter, state in optimiser.state.items():
            for key, value in state.items():
                value.copy_(moments[parameter][key]) if parameter in moments else value.zero_()

    return restore
