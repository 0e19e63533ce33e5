"""Parts of a start that training leaves as they are."""

from __future__ import annotations

from typing import Self

from torch import nn

from components.base.errors import FarposeError, unknown_name


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` that keeps to its running statistics in training too."""

    def train(self, mode: bool = True) -> Self:
        return super().train(False)


def freeze(model: nn.Module, modules: tuple[str, ...], where: str) -> None:
    """Keep the weights and statistics of these modules: a step neither changes them nor computes gradients for them.

    The modules next to the images save most: where nothing before a convolution is trained, no gradient goes further back.

    Args:
        modules: names of modules of the network, such as "backbone.blocks.0".
        where: named in errors.
    Raises:
        FarposeError: the network has no such module (names one like it, or those beside it), or nothing is left to train.
    """
    known = dict(model.named_modules())
    for name in modules:
        if name not in known or not name:
            above = name.rpartition(".")[0]
            beside = [other for other in known if other and other.rpartition(".")[0] == (above if above in known else "")]
            raise unknown_name("module", name, beside, where=f"{where}: frozen")
        known[name].requires_grad_(False)
        for module in known[name].modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = FrozenBatchNorm2d
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise FarposeError("no weight is left to train", where=f"{where}: frozen", fix="name fewer modules")
