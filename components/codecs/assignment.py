"""Minimum-cost assignment with the choice among equal costs that the published grouping makes.

Associative embedding rounds its costs, so several assignments of one total are usual, and which of them is taken decides who is
grouped with whom. `scipy.optimize.linear_sum_assignment` finds the same total but another of them. This is Munkres' algorithm
(1957) on the zero-padded square, with zeros searched in the order of the `munkres` package that the released codes call.
"""

from __future__ import annotations

import numpy as np

PADDING = 1e10  # cost of the columns that stand for "a person of its own"


def assign(cost: np.ndarray) -> np.ndarray:
    """(R,) column of each row; no column twice, the sum of the costs is the smallest possible.

    Args:
        cost: (R, C) finite float64, R <= C.
    """
    rows, size = cost.shape
    square = np.zeros((size, size))
    square[:rows] = cost
    square -= square.min(1, keepdims=True)
    search = _Search(square)
    while (path := search.augmenting_path()) is not None:
        for row, column in path:
            search.column_of[row], search.row_of[column] = column, row
    return np.array(search.column_of[:rows])


class _Search:
    """The zeros of a reduced cost matrix, as one integer of bits per row, and those chosen so far ("starred")."""

    def __init__(self, cost: np.ndarray) -> None:
        self.cost, self.size = cost, len(cost)
        self.column_of, self.row_of = [-1] * self.size, [-1] * self.size  # of the starred zeros
        self.zeros = _bits(cost == 0)
        free = (1 << self.size) - 1
        for row, zeros in enumerate(self.zeros):
            if candidates := zeros & free:
                column = (candidates & -candidates).bit_length() - 1  # the first one
                free ^= 1 << column
                self.column_of[row], self.row_of[column] = column, row

    def augmenting_path(self) -> list[tuple[int, int]] | None:
        """Zeros to star instead of those now in their columns, so that one more row is starred; None when all rows are."""
        if -1 not in self.column_of:
            return None
        uncovered = sum(1 << column for column, row in enumerate(self.row_of) if row < 0)
        primed = [-1] * self.size  # column of the zero found in each covered row
        row = column = 0
        while True:
            row, column = self._find(uncovered, primed, row, column)
            if row < 0:
                self._reduce(uncovered, primed)
                row = column = 0
            elif (starred := self.column_of[row]) < 0:
                return self._path(row, column, primed)
            else:
                primed[row] = column
                uncovered |= 1 << starred
                column = starred

    def _find(self, uncovered: int, primed: list[int], start_row: int, start_column: int) -> tuple[int, int]:
        """An uncovered zero, searched from a cell on and around: the first row that has one, and the last one in that row."""
        before = (1 << start_column) - 1
        for row in (*range(start_row, self.size), *range(start_row)):
            if primed[row] < 0 and (candidates := self.zeros[row] & uncovered):
                return row, ((candidates & before) or candidates).bit_length() - 1
        return -1, -1

    def _reduce(self, uncovered: int, primed: list[int]) -> None:
        """Make a new zero: the smallest uncovered cost moves from the uncovered columns to the covered rows.

        Where both apply it is added and taken away again, because the package does so and rounding tells.
        """
        covered_rows = np.array(primed) >= 0
        open_columns = np.array([bool(uncovered >> column & 1) for column in range(self.size)])
        smallest = self.cost[np.ix_(~covered_rows, open_columns)].min()
        self.cost[covered_rows] += smallest
        self.cost[:, open_columns] -= smallest
        self.zeros = _bits(self.cost == 0)

    def _path(self, row: int, column: int, primed: list[int]) -> list[tuple[int, int]]:
        path = [(row, column)]
        while (row := self.row_of[column]) >= 0:
            column = primed[row]
            path.append((row, column))
        return path


def _bits(mask: np.ndarray) -> list[int]:
    """One integer per row of a bool matrix; bit j is column j."""
    return [int.from_bytes(row.tobytes(), "little") for row in np.packbits(mask, axis=1, bitorder="little")]
