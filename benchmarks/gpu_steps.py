"""What `benchmarks.gpu` times: a variant's training step on shards of COCO's size in the device's memory, and the least it could take."""

from __future__ import annotations

import dataclasses
import gc
import math
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks import report
from components.codecs import as_crop_codec, as_image_codec
from components.codecs.codec import Codec, Targets
from components.degrade.augment import Augmenter
from components.degrade.augment_images import ImageAugmenter
from components.degrade.image_shards import COUNTED_FULLY, TrainImages
from components.degrade.shards import TrainCrops
from components.models import zoo
from components.models.tracing import trace
from components.models.variant import Variant
from components.pose.skeleton import COCO_17
from components.train.batches import Batches, step_seed
from components.train.graphed import GraphedStep
from components.train.optimiser import build_optimiser
from components.train.recipe import Recipe
from components.train.step import Step, autocast, eager_step

PERSONS, IMAGES, EPOCHS = 149_813, 56_599, 210  # annotated persons of COCO train2017 and their images; the published schedule
CROP_SIDES = (216, 162)  # height and width of a stored crop, px: a person of medium size with its margin
IMAGE_SIDES = (480, 640)  # of a stored whole image
MOST_IMAGES = 16_000  # 20 GB; all of them would not fit beside a training
PEOPLE_PER_IMAGE = 13  # the most persons of any image decide how many each batch has room for
CHUNK = 2**28  # pixels that are drawn at once
BYTES_BF16 = 2
PASSES = {"convolutions": 15, "tokens": 3}  # over the convolutions' outputs; over what a transformer keeps for its backward pass
TURN_SECONDS = 1.0  # of each timed turn, at least a few steps
Kind = Literal["eager", "graphed", "model", "compiled", "compiled_graphed"]
Shard = TrainCrops | TrainImages


def synthetic_crops(count: int, device: torch.device) -> TrainCrops:
    """Random crops as a shard of protocol `direct` holds them, with joints inside."""
    height, width = CROP_SIDES
    box = torch.tensor([96.0, 128.0], dtype=torch.float64)
    common = _stored(count, height, width, 3, box * 0.8, (17, 2), device)
    center = torch.tensor([width / 2, height / 2], dtype=torch.float64, device=device).repeat(count, 1)
    size = box.to(device).repeat(count, 1)
    ids = torch.arange(count, device=device)
    return TrainCrops(**common, center=center, size=size, annotation_id=ids, margin_scale=1.35, input_size=(0, 0))


def synthetic_images(count: int, device: torch.device) -> TrainImages:
    """Random whole images of protocol `direct`, each full of people."""
    height, width = IMAGE_SIDES
    span = torch.tensor([0.9 * width, 0.9 * height], dtype=torch.float64)
    common = _stored(count, height, width, 4, span, (PEOPLE_PER_IMAGE, 17, 2), device)
    common["keypoints_image"] = common["keypoints_image"].float()
    size = torch.tensor([width, height], device=device).repeat(count, 1)
    return TrainImages(**common, image_size=size, input_size=(0, 0))


def _stored(
    count: int, height: int, width: int, channels: int, span: Tensor, joints: tuple[int, ...], device: torch.device
) -> dict[str, Any]:
    """The columns that crops and images share; joints are uniform in a window `span` in the middle."""
    generator = torch.Generator(device).manual_seed(0)
    pixels = torch.empty(count * height * width, dtype=torch.int32, device=device)
    for part in pixels.split(CHUNK):
        part.random_(0, 2**24, generator=generator)
        if channels == 4:
            part += COUNTED_FULLY << 24
    middle = torch.tensor([width / 2, height / 2], dtype=torch.float64, device=device)
    drawn = torch.rand(count, *joints, generator=generator, dtype=torch.float64, device=device) - 0.5
    return {
        "pixels": pixels,
        "offset": torch.arange(count, device=device) * height * width,
        "height": torch.full((count,), height, dtype=torch.int32, device=device),
        "width": torch.full((count,), width, dtype=torch.int32, device=device),
        "image_to_stored": torch.eye(2, 3, dtype=torch.float64, device=device).repeat(count, 1, 1),
        "keypoints_image": middle + drawn * span.to(device),
        "visible": torch.ones(count, *joints[:-1], dtype=torch.bool, device=device),
        "image_id": torch.arange(count, device=device),
        "skeleton": COCO_17,
        "protocol": "direct",
        "settings": None,
    }


