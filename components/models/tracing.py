"""The operations of a forward pass, noted without computing it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """One operation of a forward pass.

    Attributes:
        kind: convolution, deconvolution, linear, matmul, batch_norm, layer_norm, relu, pool, adaptive_pool, nearest or bilinear.
        inputs, outputs: shapes.
        weights: shapes of the layer's weight and bias, as far as it has them.
        products: multiply-adds of convolutions and matrix products as executed, 0 for other kinds.
        module: dotted name of the innermost module that runs it.
        is_layer: that module is a layer of torch.nn for this very operation, so that hooks on layers see it.
    """

    kind: str
    inputs: Shape
    outputs: Shape
    weights: tuple[Shape, ...] = ()
    products: int = 0
    module: str = ""
    is_layer: bool = False


def trace(model: nn.Module, input_size: tuple[int, int]) -> tuple[list[Call], int]:
    """Run the network in eval mode on one image without numbers (meta tensors), whatever the model's device.

    The published forward pass runs: `published_outputs` where the model has it.

    Args:
        input_size: (height, width), px.
    Returns:
        The operations in order, and the multiply-adds that torch's own counter sees.
    """
    published = _Published(model)
    state = {**dict(published.named_parameters()), **dict(published.named_buffers())}
    shapes = {name: torch.empty_like(value, device="meta") for name, value in state.items()}
    training, recorder = model.training, _Recorder(model)
    model.eval()
    try:
        with recorder.following(), FlopCounterMode(display=False) as counter, torch.no_grad(), recorder:
            functional_call(published, shapes, (torch.empty(1, 3, *input_size, device="meta"),))
    finally:
        model.train(training)
    return recorder.calls, counter.get_total_flops() // 2


class _Published(nn.Module):
    """A network whose forward pass is its published one."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        return getattr(self.network, "published_outputs", self.network)(images)


_LAYERS: dict[str, tuple[type[nn.Module], ...]] = {
    "convolution": (nn.Conv2d,),
    "deconvolution": (nn.ConvTranspose2d,),
    "linear": (nn.Linear,),
    "batch_norm": (nn.BatchNorm1d, nn.BatchNorm2d),
    "layer_norm": (nn.LayerNorm,),
    "relu": (nn.ReLU,),
    "pool": (nn.MaxPool2d, nn.AvgPool2d),
    "adaptive_pool": (nn.AdaptiveAvgPool2d,),
    "nearest": (nn.Upsample,),
    "bilinear": (nn.Upsample,),
}


class _Recorder(TorchFunctionMode):
    """Records every call of the functions in `_READERS` and the module that makes it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.model = model
        self.running: list[tuple[str, nn.Module]] = [("", model)]

    def __torch_function__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        named = kwargs or {}
        read = _READERS.get(getattr(function, "__name__", ""))
        inputs = tuple(args[0].shape) if read and isinstance(args[0], Tensor) else ()  # before the call: some work in place
        output = function(*args, **named)
        if read:
            name, module = self.running[-1]
            run = _Run(inputs, tuple(output.shape) if isinstance(output, Tensor) else (), args, named)
            for call in read(run):
                self.calls.append(replace(call, module=name, is_layer=isinstance(module, _LAYERS.get(call.kind, ()))))
        return output

    @contextmanager
    def following(self) -> Iterator[None]:
        """Keep the stack of running modules."""
        hooks = []
        for name, module in self.model.named_modules():
            hooks.append(module.register_forward_pre_hook(self._enter(name)))
            hooks.append(module.register_forward_hook(self._leave))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _enter(self, name: str) -> Callable[[nn.Module, Any], None]:
        return lambda module, inputs: self.running.append((name, module))

    def _leave(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        self.running.pop()


@dataclass(frozen=True)
class _Run:
    """A function's shapes and arguments."""

    inputs: Shape
    outputs: Shape
    args: tuple[Any, ...]
    named: Mapping[str, Any]

    def shape(self, position: int, name: str) -> Shape | None:
        value = self.args[position] if position < len(self.args) else self.named.get(name)
        return tuple(value.shape) if isinstance(value, Tensor) else None

    def weights(self, position: int) -> tuple[Shape, ...]:
        """Of the arguments `weight`, at this position, and `bias` after it."""
        return tuple(shape for shape in (self.shape(position, "weight"), self.shape(position + 1, "bias")) if shape is not None)


