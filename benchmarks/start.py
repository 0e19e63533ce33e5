"""AP of a bottom-up variant as its start leaves it, before any training. Run: python -m benchmarks.start VARIANT --size 256

It needs the shard of whole images (`dvc repro degrade@direct_256`) and prints COCO's numbers with the 95 % interval of AP over images.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from components.base.config import REPOSITORY
from components.codecs.codec import as_image_codec
from components.degrade.image_shards import EvalImages
from components.evaluate import oks
from components.evaluate.nms import suppress
from components.evaluate.params import BottomUpParams, EvaluateParams
from components.evaluate.predict_images import predict_images
from components.evaluate.predictions import Predictions
from components.evaluate.significance import bootstrap_ap
from components.models import starts, zoo
from components.train import recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant")
    parser.add_argument("--size", type=int, nargs="+", default=[256], help="short sides, px; the persons of several are put together")
    parser.add_argument("--split", default="val", choices=["dev", "val"])
    parser.add_argument("--flip", action="store_true", help="average with the mirrored image")
    parser.add_argument("--nms", type=float, default=None, help="OKS above which the lower score of two persons is dropped")
    parser.add_argument("--shards", type=Path, default=REPOSITORY / "artifacts" / "shards")
    args = parser.parse_args()

    torch.set_num_threads(1)
    variant = zoo.variant(args.variant)
    built = zoo.build(variant)
    starts.initialise(built.model, recipe.resolve(variant, recipe.load()).init, variant.skeleton)
    params = EvaluateParams(flip=args.flip, bottom_up=BottomUpParams(batch_size=4))
    found = []
    for size in args.size:
        images = EvalImages.open(args.shards / f"direct_{size}", "short_side", args.split)
        found.append(predict_images(built.model, as_image_codec(built.codec), images, params))
    together = (
        np.concatenate([getattr(each, field.name) for each, _ in found]) for field in fields(Predictions) if field.name != "ranking"
    )
    predictions, scores = Predictions(*together), np.concatenate([each for _, each in found])
    if args.nms is not None:
        sigmas = np.asarray(images.skeleton.sigmas)
        kept = suppress(predictions.image_id, predictions.keypoints_image, scores, predictions.areas, sigmas, args.nms)
        predictions, scores = predictions.select(kept), scores[kept]
    matches = oks.match(images.persons, predictions, scores, images.image_id)
    interval = bootstrap_ap(matches)
    numbers = {name: f"{100 * value:.1f}" for name, value in oks.summarise(matches).items()}
    print(numbers, f"AP in {100 * interval.low:.1f} to {100 * interval.high:.1f}; {len(images)} images, {len(scores)} persons found")


if __name__ == "__main__":
    main()
