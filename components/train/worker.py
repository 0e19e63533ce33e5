"""One of the processes of a training: what `torchrun` starts for `components.train.launch`. Its only argument is the job's folder."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import torch

from components.base.config import parse
from components.base.errors import FarposeError
from components.base.files import read_json, write_json
from components.base.locks import held
from components.evaluate import ranks
from components.models import zoo
from components.train import memory
from components.train.launch import ERROR, HISTORY, JOB, PASSES, STARTER, SUMMARY
from components.train.loop import train
from components.train.recipe import Recipe
from components.train.tracker import JsonLinesTracker, NullTracker


def main(folder: Path) -> int:
    """Exit code: 0 after training, and where the error is one that a new start does not mend; it is then written down."""
    threading.Thread(target=_end_after_the_starter, args=(folder,), daemon=True).start()
    if (folder / ERROR).is_file():
        return 0
    job = read_json(folder / JOB)
    recipe, variant = parse(Recipe, job["recipe"], JOB), zoo.variant(job["variant"])
    device = ranks.own_device(torch.device(job["device"]))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    among = ranks.join(device)
    passes = memory.Passes(read_json(folder / PASSES) if (folder / PASSES).is_file() else 1)
    tracker = JsonLinesTracker(folder / HISTORY) if among.first else NullTracker()
    try:
        summary = train(variant, job["shards"], job["output"], recipe, device, job["checkpoints"], tracker, among, passes)
    except memory.OutOfMemory as error:
        problem = str(error)
    except FarposeError as error:
        _give_up(folder, error)
        return 1  # the others wait for this process: torchrun ends them, and starts all anew, which then end at once
    else:
        if among.first:
            write_json(folder / SUMMARY, summary)
        among.wait()
        ranks.leave()
        return 0
    try:
        passes.double(among.sizes(recipe.batch_size)[0], variant.name, problem)
    except FarposeError as error:
        _give_up(folder, error)
    else:
        write_json(folder / PASSES, passes.count)
    return 1


def _give_up(folder: Path, error: FarposeError) -> None:
    write_json(folder / ERROR, {"problem": error.problem, "where": None if error.where is None else str(error.where), "fix": error.fix})


def _end_after_the_starter(folder: Path) -> None:
    """End this process once the one that started the training is gone, however it ended."""
    with held(folder / STARTER, lambda: None):
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
