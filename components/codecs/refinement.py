"""The place of a joint inside its cell, and the best cell for a missing joint (`adjust`, `refine` of HigherHRNet's code).

All persons and joints of a batch are processed at once on the maps' device; only joints are copied to the host.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_BLOCK = 1 << 22  # person-cell pairs processed at a time; bounds the memory
_PIECE = 64  # cells that are skipped or searched together
_STEP = 13  # every 13th cell gives a lower bound of the best value; 13 divides no usual width, so all columns take part


def mean_tags(tags: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(N, T) mean of the first `counts` (N,) of (N, n, T) tags, rounded exactly as numpy's mean of them alone."""
    means = np.zeros((len(tags), tags.shape[-1]), tags.dtype)
    for count in set(counts.tolist()):
        means[counts == count] = tags[counts == count, :count].mean(1)
    return means


def adjusted(det: Tensor, persons: np.ndarray, image: np.ndarray) -> np.ndarray:
    """A copy of the persons (N, K, 3 + T) of images `image` (N,) with their joints moved inside their cells."""
    person, k = np.nonzero(persons[:, :, 2] > 0)
    cells = persons[person, k, :2]
    persons = persons.copy()
    persons[person, k, :2] = cells + _offsets(det, image[person], k, cells.astype(np.int64))
    return persons


def _offsets(det: Tensor, image: np.ndarray, k: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """(n, 2) from a cell's corner to the joint: half a cell and a quarter towards the higher neighbour, in x and in y.

    Neighbours beyond the border are the border's cell. As published, the joint moves towards the corner if neighbours are equal.
    """
    height, width = det.shape[-2:]
    x, y = cells[:, 0], cells[:, 1]
    right, left, below, above = np.minimum(x + 1, width - 1), np.maximum(x - 1, 0), np.minimum(y + 1, height - 1), np.maximum(y - 1, 0)
    columns, rows = np.stack([right, left, x, x]), np.stack([y, y, below, above])
    index = torch.from_numpy(((image * det.shape[1] + k) * height + rows) * width + columns).to(det.device)
    after_x, before_x, after_y, before_y = det.reshape(-1)[index].cpu().numpy()
    higher = np.stack([after_x > before_x, after_y > before_y], -1)
    return np.where(higher, 0.75, 0.25)


def filled(det: Tensor, tag: Tensor, persons: np.ndarray, image: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """(n, 3) x, y and height of the best place for each joint marked in `missing` (N, K), zeros where its height is not above 0.

    The best place has the highest value: the cell's height less the rounded distance of its tags to the person's mean.

    Args:
        det: (B, K, h, w) heatmaps.
        tag: (B, K, h, w, T) tags.
        persons: (N, K, 3 + T) with whole cells, of images `image` (N,).
    """
    first = np.argsort(missing, axis=1, kind="stable")  # joints that are present, in the skeleton's order
    tags = np.take_along_axis(persons[:, :, 3:], first[..., None], 1)
    means = torch.from_numpy(mean_tags(tags, (~missing).sum(1))).to(det.device, det.dtype)
    person, k = np.nonzero(missing)
    index = torch.zeros(len(person), dtype=torch.int64, device=det.device)
    for b, joint in np.unique(np.stack([image[person], k], -1), axis=0):
        pairs = np.flatnonzero((image[person] == b) & (k == joint))
        index[torch.from_numpy(pairs).to(det.device)] = _best(det[b, joint], tag[b, joint], means[person[pairs]])
    width = det.shape[-1]
    heights = det.flatten(2)[torch.from_numpy(image[person]), torch.from_numpy(k), index.cpu()].cpu().numpy()
    flat = index.cpu().numpy()
    cells = np.stack([flat % width, flat // width], -1)
    found = np.concatenate([cells + _offsets(det, image[person], k, cells), heights[:, None]], -1)
    return np.where(heights[:, None] > 0, found, 0.0)


def _best(det: Tensor, tag: Tensor, means: Tensor) -> Tensor:
    """(m,) flat index of the first cell with the highest value for each of m mean tags (m, T), in one map (h, w), tags (h, w, T).

    Few cells are searched. The best value among every 13th cell is a lower bound; a piece of the map is skipped if its highest
    cell and nearest tags together cannot reach that bound.
    """
    pad = -det.numel() % _PIECE
    heights = functional.pad(det.flatten(), (0, pad), value=-torch.inf).view(-1, _PIECE)
    tags = functional.pad(tag.flatten(0, 1).T, (0, pad)).view(tag.shape[-1], -1, _PIECE)
    top, (low, high) = heights.amax(1), torch.aminmax(tags, dim=2)
    limit = _values(heights.view(-1)[::_STEP], tags.flatten(1)[:, ::_STEP], means.T[..., None]).amax(1)
    found = [torch.zeros(0, dtype=torch.int64, device=det.device)]
    for part in torch.arange(len(means), device=det.device).split(max(1, _BLOCK // heights.numel())):
        mean = means[part, :, None]
        away = ((low - mean).clamp(min=0) + (mean - high).clamp(min=0)).square().sum(1).sqrt()  # (m, pieces)
        reach = top - (away * (1 - 1e-5) - 0.501).clamp(min=0)  # a distance is rounded by at most a half; the rest is float error
        row, piece = (reach >= limit[part, None]).nonzero(as_tuple=True)
        values = _values(heights[piece], tags[:, piece], means[part][row].T[..., None])
        found.append(_first_highest(values, row, piece, len(part)))
    return torch.cat(found)


def _values(heights: Tensor, tags: Tensor, means: Tensor) -> Tensor:
    """(m, n) heights less the rounded distances of tags (T, n) or (T, m, n) to means (T, m, 1)."""
    distance = (tags[0] - means[0]).square_()
    for t in range(1, len(tags)):
        distance += (tags[t] - means[t]).square_()
    return heights - distance.sqrt_().round_()


def _first_highest(values: Tensor, row: Tensor, piece: Tensor, rows: int) -> Tensor:
    """(rows,) first cell with the highest of the values (q, _PIECE) that belong to a row; 0 for a row without any."""
    best = values.new_full((rows,), -torch.inf).scatter_reduce_(0, row, values.amax(1), "amax")
    cells = piece[:, None] * _PIECE + torch.arange(_PIECE, device=values.device)
    none = int(piece.max()) * _PIECE + _PIECE if len(piece) else 0
    first = torch.where(values == best[row, None], cells, none).amin(1)
    cell = row.new_full((rows,), none).scatter_reduce_(0, row, first, "amin")
    return torch.where(cell < none, cell, 0)
