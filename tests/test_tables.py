"""docs/tables.md against params/variants: every row of the papers' tables is a variant with the same numbers, or has a reason."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from components.base.config import REPOSITORY
from components.base.errors import FarposeError
from components.models import zoo
from components.models.paper import Paper

VARIANTS = zoo.load_variants()
PAGE = REPOSITORY / "docs" / "tables.md"
SOURCES = ("SRPose README", "CAL README", "HigherPose README", "SIU README", "an earlier SIU README", "SHaRPose")
NUMBERS = [field.name for field in dataclasses.fields(Paper) if field.type.startswith("float") and field.name != "detector_ap"]


class Row(NamedTuple):
    """One row of a table of the page."""

    source: str
    label: str
    numbers: dict[str, float]
    variants: tuple[str, ...]
    reason: str


def rows() -> Iterator[Row]:
    """The rows of all sections but the introduction."""
    for section in PAGE.read_text().split("\n## ")[1:]:
        (source,) = re.findall(r"^Printed in: ([^.]+)\.", section, re.MULTILINE)
        header, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("| "))
        for cells in lines:
            numbers = {key: float(cell) for key, cell in zip(header[1:-1], cells[1:-1], strict=True) if cell}
            yield Row(source, cells[0], numbers, tuple(re.findall(r"`(\w+)`", cells[-1])), cells[-1])


ROWS = list(rows())


def printed(paper: Paper) -> dict[str, float]:
    return {name: getattr(paper, name) for name in NUMBERS if getattr(paper, name) is not None}


def papers(name: str, source: str) -> list[Paper]:
    """The rows that a variant carries of one source."""
    every = (VARIANTS[name].paper, *VARIANTS[name].reprints)
    return [paper for paper in every if paper.source is not None and paper.source.startswith(source)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.source}: {row.label}")
def test_a_row_is_a_variant_with_the_same_numbers_or_says_why_not(row):
    if not row.variants:
        assert len(row.reason.split()) > 3 and row.numbers
        return
    for name in row.variants:
        assert name in VARIANTS
        carried = [printed(paper) for paper in papers(name, row.source)]
        assert any(row.numbers.items() <= numbers.items() and numbers["ap" if "ap" in numbers else "pckh50"] for numbers in carried), name


def test_no_table_is_empty_and_no_paper_is_missing():
    assert {row.source for row in ROWS} == set(SOURCES)
    assert len(ROWS) == 12 + 4 + 5 + 5 + 10 + 6 + 6 + 18 + 2 + 4


def test_every_variant_with_numbers_of_these_papers_stands_in_the_page():
    named = {(row.source, name) for row in ROWS for name in row.variants}
    for name in VARIANTS:
        for source in SOURCES:
            assert not papers(name, source) or (source, name) in named, (name, source)


def test_what_a_variant_carries_is_all_in_the_page():
    """Every AP, AR and PCKh, so that the page cannot lack a column."""
    for source in SOURCES:
        for row in (row for row in ROWS if row.source == source):
            for name in row.variants:
                scores = [{key for key in printed(paper) if key.startswith(("ap", "ar", "pckh"))} for paper in papers(name, source)]
                assert any(keys <= row.numbers.keys() for keys in scores), (name, scores)


@pytest.mark.parametrize(
    "name", [name for name in VARIANTS if VARIANTS[name].paper.ap is not None or VARIANTS[name].paper.pckh50 is not None]
)
def test_a_printed_score_says_whose_boxes_and_which_start(name):
    for paper in (VARIANTS[name].paper, *VARIANTS[name].reprints):
        assert paper.boxes and paper.start and paper.source
        assert (paper.boxes == "none") == (VARIANTS[name].approach == "images")
        assert (paper.boxes == "annotated") == (VARIANTS[name].dataset == "mpii")
        assert "start" in paper.conditions or "supernet" in paper.conditions


@pytest.mark.parametrize(("values", "message"), [
    ({"ap": 70.0}, "a printed AP or PCKh needs its boxes and start and source"),
    ({"pckh50": 88.0, "boxes": "annotated", "source": "a table"}, "needs its start"),
    ({"ap": 70.0, "boxes": "detector", "start": "mae", "source": "a table"}, "detector_ap belongs to boxes: detector"),
    ({"ap": 70.0, "boxes": "none", "detector_ap": 56.4, "start": "mae", "source": "a table"}, "detector_ap belongs to boxes: detector"),
])  # fmt: skip
def test_a_bare_number_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Paper(**values)


def test_the_conditions_of_a_score_in_words():
    assert VARIANTS["hrnet_w32_coco_256x192"].paper.conditions == "detector boxes (AP 56.4), ImageNet start"
    assert VARIANTS["cal_hrnet_w32_coco_64x48"].paper.conditions == "boxes not said, ImageNet start"
    assert VARIANTS["sharpose_base_coco_384x288"].paper.conditions == "detector boxes (AP 56.4), MAE start"
    assert VARIANTS["litepose_s_coco_448"].paper.conditions == "no boxes, cut out of a trained supernet"
    assert VARIANTS["hrnet_w32_coco_64x48_fused"].paper.conditions == ""


def test_a_files_shared_paper_fills_up_printed_rows_only(tmp_path):
    text = "_paper: {boxes: none, start: mae, source: a table}\n"
    entry = "  method: hrnet\n  backbone: hrnet_tiny\n  dataset: coco\n  input_size: [64, 48]\n"
    text += f"hrnet_tiny_coco_64x48:\n{entry}  paper: {{ap: 1, start: random}}\n  reprints: [{{ap: 2, source: another}}]\n"
    text += f"hrnet_tiny_coco_64x48_bare:\n{entry}  tag: bare\n"
    (tmp_path / "a.yaml").write_text(text)
    variants = zoo.load_variants(tmp_path)
    full = variants["hrnet_tiny_coco_64x48"]
    assert (full.paper.boxes, full.paper.start, full.paper.source) == ("none", "random", "a table")
    assert (full.reprints[0].start, full.reprints[0].source) == ("mae", "another")
    assert variants["hrnet_tiny_coco_64x48_bare"].paper == Paper()
    (tmp_path / "a.yaml").write_text(text.replace("source: a table", "sauce: a table"))
    with pytest.raises(FarposeError, match=r"hrnet_tiny_coco_64x48\.paper: unknown parameter 'sauce' \(did you mean 'source'"):
        zoo.load_variants(tmp_path)
