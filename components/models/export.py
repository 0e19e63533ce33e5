"""A variant's network as one ONNX file, and a check, in px, that ONNX Runtime finds the same joints of the same persons with it.

The file holds only the network, which outputs raw maps; decoding and grouping stay with the codec.

torch has two exporters. Measured on HRNet-W32 at 64x48 (2 shared CPU cores, torch 2.15, onnxruntime 1.31), both give files of
the same size (114 and 116 MB) that ONNX Runtime runs equally fast (11.5 and 11.2 ms an image; 400 and 404 ms a batch of 64) and
that are equally near to torch's outputs. The older one, which records one run, takes 3 s; the newer one, `dynamo=True`, takes
24 s and needs onnxscript. So the older one is used, which takes every network here. What a recording can get wrong, a batch size
written into the graph, is what `compare` would show: it runs other batch sizes than the recorded one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from components.base.errors import FarposeError
from components.base.files import atomic_file
from components.codecs.codec import Codec, Outputs
from components.degrade.augment import normalise
from components.models.variant import Variant

OPSET = 17
LIMIT_PX = 0.01  # px of the input by which a joint may move
LIMIT_ROUNDING = 4.0  # times torch's own rounding errors by which an output may differ
LAST_BITS = 2e-6  # how much `rounding_errors` changes a normalised pixel, which is about 1: 16 units of float32's last place
RUNS, NUDGES = 3, 12  # how often the network is run with other last bits, and its outputs are decoded with rounding errors added
TRACED_BATCH = 2  # not 1, which would broadcast unseen

Network = Callable[[Tensor], Outputs]


@dataclass(frozen=True)
class Joints:
    """The persons of one input: keypoints (N, K, 2) in px of it, and which joints were found, (N, K) bool."""

    keypoints: np.ndarray
    found: np.ndarray


Reader = Callable[[Codec, Outputs, Tensor], list[Joints]]  # (codec, outputs, normalised inputs) → the persons of each input


@dataclass(frozen=True)
class Form:
    """How a variant's file is written and its outputs are decoded.

    Attributes:
        read: decodes a network's outputs to joints.
        fit: an input (3, H, W) as the file takes it.
        about: stored in the file with the variant's name.
        any_size: the sides of the input are dynamic axes, as its batch is.
        batch_size: inputs of one size that are run together.
    """

    read: Reader
    fit: Callable[[np.ndarray], np.ndarray]
    about: Mapping[str, str]
    any_size: bool = False
    batch_size: int = 64


@dataclass(frozen=True)
class Difference:
    """How far ONNX Runtime's joints lie from torch's.

    Attributes:
        px: largest distance of a joint, px of the input, over the joints that float32 decides.
        rounding: largest difference of an output, in units of torch's own rounding errors.
        joints: how many were compared.
        undecided: how many of them float32 does not decide, see `ties`.
    """

    px: float
    rounding: float
    joints: int
    undecided: int

    @property
    def within_limits(self) -> bool:
        return self.px <= LIMIT_PX and self.rounding <= LIMIT_ROUNDING

    def __str__(self) -> str:
        decided = f"{self.px:.2g} px of the input over {self.joints - self.undecided} joints"
        ties = f" ({self.undecided} more lie on a tie)" if self.undecided else ""
        return f"{decided}{ties}, outputs {self.rounding:.2g} times torch's own rounding errors"


def exported_form(variant: Variant) -> Variant:
    """The variant as it is exported, where a recorded graph cannot hold all of its behaviour."""
    return variant.record.exported(variant)


def to_onnx(
    model: nn.Module,
    input_size: tuple[int, int],
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
    any_size: bool = False,
) -> None:
    """Write the network in eval mode as one ONNX file with its weights inside, whole or not at all.

    Input `images` (B, 3, H, W) float32, normalised by ImageNet's mean and deviation, of any batch size; outputs `output_0`, …
    as the model gives them.

    Args:
        input_size: (height, width), px.
        metadata: kept in the file's `metadata_props`.
        any_size: make the input's sides dynamic axes too, for networks that take whole images.
    """
    import onnx

    device = next(model.parameters()).device
    images = torch.zeros(TRACED_BATCH, 3, *input_size, device=device)
    was_training = model.training
    with torch.no_grad():
        outputs = [f"output_{i}" for i in range(len(model.eval()(images)))]
    with atomic_file(path) as temporary:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about shapes that are recorded as constants; `compare` sees whether that matters
            torch.onnx.export(
                model,
                (images,),
                str(temporary),
                dynamo=False,
                opset_version=OPSET,
                input_names=["images"],
                output_names=outputs,
                dynamic_axes={name: _open_axes(name, any_size) for name in ("images", *outputs)},
            )
        graph = onnx.load(temporary)
        onnx.helper.set_model_props(graph, dict(metadata or {}))
        onnx.checker.check_model(graph)
        onnx.save(graph, temporary)
    model.train(was_training)


def _open_axes(name: str, any_size: bool) -> dict[int, str]:
    sides = {2: f"{name}_height", 3: f"{name}_width"} if any_size else {}
    return {0: "batch", **sides}


def runtime(path: str | Path, threads: int | None = None) -> Network:
    """The network of an ONNX file on ONNX Runtime's CPU provider, called as the torch module is.

    Args:
        threads: as many as torch uses unless given.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(output) for output in session.run(None, {"images": images.numpy()}))

    return run


