"""Grouping equals the published one, a slow one person at a time, and does not depend on what should not matter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch.nn import functional

from benchmarks.grouping import by_scipy, match_one_by_one, parse_one_by_one, scene
from components.codecs import refinement
from components.codecs.grouping import Grouping, _People, cost_matrix, joint_order, match, parse_batch, suppress, top_k
from tests.codecs.conftest import Reference

SCENES = ["one", "five", "close_tags", "noflip_tag", "empty"]
PLAIN = Grouping(adjust=False, refine=False)


def published(reference: Reference, scene: str, name: str) -> np.ndarray:
    """An array of the published scene, without persons in our shape."""
    array: np.ndarray = reference("bottomup_higherhrnet", f"{scene}_{name}").numpy()
    return array.reshape(0, 17, 5) if name != "det" and array.shape == (0,) and "scores" not in name else array


def maps(reference: Reference, scene: str) -> tuple[torch.Tensor, torch.Tensor]:
    return reference("bottomup_higherhrnet", f"{scene}_det").float(), reference("bottomup_higherhrnet", f"{scene}_tag").float()


def parse(det: torch.Tensor, tag: torch.Tensor, settings: Grouping | None = None) -> tuple[np.ndarray, np.ndarray]:
    """`parse_batch` of one image, (1, K, h, w)."""
    return parse_batch(det, tag, settings)[0]


@pytest.mark.parametrize("scene", [*SCENES, "crowd40"])
def test_published_peaks(reference: Reference, scene: str) -> None:
    tag_k, loc_k, val_k = top_k(*maps(reference, scene))
    np.testing.assert_array_equal(tag_k, published(reference, scene, "tag_k"))
    np.testing.assert_array_equal(loc_k, published(reference, scene, "loc_k"))
    np.testing.assert_array_equal(val_k, published(reference, scene, "val_k"))


@pytest.mark.parametrize("ties", ["joined", "any"])
@pytest.mark.parametrize("scene", SCENES)
def test_published_persons(reference: Reference, scene: str, ties: Any) -> None:
    tag_k, loc_k, val_k = (published(reference, scene, name)[0] for name in ("tag_k", "loc_k", "val_k"))
    np.testing.assert_array_equal(match(tag_k, loc_k, val_k, replace(PLAIN, ties=ties)), published(reference, scene, "matched"))


@pytest.mark.parametrize("adjust, refine", [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("scene", SCENES)
def test_published_parse(reference: Reference, scene: str, adjust: bool, refine: bool) -> None:
    persons, scores = parse(*maps(reference, scene), Grouping(adjust=adjust, refine=refine))
    case = f"a{adjust:d}_r{refine:d}"
    np.testing.assert_array_equal(persons, published(reference, scene, f"parse_{case}"))
    np.testing.assert_allclose(scores, published(reference, scene, f"scores_{case}"), rtol=1e-6)


def test_published_adjustment_and_refinement_in_a_crowd(reference: Reference) -> None:
    """Ties decide who is grouped with whom in this scene, so start from the published persons."""
    det, tag = maps(reference, "crowd40")
    persons = published(reference, "crowd40", "matched")
    image, missing = np.zeros(len(persons), np.int64), persons[:, :, 2] == 0
    moved = refinement.adjusted(det, persons, image)
    np.testing.assert_array_equal(moved, published(reference, "crowd40", "parse_a1_r0"))
    moved[missing, :3] = refinement.filled(det, tag, persons, image, missing)
    np.testing.assert_array_equal(moved, published(reference, "crowd40", "parse_a1_r1"))
    np.testing.assert_allclose(persons[:, :, 2].mean(1), published(reference, "crowd40", "scores_a1_r1"), rtol=1e-6)


def test_ties_of_the_published_crowd_have_equal_cost(reference: Reference) -> None:
    """In the crowd the published persons differ from ours, but joint by joint their assignment costs what the best one costs."""
    tag_k, loc_k, val_k = (published(reference, "crowd40", name)[0] for name in ("tag_k", "loc_k", "val_k"))
    persons = published(reference, "crowd40", "matched")
    members: dict[int, list[np.ndarray]] = {}
    ours = match(tag_k, loc_k, val_k)
    assert len(match(tag_k, loc_k, val_k, replace(PLAIN, ties="joined"))) < min(len(ours), len(persons))  # fewer splinters
    for k in joint_order(17):
        real = val_k[k] > PLAIN.detection_threshold
        joints = np.concatenate([loc_k[k], val_k[k][:, None], tag_k[k]], 1)[real]
        final = [next(iter(np.flatnonzero((persons[:, k] == joint.astype(np.float32)).all(1)).tolist()), None) for joint in joints]
        known = min(len(members), PLAIN.max_persons)
        chosen = np.full(len(joints), -1)
        if known:
            means = np.array([np.mean(members[person], axis=0) for person in range(known)])
            distance = np.linalg.norm(joints[:, None, 3:] - means, axis=2)
            cost = cost_matrix(distance, joints[:, 2], replace(PLAIN, ties="any"))
            allowed = cost.copy()  # by what the published persons show
            for row, person in enumerate(final):
                if person is not None and person >= known:
                    allowed[row, :known][distance[row] < PLAIN.tag_threshold] = 1e7
                elif person is not None and joints[row, 3] not in [member[0][0] for member in members.values()]:
                    allowed[row, np.arange(allowed.shape[1]) != person] = 1e7
            rows, chosen = linear_sum_assignment(allowed)
            assert allowed[rows, chosen].sum() == cost[linear_sum_assignment(cost)].sum()
            chosen = np.where(distance[rows, np.minimum(chosen, known - 1)] < PLAIN.tag_threshold, chosen, -1)
        for row, person in enumerate(final):
            if person is not None and (person not in members or chosen[row] != person):
                members[person] = [tag_k[k][real][row]]
            elif person is not None:
                members[person].append(tag_k[k][real][row])


SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "plain_distance": {"use_detection_value": False},
    "few": {"max_persons": 3},
    "ignore_too_much": {"max_persons": 3, "ignore_too_much": True},
    "thresholds": {"detection_threshold": 0.4, "tag_threshold": 0.3},
    "no_adjust": {"adjust": False},
    "wide_window": {"nms_kernel": 11},
    "no_window": {"nms_kernel": 1},
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(
    "joints, tags, size, persons", [(17, 2, (48, 72), 6), (14, 1, (40, 40), 12), (16, 3, (33, 65), 3), (5, 2, (7, 5), 1)]
)
def test_equals_one_person_at_a_time(joints: int, tags: int, size: tuple[int, int], persons: int, name: str) -> None:
    settings = Grouping(**SETTINGS[name])
    for seed in range(2):
        det, tag = scene(persons, size, joints, tags, seed, spread=0.2)
        tag = (tag * 8).round() / 8 if seed else tag  # equal tags give persons one name
        ours, theirs = parse(det, tag, settings), parse_one_by_one(det, tag, settings, by_scipy)
        assert len(ours[0]) > 0
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])


@pytest.mark.parametrize("rows, known", [(6, 6), (5, 9), (9, 5)])
def test_joining_costs_as_little_and_joins_at_least_as_many(rows: int, known: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        distance, values = rng.choice([0.2, 0.7, 1.2, 2.3], (rows, known)), rng.choice([0.3, 0.6, 0.9], rows)  # full of ties
        plain, joined = (cost_matrix(distance, values, replace(PLAIN, ties=ties)) for ties in ("any", "joined"))
        best, ours = linear_sum_assignment(plain), linear_sum_assignment(joined)
        assert abs(plain[ours].sum() - plain[best].sum()) < 1e-4
        near = np.pad(distance < PLAIN.tag_threshold, ((0, 0), (0, plain.shape[1] - known)))
        assert near[ours].sum() >= near[best].sum()


def peaks_of(*joints: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Peaks (tag, height) of each joint as `match` takes them, at a cell per peak."""
    most = max(len(joint) for joint in joints)
    tag_k, val_k = np.zeros((len(joints), most, 1), np.float32), np.zeros((len(joints), most), np.float32)
    loc_k = np.stack(np.meshgrid(np.arange(most), np.arange(len(joints))), -1)
    for k, joint in enumerate(joints):
        for i, (tag, height) in enumerate(joint):
            tag_k[k, i], val_k[k, i] = tag, height
    return tag_k, loc_k, val_k


