"""Grouping joints into persons, ours against a loop over persons in Python. Run: python -m benchmarks.grouping"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from benchmarks import report
from components.codecs.grouping import Grouping, joint_order, match, parse_batch, top_k

PERSONS, SIZE, TARGET = 30, (512, 704), 5.0  # an image of 640x480 at short side 512, grouped at the input's size as published
SMALL, SCENES = (128, 176), 30  # for matching alone, which uses peaks and no maps
Peaks = tuple[np.ndarray, np.ndarray, np.ndarray]
Assign = Callable[[np.ndarray], list[tuple[int, int]]]


def scene(
    persons: int, size: tuple[int, int], joints: int = 17, tags: int = 2, seed: int = 0, spread: float = 0.05, found: float = 0.75
) -> tuple[torch.Tensor, torch.Tensor]:
    """Heatmaps (1, K, h, w) and tags (1, K, h, w, T) as a trained network's: blobs over a low background, a tag level per person.

    Args:
        spread: standard deviation of a person's tags; levels are 2 apart.
        found: share of the joints that have a blob.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    sigma = max(1.0, height / 128)  # 4 px at 512
    det = np.abs(rng.normal(0, 0.01, (joints, height, width)))
    tag = rng.normal(0, 0.3, (joints, height, width, tags))
    y, x = np.mgrid[:height, :width]
    for person in range(persons):
        center = rng.uniform(0.1, 0.9, 2) * [width, height]
        for k in np.flatnonzero(rng.random(joints) < found):
            cx, cy = np.clip(center + rng.normal(0, 0.06 * height, 2), 0, [width - 1, height - 1])
            blob = rng.uniform(0.3, 1) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2))
            tag[k][blob > np.maximum(det[k], 0.05)] = 2 * (person + 1) + rng.normal(0, spread, tags)
            det[k] = np.maximum(det[k], blob)
    return torch.from_numpy(det.astype(np.float32))[None], torch.from_numpy(tag.astype(np.float32))[None]


def by_scipy(cost: np.ndarray) -> list[tuple[int, int]]:
    return [(int(row), int(column)) for row, column in zip(*linear_sum_assignment(cost), strict=True)]


def by_munkres(cost: np.ndarray) -> list[tuple[int, int]]:
    """Munkres' algorithm on lists of Python numbers, as in the package that the released codes use."""
    rows, size = cost.shape
    c = [list(map(float, row)) for row in cost] + [[0.0] * size for _ in range(size - rows)]
    c = [[value - min(row) for value in row] for row in c]
    star, column_star = [-1] * size, [-1] * size
    for i in range(size):
        for j in range(size):
            if c[i][j] == 0 and column_star[j] < 0:
                star[i], column_star[j] = j, i
                break
    while -1 in star:
        prime, closed = [-1] * size, [row >= 0 for row in column_star]
        while True:
            zero = next(((i, j) for i in range(size) if prime[i] < 0 for j in range(size) if not closed[j] and c[i][j] == 0), None)
            if zero is None:
                low = min(c[i][j] for i in range(size) if prime[i] < 0 for j in range(size) if not closed[j])
                for i in range(size):
                    for j in range(size):
                        c[i][j] += (low if prime[i] >= 0 else 0.0) - (0.0 if closed[j] else low)
                continue
            i, j = zero
            if star[i] < 0:
                break
            prime[i] = j
            closed[star[i]] = False
        while True:
            before = column_star[j]
            star[i], column_star[j] = j, i
            if before < 0:
                break
            i, j = before, prime[before]
    return list(enumerate(star[:rows]))


def match_one_by_one(tag_k: np.ndarray, loc_k: np.ndarray, val_k: np.ndarray, settings: Grouping, assign: Assign) -> np.ndarray:
    """The published way: persons are entries of a mapping, visited one after another for every joint."""
    joints, tags = len(val_k), tag_k.shape[-1]
    people: dict[float, np.ndarray] = {}
    history: dict[float, list[np.ndarray]] = {}

    def open_person(k: int, candidate: np.ndarray, tag: np.ndarray) -> None:
        people.setdefault(tag[0], np.zeros((joints, 3 + tags)))[k] = candidate
        history[tag[0]] = [tag]

    for k in joint_order(joints):
        candidates = np.concatenate([loc_k[k], val_k[k][:, None], tag_k[k]], 1)
        chosen = candidates[:, 2] > settings.detection_threshold
        candidates, own_tags = candidates[chosen], tag_k[k][chosen]
        if not people:
            for candidate, tag in zip(candidates, own_tags, strict=True):
                open_person(k, candidate, tag)
            continue
        names = list(people)[: settings.max_persons]
        if len(candidates) == 0 or (settings.ignore_too_much and len(names) == settings.max_persons):
            continue
        means = np.array([np.mean(history[name], axis=0) for name in names])
        distance = np.linalg.norm(candidates[:, None, 3:] - means[None], ord=2, axis=2)
        cost = np.round(distance) * 100 - candidates[:, 2:3] if settings.use_detection_value else distance.copy()
        if len(candidates) > len(names):
            cost = np.concatenate([cost, np.full((len(candidates), len(candidates) - len(names)), 1e10)], axis=1)
        for row, column in assign(cost):
            if column < len(names) and distance[row, column] < settings.tag_threshold:
                people[names[column]][k] = candidates[row]
                history[names[column]].append(own_tags[row])
            else:
                open_person(k, candidates[row], own_tags[row])
    return np.array(list(people.values()), np.float32).reshape(-1, joints, 3 + tags)


