"""The method families in small forms, each in training step by step as the loop trains it: what the checks of the GPU path run.

On a GPU: `python -m benchmarks.gpu --check`, or `make test-gpu`. On a CPU: tests/test_recorded_step.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from components import approaches
from components.base.config import REPOSITORY
from components.evaluate.feed import Drawn
from components.models import starts, zoo
from components.models.variant import Variant
from components.models.weights import save_weights
from components.train import recipe as recipes
from components.train.averaging import Average
from components.train.batches import Batches, step_seed
from components.train.graphed import GraphedStep
from components.train.optimiser import build_optimiser, set_learning_rate
from components.train.recipe import Recipe
from components.train.step import Step, eager_step
from components.train.teacher import VIEW, open_teacher
from tests.tiny_image_shard import write_tiny_image_shard
from tests.tiny_shard import write_tiny_shard

IMAGE_SIDE = 128  # px of whole images
PERSONS, BATCH, EPOCHS = 8, 3, 2
STEPS = 6  # batches of 3, 3 and 2 persons in each of two epochs, between which rates and late losses change
# What every case's recipe says: the rate warms up over two steps and drops after the first epoch. All rates are exact in single precision,
# which a recorded step holds them in.
SHORT = {
    "epochs": EPOCHS, "batch_size": BATCH, "num_threads": 1, "drop_last": False, "warmup_steps": 2, "milestones": [1], "schedule": "steps",
    "learning_rate": 2**-13, "gamma": 0.5, "init": "none", "validate_on": "val", "validate_every": 0, "validate_flip": False,
    "checkpoint_seconds": 0.0,
}  # fmt: skip
TAUGHT = "categorical_mobilenet_fpn_coco_64x48_x2_taught"
TEACHING = "categorical_mobilenet_fpn_coco_128x96_x2"  # sees four times as many px of the same view
TEACHER = REPOSITORY / "scratch" / "gpu_cases" / f"{TEACHING}.safetensors"
LAYERED = {"optimiser": "adamw", "weight_decay": 0.1, "layer_decay": 0.75}
Kind = Literal["eager", "graphed"]


@dataclass(frozen=True)
class Case:
    """One family.

    Attributes:
        variant: its small form.
        train: what its recipe changes, over `SHORT`.
    """

    variant: Variant
    train: dict[str, Any] = field(default_factory=dict)

    def recipe(self, **changes: Any) -> Recipe:
        """The variant's recipe, shortened; its teacher's weights are there then."""
        if "teacher" in self.train and not TEACHER.is_file():
            _make_teacher()
        variant = dataclasses.replace(self.variant, train={**self.variant.train, **SHORT, **self.train, **changes})
        return recipes.resolve(variant, recipes.load())


def cases() -> dict[str, Case]:
    """Every family by name; what draws at random and what trains otherwise than plainly are cases of their own."""
    crops = {
        "heatmap": "hrnet_tiny_synthetic_64x48", "dark": "dark_hrnet_tiny_synthetic_64x48",
        "udp_gaussian": "udp_gaussian_hrnet_tiny_coco_64x48", "udp_offset": "udp_offset_hrnet_tiny_synthetic_64x48",
        "categorical": "categorical_hrnet_tiny_synthetic_64x48", "sr_head": "sr_head_hrnet_tiny_synthetic_64x48",
        "srpose": "srpose_hrnet_tiny_synthetic_64x48", "siu": "siu_hrnet_tiny_synthetic_64x48", "simcc": "simcc_hrnet_tiny_synthetic_64x48",
        "tokenpose": "tokenpose_tiny_synthetic_64x48", "hrformer": "hrformer_tiny_synthetic_64x48",
        "transpose": "transpose_tiny_synthetic_64x48", "dropout": "transpose_r_a4_coco_64x48",
        "enlarged": "dark_fused_fpn_synthetic_64x48_x2",
    }  # fmt: skip
    found = {name: Case(zoo.variant(variant)) for name, variant in crops.items()}
    cal = zoo.variant("cal_hrnet_tiny_synthetic_64x48")
    for mask in ("gmm", "static", "disc", "predicted"):
        found[f"cal_{mask}"] = Case(dataclasses.replace(cal, codec={**cal.codec, "mask": mask}))
    found["cal_pixel_weights"] = Case(dataclasses.replace(cal, codec={**cal.codec, "pixel_weights": True}))
    gaussian = dataclasses.replace(found["simcc"].variant, codec={**found["simcc"].variant.codec, "target": "gaussian"})
    sharpose = zoo.variant("sharpose_tiny_synthetic_64x48")
    late = dataclasses.replace(sharpose, codec={**sharpose.codec, "quality_start": 0.5})  # the second epoch has one more loss
    return found | {
        "simcc_gaussian": Case(gaussian),
        "sharpose": Case(late),
        "layer_decay": Case(late, LAYERED),
        "stochastic_depth": Case(zoo.variant("sharpose_small_coco_64x48"), LAYERED),
        "teacher": Case(zoo.variant(TAUGHT), {"teacher": str(TEACHER), "teacher_share": 0.5}),
        "average_and_clip": Case(found["heatmap"].variant, {"average": 0.9, "gradient_clip": 0.01}),
        **{name: Case(_whole_images(variant)) for name, variant in _BOTTOM_UP.items()},
    }


_BOTTOM_UP = {
    "higherhrnet": "higherhrnet_tiny_synthetic_256",
    "litepose": "litepose_tiny_synthetic_256",
    "higherpose": "higherpose_tiny_synthetic_256",
    "higherpose_published": "higherpose_tiny_synthetic_256_published",
    "limbpose": "limbpose_tiny_synthetic_256",
    "sr_head_bottomup": "sr_head_bottomup_hrnet_tiny_synthetic_256",
    "centernet": "centernet_mobilenet_fpn_coco_256",
}


def _make_teacher() -> None:
    """Weights of a network that finds joints: the start's, as far as they fit."""
    variant = zoo.variant(TEACHING)
    torch.manual_seed(0)
    network = zoo.network(variant)
    starts.initialise(network, "movenet_lightning", variant.skeleton)
    TEACHER.parent.mkdir(parents=True, exist_ok=True)
    save_weights(TEACHER, network, {"variant": TEACHING})


