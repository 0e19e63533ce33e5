"""What is wrong with predicted joints and persons, and what AP would be without each kind of error.

Source: Ronchi & Perona 2017, Benchmarking and Error Diagnosis in Multi-Instance Pose Estimation, sections 3 and 4. KS is the similarity
of one joint, exp(−d² / (2 · area · (2σ)²)); OKS is its mean over a person's labelled joints. A labelled joint of a prediction is compared
with that joint of its person, the joint's partner on the other side, and both joints of all other persons of the image. Where KS is
largest decides, ties in this order:

    own joint, KS > .85           good
    own joint, .5 ≤ KS ≤ .85      jitter: near, but not exact
    own partner, KS ≥ .5          inversion: left and right are exchanged
    another person, KS ≥ .5       swap: the joint of somebody else
    all KS < .5                   miss

A corrected joint lies as far from its place as the kind allows, in the direction in which it lay: jitter at KS .85, a miss at .5, an
inversion and a swap at the KS that they had with the wrong joint.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from components.base.errors import FarposeError
from components.evaluate.matching import by_image, joint_similarity, object_keypoint_similarity, rows_of
from components.evaluate.oks import MAX_DETECTIONS
from components.evaluate.predictions import Predictions
from components.evaluate.scoring import Truth
from components.pose.persons import Persons
from components.pose.skeleton import Skeleton

KINDS = ("good", "jitter", "inversion", "swap", "miss")  # of a joint, by the numbers in `Errors.kind`
GOOD, JITTER, INVERSION, SWAP, MISS = range(5)
FATES = ("person", "repeat", "background", "ignored")  # of a prediction, by the numbers in `Errors.fate`
PERSON, REPEAT, BACKGROUND, IGNORED = range(4)
NEAR, EXACT = 0.5, 0.85  # KS from which a joint is that joint, and above which it is good
ALIKE = 0.1  # OKS from which a prediction can be taken for a person, as in the paper
COUNTED = 0.5  # OKS from which a further prediction of a person is a repeat, and one of an ignored person is nobody's error: AP's lowest


@dataclass(frozen=True)
class Errors:
    """The errors of N predictions.

    Attributes:
        person: (N,) row of `truth.persons` that the prediction is taken for, -1 for none.
        fate: (N,) index into `FATES`: taken for a person, a repeat of one, background, or ignored (on a crowd region or a person without
            labelled joints, or beyond the 20 best of its image).
        oks: (N,) with that person; of others 0.
        kind: (N, K) index into `KINDS`; -1 where the joint is not labelled or there is no person.
        nearest: (N, K) the largest KS of the joint; 0 where `kind` is -1.
        not_found: (P,) bool, labelled persons that no prediction is taken for.
    """

    person: np.ndarray
    fate: np.ndarray
    oks: np.ndarray
    kind: np.ndarray
    nearest: np.ndarray
    not_found: np.ndarray


def require_flips(skeleton: Skeleton) -> None:
    """
    Raises:
        FarposeError: the skeleton has no pair of joints that a mirrored image exchanges.
    """
    if not skeleton.flips:
        problem = "the skeleton has no flip pairs, so left and right cannot be told apart and there are no inversions"
        fix = "name them as `flips` of the data set's `skeleton` in params/data.yaml and run the fetch stage again"
        raise FarposeError(problem, where=f"skeleton {skeleton.name}", fix=fix)


def classify(truth: Truth, predictions: Predictions, scores: np.ndarray) -> Errors:
    """Say of every joint and every prediction what is wrong with it.

    A prediction of which is known whose box was given is taken for that person. Others are taken, the best score first, for the
    labelled person of their image that they fit best and that is still free, from OKS .1 on.

    Args:
        scores: (N,).
    Raises:
        FarposeError: the skeleton has no flip pairs, or the predictions have other joints.
    """
    persons = truth.persons
    require_flips(persons.skeleton)
    count, joints = len(predictions), len(persons.skeleton)
    if predictions.keypoints_image.shape[1:] != (joints, 2):
        raise FarposeError(f"predictions have {predictions.keypoints_image.shape[1]} joints, the persons are annotated with {joints}")
    errors = Errors(
        person=np.full(count, -1),
        fate=np.full(count, IGNORED, np.int8),
        oks=np.zeros(count),
        kind=np.full((count, joints), -1, np.int8),
        nearest=np.zeros((count, joints)),
        not_found=counted_persons(persons).copy(),
    )
    own = np.where(predictions.annotation_id >= 0, rows_of(persons.frame["annotation_id"].to_numpy(), predictions.annotation_id), -1)
    rows_by_image, scored = by_image(persons.frame["image_id"].to_numpy()), set(truth.image_ids.tolist())
    for image, found in by_image(predictions.image_id).items():
        if image in scored:
            _of_image(errors, persons, predictions, scores, own, rows_by_image.get(image, np.zeros(0, np.int64)), found)
    return errors


def _of_image(
    errors: Errors, persons: Persons, predictions: Predictions, scores: np.ndarray, own: np.ndarray, rows: np.ndarray, found: np.ndarray
) -> None:
    """Fill in the errors of the predictions `found` of one image, whose persons are `rows`."""
    best_first = found[np.argsort(-scores[found], kind="stable")][:MAX_DETECTIONS]
    similar = _oks(persons, predictions, rows, best_first)
    counted = counted_persons(persons)[rows]
    for place, prediction in enumerate(best_first.tolist()):
        oks = similar[place]
        if own[prediction] >= 0:
            taken, of_taken = own[prediction], float(oks[rows == own[prediction]].max(initial=0.0))
        else:
            free = np.where(errors.not_found[rows], oks, -1.0)
            chosen = int(free.argmax()) if len(rows) else -1
            taken, of_taken = (rows[chosen], free[chosen]) if chosen >= 0 and free[chosen] >= ALIKE else (-1, 0.0)
        if taken < 0:
            hit = np.where(counted, oks, -1.0).max(initial=0.0) >= COUNTED, oks[~counted].max(initial=0.0) >= COUNTED
            errors.fate[prediction] = REPEAT if hit[0] else IGNORED if hit[1] else BACKGROUND
            continue
        errors.person[prediction], errors.oks[prediction], errors.fate[prediction] = taken, of_taken, PERSON
        errors.not_found[taken] = False
        errors.kind[prediction], errors.nearest[prediction] = kinds_of(predictions.keypoints_image[prediction], int(taken), rows, persons)


def kinds_of(joints: np.ndarray, own: int, rows: np.ndarray, persons: Persons) -> tuple[np.ndarray, np.ndarray]:
    """(K,) the kind of each joint (K, 2) of a prediction that is taken for person `own`, and its largest KS.

    Args:
        rows: all persons of the image.
    """
    others = rows[rows != own]
    ordered = np.concatenate([[own], others]).astype(np.int64)
    partner = np.array(persons.skeleton.flip_permutation)
    places = np.stack([persons.keypoints[ordered], persons.keypoints[ordered][:, partner]], 1)  # (n, 2, K, 3): the joint, its partner
    areas = persons.frame["area"].to_numpy(np.float64)[ordered]
    ks = joint_similarity(((joints - places[..., :2]) ** 2).sum(-1), areas[:, None, None], np.asarray(persons.skeleton.sigmas))
    ks = np.where(places[..., 2] > 0, ks, -1.0).reshape(2 * len(ordered), -1)
    where, nearest = ks.argmax(0), ks.max(0)
    kind = np.where(where == 0, np.where(nearest > EXACT, GOOD, JITTER), np.where(where == 1, INVERSION, SWAP))
    kind = np.where(nearest < NEAR, MISS, kind)
    labelled = persons.keypoints[own, :, 2] > 0
    return np.where(labelled, kind, -1).astype(np.int8), np.where(labelled, np.maximum(nearest, 0.0), 0.0)


def corrected(
    truth: Truth, predictions: Predictions, errors: Errors, kinds: Collection[int], joints: np.ndarray | None = None
) -> Predictions:
    """The predictions without the joint errors of these kinds.

    Args:
        kinds: of `JITTER`, `INVERSION`, `SWAP`, `MISS`.
        joints: (K,) bool, only these joints; None: all.
    """
    persons, wrong = truth.persons, np.isin(errors.kind, list(kinds))
    if joints is not None:
        wrong &= joints
    n, k = np.nonzero(wrong)
    row = errors.person[n]
    place, areas = persons.keypoints[row, k, :2], persons.frame["area"].to_numpy(np.float64)[row]
    ks = np.select([errors.kind[n, k] == JITTER, errors.kind[n, k] == MISS], [EXACT, NEAR], errors.nearest[n, k])
    radius = 2 * np.asarray(persons.skeleton.sigmas)[k] * np.sqrt(-2 * np.log(np.minimum(ks, 1.0)) * areas)
    away = predictions.keypoints_image[n, k] - place
    length = np.linalg.norm(away, axis=1, keepdims=True)
    direction = np.where(length > 0, away / np.where(length > 0, length, 1.0), [1.0, 0.0])
    mended = predictions.keypoints_image.copy()
    mended[n, k] = place + radius[:, None] * direction
    return replace(predictions, keypoints_image=mended)


def _oks(persons: Persons, predictions: Predictions, rows: np.ndarray, found: np.ndarray) -> np.ndarray:
    """(D, P) OKS of the predictions `found` with the persons `rows` of their image."""
    p, d = np.tile(rows, len(found)), np.repeat(found, len(rows))
    areas, sigmas = persons.frame["area"].to_numpy(np.float64)[p], np.asarray(persons.skeleton.sigmas)
    similar = object_keypoint_similarity(predictions.keypoints_image[d], persons.keypoints[p], areas, persons.bbox_xywh[p], sigmas)
    return similar.reshape(len(found), len(rows))


def counted_persons(persons: Persons) -> np.ndarray:
    """(P,) bool, persons that are to be found."""
    return ((persons.frame["num_keypoints"] > 0) & ~persons.frame["iscrowd"]).to_numpy(bool)