def test_a_row_of_tags_is_not_shifted() -> None:
    """Moving everybody on by one costs the same in rounded distances; joining the most joints tells them apart."""
    peaks = peaks_of([(2.0, 0.9), (4.0, 0.8), (6.0, 0.7)], [(0.0, 0.9), (2.0, 0.8), (4.0, 0.7)])
    persons = match(*peaks, Grouping(ties="joined"))
    assert persons[:, :, 3].tolist() == [[2, 2], [4, 4], [6, 0], [0, 0]]
    assert persons[:, :, 2].astype(float).round(1).tolist() == [[0.9, 0.8], [0.8, 0.7], [0.7, 0], [0, 0.9]]


def test_equal_tags_are_one_person_and_the_later_joint_stays() -> None:
    persons = match(*peaks_of([(3.0, 0.9), (3.0, 0.5)], [(9.0, 0.4)]))
    assert persons[:, :, 2].astype(float).round(1).tolist() == [[0.5, 0], [0, 0.4]]


def test_a_joint_far_from_all_opens_a_person_and_max_persons_are_matched() -> None:
    peaks = peaks_of([(0.0, 0.9), (5.0, 0.8), (9.0, 0.7)], [(9.1, 0.9)], [(9.1, 0.9)])
    assert (match(*peaks)[:, :, 2] > 0).sum(1).tolist() == [1, 1, 3]
    assert (match(*peaks, Grouping(max_persons=2))[:, :, 2] > 0).sum(1).tolist() == [1, 1, 1, 2]  # the third is not looked at
    assert (match(*peaks, Grouping(max_persons=2, ignore_too_much=True))[:, :, 2] > 0).sum(1).tolist() == [1, 1, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_peaks_without_a_number_are_no_joints(bad: float) -> None:
    persons = match(*peaks_of([(0.0, 0.9), (bad, 0.8)], [(0.1, 0.9), (bad, 0.7)]))
    assert (persons[:, :, 2] > 0).sum(1).tolist() == [2]


def test_ties_move_towards_the_corner_and_borders_look_at_themselves() -> None:
    det = torch.zeros(1, 3, 4, 6)
    det[0, 0, 0, 0], det[0, 1, 3, 5], det[0, 2, 2, 2] = 0.9, 0.8, 0.7
    persons, _ = parse(det, torch.zeros(1, 3, 4, 6, 1), Grouping(refine=False))
    assert persons[0, :, :2].tolist() == [[0.25, 0.25], [5.75, 3.75], [2.25, 2.25]]


def test_missing_joints_are_filled_from_close_tags_only() -> None:
    det, tag = torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 8, 1)
    det[0, 0, 1, 1], det[0, 1, 6, 6], det[0, 1, 2, 5] = 0.9, 0.09, 0.05  # joint 1 is below the threshold everywhere
    tag[0, 1, 6, 6], tag[0, 0, 1, 1] = 7.0, 0.2
    persons, scores = parse(det, tag)
    assert persons[0, 1, :2].tolist() == [5.25, 2.25]
    assert persons[0, 1, 2] == np.float32(0.05) and persons[0, 1, 3] == 0
    assert scores[0] == np.float32(0.45)  # what was filled in does not count