class Trainee:
    """A variant in training, step by step, on a shard in the device's memory.

    Args:
        kind: "eager"; "graphed", a CUDA graph of the whole step; "model", forward and backward alone on one fixed batch, as a CUDA
            graph where there are such; "compiled", torch.compile(mode="reduce-overhead") of the network; "compiled_graphed", the
            compiled network inside a CUDA graph of the whole step.
    """

    def __init__(self, variant: Variant, recipe: Recipe, shard: Shard, kind: Kind) -> None:
        torch.manual_seed(recipe.seed)
        device = shard.device
        built = zoo.build(variant)
        self.recipe, self.kind, self.done = recipe, kind, 0
        self.shard: Any = dataclasses.replace(shard, input_size=variant.input_size)
        self._draw = _drawing(built.codec, recipe, variant)
        model = built.model.to(device).to(memory_format=torch.channels_last).train()
        recorded = device.type == "cuda" and kind in ("graphed", "model", "compiled_graphed")
        optimiser = build_optimiser(model, recipe, device, graphed=recorded and kind != "model")
        network: Any = model
        if kind.startswith("compiled"):
            network = torch.compile(model, mode="reduce-overhead" if kind == "compiled" else None)
        self.batches = Batches(len(shard), recipe.batch_size, recipe.seed, True, device)
        self.images, self.targets = self.draw(0)
        self.run: Step = eager_step(network, built.codec, optimiser, recipe, device)
        if kind == "model":
            self.run = _forward_backward(model, built.codec, recipe, device)
        if recorded:
            self.run = GraphedStep(self.run, model, optimiser, self.images, self.targets)

    def draw(self, step: int) -> tuple[Tensor, Targets]:
        return self._draw(self.shard, self.batches.indices(step), step_seed(self.recipe.seed, step))

    def step(self) -> Tensor:
        """One training step's loss (), still on the device."""
        images, targets = (self.images, self.targets) if self.kind == "model" else self.draw(self.done)
        if self.kind == "compiled":
            torch.compiler.cudagraph_mark_step_begin()
        self.done += 1
        return self.run(images, targets)["loss"]

    def many(self, steps: int) -> Callable[[], None]:
        """A call that takes this many steps and waits for them."""

        def run() -> None:
            for _ in range(steps):
                self.step()
            synchronise(self.shard.device)

        return run


def _drawing(codec: Codec, recipe: Recipe, variant: Variant) -> Callable[[Any, Tensor, int], tuple[Tensor, Targets]]:
    """(shard, indices, seed) → images and targets, as the feeds of training draw them."""
    if variant.approach == "crops":
        crop_codec = as_crop_codec(codec)
        augment = Augmenter(crop_codec.geometry, recipe.augmentation, COCO_17)

        def crops(shard: Any, indices: Tensor, seed: int) -> tuple[Tensor, Targets]:
            batch = augment(shard, indices, seed)
            return batch.images, crop_codec.targets(batch.keypoints_crop, batch.visible)

        return crops
    image_codec = as_image_codec(codec)
    whole = ImageAugmenter(variant.input_size[0], image_codec.output_sizes, recipe.image_augmentation, COCO_17)

    def images(shard: Any, indices: Tensor, seed: int) -> tuple[Tensor, Targets]:
        batch = whole(shard, indices, seed)
        return batch.images, image_codec.targets(batch.keypoints, batch.visible, batch.masks)

    return images


def _forward_backward(model: torch.nn.Module, codec: Codec, recipe: Recipe, device: torch.device) -> Step:
    precision = autocast(recipe, device)

    def step(images: Tensor, targets: Targets) -> dict[str, Tensor]:
        model.zero_grad(set_to_none=True)
        with precision():
            outputs = model(images)
        losses = codec.loss(tuple(output.float() for output in outputs), targets)
        losses["loss"].backward()
        return {name: value.detach() for name, value in losses.items()}

    return step


@dataclass(frozen=True)
class Floor:
    """What one sample's step cannot do without.

    Attributes:
        macs: multiply-adds, forward and backward.
        passes_bytes: bytes that pass through the device's memory in bf16.
    """

    macs: float
    passes_bytes: float


