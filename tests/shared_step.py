"""One step of every method by as many processes as `torchrun` starts; of plain descent, whose change of a weight is its gradient.

Run by tests/test_parallel.py: python -m torch.distributed.run … -m tests.shared_step CROPS IMAGES OUTPUT
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from components import approaches
from components.degrade.shards import EvalCrops
from components.evaluate import ranks as several
from components.evaluate.params import EvaluateParams
from components.evaluate.predict import predict
from components.evaluate.predict_images import predict_images
from components.evaluate.predictions import Predictions
from components.evaluate.ranks import Ranks, together
from components.models import zoo
from components.models.variant import Variant
from components.train import recipe as recipes
from components.train.step import eager_step
from components.train.synced_norm import sync_batch_norms

CPU = torch.device("cpu")
COUNT = {"crops": 5, "images": 3}  # parts of two processes differ in size
CROPS = ("hrnet", "udp_offset", "cal", "categorical", "simcc", "srpose", "sharpose")
IMAGES = ("higherhrnet", "centernet", "limbpose")  # HigherPose draws its dropout, and each process draws for its own part


def subjects() -> dict[str, Variant]:
    """By method: its smallest variant."""
    found = {method: Variant(f"{method}_tiny_synthetic_64", method, "hrnet_tiny", "synthetic", (64, 64)) for method in IMAGES}
    for name, variant in zoo.load_variants().items():
        if variant.method in CROPS and variant.dataset == "synthetic" and variant.tag is None and "tiny" in name:
            found.setdefault(variant.method, variant)
    return found


def step(variant: Variant, shard: Path, ranks: Ranks) -> dict[str, torch.Tensor]:
    """The network's state after the step, the loss, and whom a network of the same start finds where, on the validation split."""
    torch.manual_seed(0)
    feed = approaches.feed(variant.approach).open(variant, shard, "val")
    built = zoo.build(variant, feed.skeleton)
    model, recipe = built.model.double().train(), recipes.load()  # rounding would switch a rectifier on or off here and there
    if ranks.count > 1:
        sync_batch_norms(model)
    feed.place(built.codec, recipe, CPU)
    found = together(predicted(feed, copy.deepcopy(model).float(), built.codec, ranks), ranks, CPU)
    count = COUNT[variant.approach]
    batch = feed.draw(torch.arange(count), 7, ranks.part(count))
    descent = torch.optim.SGD(model.parameters(), lr=1.0)
    torch.manual_seed(1)
    losses = eager_step(model, built.codec, descent, recipe, CPU, None, ranks)(batch.images.double(), batch.targets, count)
    state = {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()} | {"loss": losses["loss"].clone()}
    return state | {"found.joints": torch.from_numpy(found.keypoints_image), "found.images": torch.from_numpy(found.image_id)}


def predicted(feed: Any, model: torch.nn.Module, codec: Any, ranks: Ranks) -> Predictions:
    inputs = feed._validation
    own = inputs.rows(ranks.part(len(inputs)))
    if isinstance(own, EvalCrops):
        return predict(model, codec, own, flip=False)
    return predict_images(model, codec, own, EvaluateParams(flip=False))[0]


def all_steps(crops: Path, images: Path, ranks: Ranks) -> dict[str, torch.Tensor]:
    torch.set_num_threads(1)
    shards = {"crops": crops, "images": images}
    return {
        f"{method}/{name}": tensor
        for method, variant in subjects().items()
        for name, tensor in step(variant, shards[variant.approach], ranks).items()
    }


if __name__ == "__main__":
    among = several.join(CPU)
    state = all_steps(Path(sys.argv[1]), Path(sys.argv[2]), among)
    if among.first:
        save_file(state, sys.argv[3])
    among.wait()
    several.leave()