_Read = Callable[[_Run], list[Call]]


def _convolution(run: _Run) -> list[Call]:
    weights = run.weights(1)
    return [Call("convolution", run.inputs, run.outputs, weights, math.prod(run.outputs) * math.prod(weights[0][1:]))]


def _deconvolution(run: _Run) -> list[Call]:
    weights = run.weights(1)
    return [Call("deconvolution", run.inputs, run.outputs, weights, math.prod(run.inputs) * math.prod(weights[0][1:]))]


def _linear(run: _Run) -> list[Call]:
    weights = run.weights(1)
    return [Call("linear", run.inputs, run.outputs, weights, math.prod(run.inputs) * weights[0][0])]


def _matmul(run: _Run) -> list[Call]:
    return [Call("matmul", run.inputs, run.outputs, (), math.prod(run.outputs) * run.inputs[-1])]


def _einsum(run: _Run) -> list[Call]:
    equation, *operands = run.args
    terms = equation.replace(" ", "").split("->")[0].split(",")
    sizes = {letter: size for term, tensor in zip(terms, operands, strict=True) for letter, size in zip(term, tensor.shape, strict=True)}
    return [Call("matmul", tuple(operands[0].shape), run.outputs, (), math.prod(sizes.values()))]


def _attention(run: _Run) -> list[Call]:
    """Queries (…, L, E) with keys (…, S, E), then with values (…, S, V)."""
    keys = run.shape(1, "key") or ()
    scores = (*run.inputs[:-1], keys[-2])
    products = math.prod(scores)
    return [
        Call("matmul", run.inputs, scores, (), products * run.inputs[-1]),
        Call("matmul", scores, run.outputs, (), products * run.outputs[-1]),
    ]


def _multi_head_attention(run: _Run) -> list[Call]:
    """`nn.MultiheadAttention` on (L, B, E): four projections and two products. Its parts are not layers."""
    tokens, batch, width = run.inputs
    keys = run.shape(1, "key") or ()
    shapes = (run.inputs, keys, keys, run.inputs)
    projections = [Call("linear", shape, shape, ((width, width), (width,)), math.prod(shape) * width) for shape in shapes]
    scores = (batch, tokens, keys[0])
    products = math.prod(scores) * width
    return [*projections, Call("matmul", run.inputs, scores, (), products), Call("matmul", scores, run.inputs, (), products)]


def _normalisation(kind: str, weight: int) -> _Read:
    return lambda run: [Call(kind, run.inputs, run.outputs, run.weights(weight))]


def _elementwise(kind: str) -> _Read:
    return lambda run: [Call(kind, run.inputs, run.outputs)]


def _resizing(run: _Run) -> list[Call]:
    mode = run.args[3] if len(run.args) > 3 else run.named.get("mode", "nearest")
    return [Call(mode, run.inputs, run.outputs)]


_READERS: dict[str, _Read] = {  # by the functions' names
    "conv2d": _convolution,
    "conv_transpose2d": _deconvolution,
    "linear": _linear,
    "matmul": _matmul,
    "bmm": _matmul,
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
    "multi_head_attention_forward": _multi_head_attention,
    "batch_norm": _normalisation("batch_norm", 3),
    "layer_norm": _normalisation("layer_norm", 2),
    "relu": _elementwise("relu"),
    "relu_": _elementwise("relu"),
    "max_pool2d": _elementwise("pool"),
    "avg_pool2d": _elementwise("pool"),
    "adaptive_avg_pool2d": _elementwise("adaptive_pool"),
    "interpolate": _resizing,
}