def _whole_images(name: str) -> Variant:
    """The named variant for smaller images."""
    variant = zoo.variant(name)
    smaller = variant.name.replace("_256", f"_{IMAGE_SIDE}")
    return dataclasses.replace(variant, name=smaller, input_size=(IMAGE_SIDE, IMAGE_SIDE), train={})


class Shards:
    """Tiny shards of drawn people below a folder, made when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._made = folder, dict[str, Path]()

    def of(self, case: Case) -> Path:
        kind = case.variant.approach
        if kind not in self._made:
            folder = self.folder / kind
            if kind == "crops":
                self._made[kind] = write_tiny_shard(folder, persons=PERSONS)
            else:
                scenes = [((120, 160), 1 + number % 3, "train", "crowd" * (number % 2)) for number in range(PERSONS)]
                self._made[kind] = write_tiny_image_shard(folder, scenes=[*scenes, ((100, 150), 1, "val", "")], size=IMAGE_SIDE)
        return self._made[kind]


class Run:
    """A case in training, one step after the other, as `components.train.loop` does it.

    Args:
        kind: "graphed" replays a recorded step.
        precision: fp32, or bf16 as GPUs train by default.
    """

    def __init__(self, case: Case, shards: Shards, device: torch.device, kind: Kind = "eager", precision: str = "fp32") -> None:
        self.recipe = recipe = case.recipe(precision=precision)
        torch.manual_seed(recipe.seed)
        self.feed = approaches.feed(case.variant.approach).open(case.variant, shards.of(case), recipe.validate_on)
        built = zoo.build(case.variant, self.feed.skeleton)
        starts.initialise(built.model, recipe.init, self.feed.skeleton)
        self.model = built.model.to(device).to(memory_format=torch.channels_last).train()
        self.codec, self.done = built.codec, 0
        self.optimiser = build_optimiser(self.model, recipe, device, graphed=kind == "graphed")
        self.average = Average(self.model, recipe.average) if recipe.average else None
        self.feed.place(self.codec, recipe, device)
        self.batches = Batches(len(self.feed), recipe.batch_size, recipe.seed, recipe.drop_last, device)
        self.teacher = open_teacher(recipe.teacher, recipe.teacher_share, case.variant, self.codec, device) if recipe.teacher else None
        self.eager: Step = eager_step(self.model, self.codec, self.optimiser, recipe, device, self.teacher)
        self.run = self.eager
        if kind == "graphed":
            example = self.draw(0)
            self.run = GraphedStep(self.eager, self.model, self.optimiser, example.images, example.targets)

    def draw(self, step: int) -> Drawn:
        indices, seed = self.batches.indices(step), step_seed(self.recipe.seed, step)
        batch = self.feed.draw(indices, seed)
        if self.teacher is not None and self.teacher.view is not None:
            batch.targets[VIEW] = self.feed.view(indices, seed, self.teacher.view)
        return batch

    def step(self) -> dict[str, Tensor]:
        """The next step's losses, copied because a recording overwrites its own; they stay on the device."""
        step, per_epoch = self.done, self.batches.steps_per_epoch
        set_learning_rate(self.optimiser, self.recipe.learning_rate_at(step, per_epoch))
        self.codec.progress(step // per_epoch / self.recipe.epochs)
        torch.manual_seed(step_seed(self.recipe.seed, step))
        batch = self.draw(step)
        losses = {name: value.clone() for name, value in self.run(batch.images, batch.targets).items()}
        self.done += 1
        if self.average is not None:
            self.average.update(self.done)
        return losses

    def losses(self, steps: int = STEPS) -> list[dict[str, float]]:
        """The next steps' losses."""
        return [{name: value.item() for name, value in self.step().items()} for _ in range(steps)]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All that training changes: weights, statistics of batch norms, their running average, the optimiser's state."""
        yield from self.model.state_dict().items()
        for name, value in (self.average.tensors if self.average else {}).items():
            yield f"average {name}", value
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimiser.state[parameter].items() if parameter in self.optimiser.state else ():
                yield f"{key} of {name}", value

    def state(self) -> dict[str, Tensor]:
        """A copy of `tensors`."""
        return {name: value.detach().clone() for name, value in self.tensors()}
