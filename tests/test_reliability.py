"""docs/reliability.md says what results/reliability.json counted, and its tests are there."""

from __future__ import annotations

import ast

import pytest

from benchmarks import faults
from components.base.files import read_json
from tests.repositories import REPOSITORY


def test_the_table_is_that_of_the_counts():
    assert faults.table(read_json(faults.RESULT)["survived"]) in faults.DOCUMENT.read_text()


def test_every_count_has_a_row():
    counted = read_json(faults.RESULT)["survived"]
    assert counted and counted.keys() <= {row.fault for row in faults.ROWS} and min(counted.values()) > 0


@pytest.mark.parametrize("row", faults.ROWS, ids=lambda row: row.fault)
def test_a_rows_test_is_there(row):
    file, function = row.test.split("::")
    names = [node.name for node in ast.walk(ast.parse((REPOSITORY / "tests" / file).read_text())) if isinstance(node, ast.FunctionDef)]
    assert function in names