def compare(model: nn.Module, codec: Codec, path: str | Path, inputs: Sequence[np.ndarray], form: Form) -> Difference:
    """Decode persons from torch's outputs and from ONNX Runtime's for the same inputs, on the CPU.

    A joint that belongs to another person, or a person more or less, counts as infinitely far away.

    Args:
        inputs: (3, H, W) uint8 RGB of any sizes; those of one size run in batches.
    """
    model, run = model.eval().cpu(), runtime(path)
    moved, tied, ratio = [np.zeros(0)], [np.zeros(0, bool)], 0.0
    with torch.inference_mode():
        for batch in _by_size(inputs):
            ours, theirs = (in_batches(network, batch, form.batch_size) for network in (model, run))
            errors = rounding_errors(model, batch, ours, form.batch_size)
            ratio = max(ratio, *(float((largest(a - b) / e).max()) for a, b, e in zip(ours, theirs, errors, strict=True)))
            expected, found = (form.read(codec, outputs, batch) for outputs in (ours, theirs))
            for mine, other, tie in zip(expected, found, ties(codec, ours, errors, batch, form.read), strict=True):
                distances = distances_px(mine, other)
                compared = ~np.isnan(distances)
                moved.append(distances[compared])
                tied.append(np.broadcast_to(tie if tie.shape == distances.shape else tie.ndim == 0, distances.shape)[compared])
    every, undecided = np.concatenate(moved), np.concatenate(tied)
    return Difference(float(every[~undecided].max(initial=0.0)), ratio, len(every), int(undecided.sum()))


def distances_px(first: Joints, second: Joints) -> np.ndarray:
    """(N, K) distances of the joints of two decodings of one input, person by person.

    Infinite where only one of them has the joint, and everywhere if their numbers of persons differ (N is then the larger one);
    NaN where neither has it.
    """
    if len(first.found) != len(second.found):
        return np.full(max(first.found.shape, second.found.shape), np.inf)
    with np.errstate(invalid="ignore"):
        distances = np.linalg.norm(first.keypoints - second.keypoints, axis=-1)
    return np.where(first.found & second.found, distances, np.where(first.found | second.found, np.inf, np.nan))


def ties(codec: Codec, outputs: Outputs, errors: Outputs, inputs: Tensor, read: Reader) -> list[np.ndarray]:
    """For each input, which joints move by more than the limit when rounding errors are added to torch's own outputs:
    (N, K) bool, or a scalar True where these errors change the number of persons.

    Two cells may differ only in their last bits, or a slope that decides a quarter of a cell may be zero: the order of additions
    then decides, which says nothing about the file. A wrong file cannot hide here, because outputs
    that differ by more than LIMIT_ROUNDING errors are refused whatever the joints do.

    Args:
        errors: (B,) for each output, see `rounding_errors`.
    """
    generator = torch.Generator().manual_seed(0)
    expected = read(codec, outputs, inputs)
    tied = [np.zeros(persons.found.shape, bool) for persons in expected]
    for _ in range(NUDGES):
        noise = [2 * torch.rand(output.shape, generator=generator) - 1 for output in outputs]
        nudged = tuple(a + e.view(-1, *[1] * (a.ndim - 1)) * n for a, e, n in zip(outputs, errors, noise, strict=True))
        for i, persons in enumerate(read(codec, nudged, inputs)):
            same = tied[i].ndim and len(persons.found) == len(expected[i].found)
            tied[i] = tied[i] | (distances_px(expected[i], persons) > LIMIT_PX) if same else np.array(True)
    return tied


