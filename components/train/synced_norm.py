"""Batch norm whose means and variances are those of the whole batch, over all processes (Peng et al. 2018, "MegDet", section 3.4).

torch has one for GPUs alone. This one runs wherever the processes can talk, so that a test can compare it with one process.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the images of all processes; in evaluation it is that."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x = input if input.dtype == torch.float64 else input.float()  # sums of many bf16 values lose too much
        pixels = input.numel() // input.shape[1]
        ones = x.new_full((1,), float(pixels))
        sums = _Summed.apply(torch.cat([x.sum((0, 2, 3)), ones]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = x - mean[:, None, None]
        variance = _Summed.apply(centred.square().sum((0, 2, 3))) / count
        self._follow(mean.detach(), variance.detach() * count / (count - 1))
        normed = centred * (variance + self.eps).rsqrt()[:, None, None]
        if self.affine:
            normed = normed * self.weight[:, None, None] + self.bias[:, None, None]
        return normed.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics as `nn.BatchNorm2d` does; its variance is the unbiased one."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 1 / self.num_batches_tracked.float() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class _Summed(torch.autograd.Function):
    """The sum of a tensor over the processes; its gradient is the sum of theirs, because each has a part of the loss."""

    @staticmethod
    def forward(context: Any, own: Tensor) -> Tensor:
        total = own.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        return total


def sync_batch_norms(model: nn.Module) -> None:
    """Make every `nn.BatchNorm2d` of a network one over all processes; names and state stay."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncedBatchNorm2d
