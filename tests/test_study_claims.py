"""What docs/study.md says in words: every number with an interval is one of the study's result files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from components.base.config import REPOSITORY
from components.base.files import read_json

RESULTS, PAGE = REPOSITORY / "results", REPOSITORY / "docs" / "study.md"
SIGNED = r"([+−]?\d+\.\d)"
CLAIM = re.compile(rf"{SIGNED},? \(?{SIGNED} to {SIGNED}")  # 1.8 AP (1.0 to 2.5) is read without its unit
ROW = re.compile(r"(\d+\.\d)\** \((\d+\.\d)[-–](\d+\.\d)\)")  # of a table in a README
ROUNDED = 0.0551  # half a digit of the text, and half a digit of a file that is rounded itself

Interval = tuple[float, float, float]


def known() -> list[Interval]:
    """Every value with its interval in the study's files, in percent, and turned around."""
    found: list[Interval] = []
    for path in [*(RESULTS / "study").glob("*.json"), *(RESULTS / "lowres").glob("*.json")]:
        for value, low, high in intervals(read_json(path)):
            for scale in (1, 100, -1, -100):
                first, last = sorted((scale * low, scale * high))
                found.append((scale * value, first, last))
    text = (RESULTS / "bottom_up_pretrained" / "README.md").read_text()
    return [*found, *((float(a), float(b), float(c)) for a, b, c in ROW.findall(text))]


def intervals(record: Any) -> Iterator[Interval]:
    """`value`, `value_low`, `value_high`, or a value beside `low` and `high`, at any depth."""
    if isinstance(record, list):
        record = dict(enumerate(record))
    if not isinstance(record, dict):
        return
    for key, value in record.items():
        ends = [(record.get(f"{key}_low"), record.get(f"{key}_high")), (record.get("low"), record.get("high"))]
        for low, high in ends:
            if all(isinstance(number, float | int) for number in (value, low, high)):
                yield float(value), float(low), float(high)
        yield from intervals(value)


def claims() -> list[Interval]:
    words = " ".join(line.strip() for line in PAGE.read_text().splitlines() if not line.startswith("|"))
    words = words.replace(" AP (", " (")
    numbers = [tuple(float(one.replace("−", "-")) for one in found) for found in CLAIM.findall(words)]
    return [(value, *sorted(ends)) for value, *ends in numbers]


KNOWN = known()


def test_the_page_has_claims():
    assert len(claims()) > 80


@pytest.mark.parametrize("claim", dict.fromkeys(claims()), ids=lambda claim: "{:+.1f} ({:+.1f} to {:+.1f})".format(*claim))
def test_a_claim_s_number_and_interval_stand_in_a_result_file(claim):
    assert any(all(abs(said - measured) < ROUNDED for said, measured in zip(claim, one, strict=True)) for one in KNOWN)