def rounding_errors(model: Network, images: Tensor, outputs: Outputs, batch_size: int) -> tuple[Tensor, ...]:
    """(B,) for each output: how far it moves when the input changes in its last bits, a measure of float32's own errors.

    Deep networks amplify rounding by factors that differ between them: random HRNets show 1e-5 of the output's standard
    deviation, random ResNet-50s 5e-4, and ONNX Runtime differs from torch by 0.5 to 0.7 times what is measured here. A choice
    between equals inside the network (SHaRPose's patches) shows up as one crop's large error. The least is what additions in
    another order cost, a few units of the output's last place.
    """
    generator = torch.Generator().manual_seed(0)
    errors = [torch.zeros(len(output)) for output in outputs]
    for _ in range(RUNS):
        noise = LAST_BITS * (2 * torch.rand(images.shape, generator=generator) - 1)
        moved = in_batches(model, images + noise, batch_size)
        errors = [error.maximum(largest(a - b)) for error, a, b in zip(errors, outputs, moved, strict=True)]
    least = [4 * torch.finfo(torch.float32).eps * largest(output).clamp_min(1e-30) for output in outputs]
    return tuple(torch.stack([error, error.median().expand_as(error), last]).amax(0) for error, last in zip(errors, least, strict=True))


def in_batches(network: Network, images: Tensor, batch_size: int) -> Outputs:
    """The outputs for all images; the first goes alone, so that two further batch sizes than the recorded one are run."""
    batches = [network(batch) for batch in (images[:1], *images[1:].split(batch_size)) if len(batch)]
    return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))


def largest(difference: Tensor) -> Tensor:
    """(B,) largest absolute value for each image."""
    return difference.abs().flatten(1).amax(1)


def _by_size(inputs: Sequence[np.ndarray]) -> Iterator[Tensor]:
    """Normalised batches (B, 3, H, W) of the inputs of each size."""
    groups: dict[tuple[int, ...], list[np.ndarray]] = {}
    for one in inputs:
        groups.setdefault(one.shape, []).append(one)
    yield from (normalise(torch.from_numpy(np.stack(group))) for group in groups.values())


def export(
    model: nn.Module, codec: Codec, variant: Variant, path: str | Path, inputs: Sequence[np.ndarray], form: Form, origin: Mapping[str, str]
) -> Difference:
    """Write a trained network's ONNX file if the same joints are found with it.

    Args:
        inputs: (3, H, W) uint8 RGB to compare on, such as a shard's evaluation inputs.
        origin: what is known of the weights; stored in the file with the variant's name.
    Raises:
        FarposeError: the inputs do not fit the variant, the network cannot be recorded, no joint is found or all lie on ties, or a
            joint, a group or an output differs too much (names the numbers); then nothing is written.
    """
    seen = [form.fit(one) for one in inputs]
    about = {"variant": variant.name, "codec": variant.codec_name, **form.about, **origin}
    with atomic_file(path) as temporary:
        try:
            to_onnx(model, variant.input_size, temporary, about, form.any_size)
        except torch.onnx.errors.OnnxExporterError as error:
            raise FarposeError(f"torch cannot record this network: {error}", where=f"variant {variant.name}") from error
        found = compare(model, codec, temporary, seen, form)
        if not found.joints:
            problem, fix = "nobody is found in these inputs, so that nothing can be compared", "train the variant, or name other shards"
            raise FarposeError(problem, where=path, fix=fix)
        if found.undecided == found.joints:
            raise FarposeError("no joint can be compared: all lie on a tie", where=path, fix="train the variant: its outputs are flat")
        if not found.within_limits:
            problem = f"ONNX Runtime differs from torch: {found}; allowed are {LIMIT_PX} px and {LIMIT_ROUNDING:.0f} times the errors"
            raise FarposeError(problem, where=path, fix="nothing was written; report the variant and the versions (farpose doctor)")
    return found


def spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` of `count` rows, evenly: inputs to compare on."""
    rows: list[int] = np.unique(np.linspace(0, count - 1, min(wanted, count)).round().astype(int)).tolist()
    return rows