def floor_of(variant: Variant) -> Floor:
    """Counted on shapes alone. Backward takes the forward's products twice, but for the images' own gradient, which nobody needs.

    Bytes: 15 passes over the convolutions' outputs, or 3 over what a transformer saves for its backward pass.
    """
    with torch.device("meta"):
        model = zoo.network(variant)
    calls, macs = trace(model, variant.input_size)
    products = next((call.products for call in calls if call.products), 0)
    kinds = ("convolution", "deconvolution")
    outputs = sum(math.prod(call.outputs) for call in calls if call.kind in kinds)
    layered = hasattr(model, "layer_of")  # transformers number their layers
    moved = PASSES["tokens"] * _saved(model, variant) if layered else PASSES["convolutions"] * outputs
    return Floor(float(3 * macs - products), float(BYTES_BF16 * moved))


def _saved(model: torch.nn.Module, variant: Variant) -> int:
    """Numbers that one image's forward pass keeps for its backward pass, parameters aside."""
    own, kept = {id(value) for value in model.parameters()}, dict[int, Tensor]()

    def pack(value: Tensor) -> Tensor:
        if id(value) not in own:
            kept[id(value._base if value._base is not None else value)] = value
        return value

    with torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        model.train()(torch.empty(1, 3, *variant.input_size))
    return sum(value.numel() for value in kept.values())


def measured_peaks(device: torch.device) -> dict[str, float]:
    """Bytes a second of a large copy and operations a second of a large bf16 matrix product, the best of five."""
    large = device.type == "cuda"
    side, words = (8192, 2**29) if large else (512, 2**22)
    a, b = (torch.randn(side, side, device=device).to(torch.bfloat16) for _ in range(2))
    source = torch.zeros(words, dtype=torch.int32, device=device)
    target = torch.empty_like(source)
    seconds = {"flops": _best(lambda: a @ b, device), "bytes": _best(lambda: target.copy_(source), device)}
    return {"flops_per_second": 2 * side**3 / seconds["flops"], "bytes_per_second": 2 * 4 * words / seconds["bytes"]}


def _best(call: Callable[[], Any], device: torch.device) -> float:
    seconds = []
    for _ in range(6):
        synchronise(device)
        start = time.perf_counter()
        call()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free(device: torch.device) -> None:
    """Give back what is no longer used."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def timed(variant: Variant, recipe: Recipe, shard: Shard, kinds: tuple[Kind, ...], repeats: int, steps: int | None) -> dict[str, Any]:
    """Seconds per step of each kind, in interleaved turns if all kinds fit into the memory together, and what the first kind takes.

    Args:
        steps: per turn; None: as many as fill a turn of `TURN_SECONDS`, five at least.
    Returns:
        `seconds`: by kind, one number per turn; `memory_mib` that the first kind takes beside the shard; `waits_per_step` of it.
    """
    device, on_gpu = shard.device, shard.device.type == "cuda"
    free(device)
    before = torch.cuda.memory_allocated(device) if on_gpu else 0
    trainees = {kinds[0]: Trainee(variant, recipe, shard, kinds[0])}
    memory = waiting = None
    together = True
    if on_gpu:
        trainees[kinds[0]].many(2)()
        taken, waiting = torch.cuda.max_memory_allocated(device) - before, waits(trainees[kinds[0]])
        memory, together = taken / 2**20, torch.cuda.mem_get_info(device)[0] > 1.2 * taken * (len(kinds) - 1)
    seconds: dict[str, list[float]] = {}
    for group in [kinds] if together else [(kind,) for kind in kinds]:
        trainees = {kind: trainees.get(kind) or Trainee(variant, recipe, shard, kind) for kind in group}
        turn = steps or max(5, min(50, round(TURN_SECONDS / max(_best(one.many(1), device) for one in trainees.values()))))
        told = report.interleave({kind: one.many(turn) for kind, one in trainees.items()}, repeats, warm_up=1 if on_gpu else 0)
        seconds |= {kind: [value / turn for value in values] for kind, values in told.items()}
        if not together:
            trainees = {}
            free(device)
    return {"seconds": seconds, "interleaved": together, "steps_per_turn": turn, "memory_mib": memory, "waits_per_step": waiting}


def waits(trainee: Trainee) -> int:
    """How often one step makes the program wait for the GPU."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainee.step()
    torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def milliseconds(values: list[float]) -> float:
    return round(1e3 * statistics.median(values), 4)
