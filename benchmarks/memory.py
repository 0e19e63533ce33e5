"""Training steps with freed memory given back to the system, glibc's way, and kept, ours. Run: python -m benchmarks.memory

Each turn is a process of its own, because the setting (`pipelines.environment.keep_memory`) cannot be taken back. Times are processor
seconds of the steps alone, on one thread and random crops; the weights after them must be equal.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time

import torch

from benchmarks import report
from components.models import zoo
from components.train import recipe
from components.train.optimiser import build_optimiser
from components.train.step import eager_step

VARIANT, BATCH, STEPS, TURNS, TARGET = "categorical_mobilenet_fpn_coco_64x48_x4", 16, 6, 5, 1.1


def steps() -> dict[str, float | str]:
    """Processor seconds of the steps after the first, and a digest of the weights they lead to."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    variant = zoo.variant(VARIANT)
    settings = recipe.resolve(variant, recipe.load())
    built, device = zoo.build(variant), torch.device("cpu")
    model = built.model.to(memory_format=torch.channels_last).train()
    step = eager_step(model, built.codec, build_optimiser(model, settings, device, False), settings, device)
    images, places = torch.randn(BATCH, 3, *variant.input_size), torch.rand(BATCH, variant.num_keypoints, 2) * 47
    targets = built.codec.targets(places, torch.ones(BATCH, variant.num_keypoints, dtype=torch.bool))
    start = 0.0
    for count in range(STEPS + 1):
        if count == 1:
            start = time.process_time()
        step(images, targets)
    seconds = time.process_time() - start
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.contiguous().numpy().tobytes())
    return {"seconds": seconds, "weights": digest.hexdigest()}


def turn(keep: bool) -> dict[str, float | str]:
    """`steps` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", "--turn", "keep" if keep else "give_back"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float | str] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turn", choices=["keep", "give_back"], help="one turn; prints its seconds and the digest of its weights")
    asked = parser.parse_args().turn
    if asked:
        if asked == "keep":
            import pipelines.environment  # noqa: F401  (its import keeps freed memory)
        print(json.dumps(steps()))
        return
    given, kept = [], []
    for _ in range(TURNS):
        given.append(turn(keep=False))
        kept.append(turn(keep=True))
    weights = {one["weights"] for one in (*given, *kept)}
    if len(weights) != 1:
        raise SystemExit("the weights differ: keeping memory must change no result")
    seconds = [[float(one["seconds"]) for one in each] for each in (given, kept)]
    row = report.row("training step, freed memory given back / kept", *seconds, TARGET, batch=BATCH, steps=STEPS, variant=VARIANT)
    report.write("memory", row, seconds={"given back": seconds[0], "kept": seconds[1]})


if __name__ == "__main__":
    main()
