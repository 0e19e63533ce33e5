"""What persons are ranked by, where a codec does not rank them by their joints' scores."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from components.evaluate.predict import predict
from components.evaluate.rescoring import finish
from components.pose.skeleton import COCO_17
from tests import evaluation_cases as cases
from tests.test_evaluate import QUICK, Oracle, codec_of


def test_a_codec_with_a_ranking_of_its_own_leaves_joint_scores_and_decides_persons_scores():
    codec, persons = codec_of("categorical"), cases.persons_of(cases.random_coco(1)).labelled()
    crops, generator = cases.crops_of(persons, codec.geometry), torch.Generator().manual_seed(0)
    model = Oracle(codec, persons)
    usual = predict(model, codec, crops, batch_size=17)
    given: list[Tensor] = []

    def ranking(outputs: tuple[Tensor, ...], keypoints: Tensor) -> Tensor:
        given.append(torch.rand(keypoints.shape[:2], generator=generator))
        return given[-1]

    codec.ranking = ranking  # type: ignore[attr-defined]
    found = predict(model, codec, crops, batch_size=17)
    expected = torch.cat(given).double().numpy()
    np.testing.assert_array_equal(found.ranked_by, expected)
    np.testing.assert_array_equal(found.keypoint_scores, usual.keypoint_scores)
    kept, scores = finish(found, QUICK, COCO_17.sigmas, codec)
    places = [found.annotation_id.tolist().index(one) for one in kept.annotation_id]
    np.testing.assert_allclose(scores, expected[places].mean(1))
    np.testing.assert_array_equal(kept.ranked_by, expected[places])