@pytest.mark.parametrize("tags", [1, 2, 3])
def test_running_means_are_numpy_means(tags: int) -> None:
    rng = np.random.default_rng(tags)
    people = _People(17, tags, room=3, dtype=np.dtype(np.float32))
    history: list[list[np.ndarray]] = [[], [], []]
    for k in range(17):
        for person in range(3):
            tag = (rng.normal(0, 10, tags) + person).astype(np.float32)
            if k == 0:
                people.open(k, np.zeros(3 + tags), tag)
            elif rng.random() < 0.8:
                people.join(k, np.array([person]), np.zeros((1, 3 + tags)), tag[None])
            else:
                continue
            history[person].append(tag)
        np.testing.assert_array_equal(people.means(3), [np.mean(each, axis=0) for each in history])


def test_order_of_joints() -> None:
    assert joint_order(17) == (0, 1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 10, 13, 14, 15, 16)
    assert joint_order(14) == (0, 1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 10, 13)
    assert all(sorted(joint_order(k)) == list(range(k)) for k in (1, 5, 14, 16, 17, 133))


@pytest.mark.parametrize("kernel", [1, 3, 5, 11])
def test_suppression_equals_max_pooling(kernel: int) -> None:
    heatmaps = torch.randn(2, 3, 9, 13, generator=torch.Generator().manual_seed(0)).mul(4).round()  # with ties
    highest = functional.max_pool2d(heatmaps, kernel, 1, kernel // 2)
    torch.testing.assert_close(suppress(heatmaps, kernel), heatmaps * (highest == heatmaps), rtol=0, atol=0)


def test_a_batch_is_its_images() -> None:
    scenes = [scene(persons, (40, 56), seed=persons) for persons in (3, 0, 7, 1)]
    together = parse_batch(torch.cat([det for det, _ in scenes]), torch.cat([tag for _, tag in scenes]))
    assert [len(scores) > 0 for _, scores in together] == [True, False, True, True]
    for (det, tag), (persons, scores) in zip(scenes, together, strict=True):
        alone = parse(det, tag)
        np.testing.assert_array_equal(persons, alone[0])
        np.testing.assert_array_equal(scores, alone[1])


def test_refinement_in_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    det, tag = scene(6, (40, 56), seed=5)
    whole = parse(det, tag)[0]
    monkeypatch.setattr(refinement, "_BLOCK", 1)
    np.testing.assert_array_equal(parse(det, tag)[0], whole)


def test_more_peaks_than_persons_kept() -> None:
    """40 well separated persons: the 30 highest peaks of each joint are read."""
    det, tag = scene(40, (160, 160), joints=3, seed=1, found=1.0)
    tag_k, _, val_k = (part[0].numpy() for part in top_k(det, tag))
    assert val_k.shape == (3, 30) and (np.diff(val_k, axis=1) <= 0).all()
    assert len(match(tag_k, np.zeros((3, 30, 2)), val_k)) >= 30


def test_oracle_is_another_implementation() -> None:
    """The slow matching agrees with a case worked out by hand, so that it can serve as the oracle above."""
    peaks = peaks_of([(0.0, 0.9), (5.0, 0.8)], [(5.2, 0.9), (0.1, 0.8)], [(20.0, 0.3)])
    persons = match_one_by_one(*peaks, PLAIN, by_scipy)
    np.testing.assert_allclose(persons[:, :, 2], [[0.9, 0.8, 0], [0.8, 0.9, 0], [0, 0, 0.3]], rtol=1e-6)