def _quarter(heatmap: np.ndarray, x: int, y: int) -> tuple[float, float]:
    """The joint's place: half a cell from the cell's corner, and a quarter cell towards the higher neighbour."""
    height, width = heatmap.shape
    right = heatmap[y, min(x + 1, width - 1)] > heatmap[y, max(x - 1, 0)]
    below = heatmap[min(y + 1, height - 1), x] > heatmap[max(y - 1, 0), x]
    return x + 0.5 + (0.25 if right else -0.25), y + 0.5 + (0.25 if below else -0.25)


def refine_one(det: np.ndarray, tag: np.ndarray, person: np.ndarray) -> np.ndarray:
    """Search the whole map of every joint for its best place, and fill in the missing joints."""
    has = person[:, 2] > 0
    mean = np.mean([tag[k, int(person[k, 1]), int(person[k, 0])] for k in np.flatnonzero(has)], axis=0)
    for k in range(len(person)):
        away = ((tag[k] - mean) ** 2).sum(axis=2) ** 0.5
        y, x = np.unravel_index(np.argmax(det[k] - np.round(away)), det[k].shape)
        if not has[k] and det[k, y, x] > 0:
            person[k, :3] = *_quarter(det[k], int(x), int(y)), det[k, y, x]
    return person


def parse_one_by_one(
    det: torch.Tensor, tag: torch.Tensor, settings: Grouping | None = None, assign: Assign = by_munkres
) -> tuple[np.ndarray, np.ndarray]:
    """`parse_batch` of one image, (1, K, h, w), in the published way."""
    settings = settings or Grouping()
    tag_k, loc_k, val_k = (part[0].numpy() for part in top_k(det, tag, settings))
    people = match_one_by_one(tag_k, loc_k, val_k, settings, assign)
    heatmaps, tags = det[0].numpy(), tag[0].numpy()
    if settings.adjust:
        for person in people:
            for k, joint in enumerate(person):
                if joint[2] > 0:
                    joint[:2] = _quarter(heatmaps[k], int(joint[0]), int(joint[1]))
    scores = np.array([person[:, 2].mean() for person in people])
    if settings.refine:
        for i in range(len(people)):
            people[i] = refine_one(heatmaps, tags, people[i])
    return people, scores


def compare(name: str, published: Callable[[], Any], ours: Callable[[], Any], **facts: Any) -> dict[str, Any]:
    """One row; both implementations must find the same persons."""
    if not all(np.array_equal(mine, other) for mine, other in zip(ours(), published(), strict=True)):
        raise SystemExit(f"{name}: the two implementations find different persons")
    seconds = report.interleave({"published": published, "ours": ours})
    return report.row(name, seconds["published"], seconds["ours"], TARGET, identical=True, **facts, seconds=seconds)


def main() -> None:
    torch.set_num_threads(1)
    settings = Grouping()
    det, tag = scene(PERSONS, SIZE)
    facts: dict[str, Any] = {"persons": PERSONS, "size": SIZE, "scenes": 1}
    rows = [compare("grouping", partial(parse_one_by_one, det, tag, settings), lambda: parse_batch(det, tag, settings)[0], **facts)]
    drawn = [_peaks(seed, settings) for seed in range(SCENES)]
    peaks = [each for each in drawn if np.array_equal(match(*each, settings), match_one_by_one(*each, settings, by_munkres))]
    facts = {"persons": PERSONS, "size": SMALL, "scenes": len(peaks), "scenes_left_out_for_ties": len(drawn) - len(peaks)}
    by_hand, by_library = (
        compare("matching", partial(_all, match_one_by_one, peaks, settings, assign), partial(_all, match, peaks, settings), **facts)
        for assign in (by_munkres, by_scipy)
    )
    rows.append(by_hand | {"ratio_with_scipy_in_both": by_library["ratio"], "spread_with_scipy_in_both": by_library["spread"]})
    report.write("grouping", rows, note="other processes shared the cores; turns are interleaved, so both were slowed alike")


def _peaks(seed: int, settings: Grouping) -> Peaks:
    tag_k, loc_k, val_k = (part[0].numpy() for part in top_k(*scene(PERSONS, SMALL, seed=seed), settings))
    return tag_k, loc_k, val_k


def _all(function: Callable[..., np.ndarray], peaks: list[Peaks], *arguments: Any) -> list[np.ndarray]:
    return [function(*each, *arguments) for each in peaks]


if __name__ == "__main__":
    main()
