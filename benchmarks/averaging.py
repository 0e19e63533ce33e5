"""What the mean of several trainings' weights finds. Run: python -m benchmarks.averaging VARIANT WEIGHTS WEIGHTS ...

Weights files of trainings of one network from one start (Wortsman et al. 2022, "Model soups"): each alone, and the mean of every two or
more of them, scored on the development split, with VARIANT's codec and the crops of its size. Needs the shard `direct_HxW`; writes the
entry VARIANT of results/study/averaging.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import torch

from benchmarks import report
from components.base.config import REPOSITORY
from components.base.files import read_json, sha256_of, write_json
from components.codecs.codec import as_crop_codec
from components.datasets.fetch import PERSONS_FILE
from components.degrade.shards import EvalCrops
from components.evaluate import oks
from components.evaluate.predict import predict
from components.evaluate.rescoring import finish
from components.models import starts, zoo
from components.pose.persons import Persons
from components.registry import lineage
from pipelines import paths, settings

RECORD = REPOSITORY / "results" / "study" / "averaging.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant")
    parser.add_argument("weights", nargs="+", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    variant, params = zoo.variant(asked.variant), settings.evaluation()
    built, persons = zoo.build(variant), Persons.read(paths.PERSONS / PERSONS_FILE).split("dev")
    model, codec = built.model.eval(), as_crop_codec(built.codec)
    height, width = variant.input_size
    crops = EvalCrops.open(paths.SHARDS / f"direct_{height}x{width}", variant.convention, "dev")
    names = {path: path.parent.name for path in asked.weights}
    rows = []
    for count in range(1, len(names) + 1):
        for chosen in itertools.combinations(asked.weights, count):
            starts.initialise(model, str(chosen[0]), variant.skeleton, [str(path) for path in chosen[1:]])
            found = finish(predict(model, codec, crops, batch_size=64), params, persons.skeleton.sigmas, codec)
            value = oks.summarise(oks.match(persons, *found))["AP"]
            rows.append({"mean of": [names[path] for path in chosen], "AP, development split, %": round(100 * value, 2)})
            print(json.dumps(rows[-1]), flush=True)
    files = " ".join(f"artifacts/models/{name}/model.safetensors" for name in names.values())
    record = read_json(RECORD) if RECORD.is_file() else {}
    record[asked.variant] = {
        **report.made_by(f"python -m benchmarks.averaging {asked.variant} {files}"),
        "data.md5": lineage.data_digest(),
        "weights.sha256": {name: sha256_of(path) for path, name in names.items()},
        "rows": rows,
    }
    write_json(RECORD, record)


if __name__ == "__main__":
    main()
