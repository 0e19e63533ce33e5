"""Great Expectations' Data Docs as one HTML file that needs no network.

GX renders each table's result to content blocks, and its templates render these to HTML. Only the page around them is
replaced, because GX's page loads Bootstrap, jQuery, Vega and fonts from content delivery networks.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from components.base.files import atomic_file
from components.datasets.validate_suite import ROW_NAMES, Check

PAGE = Path(__file__).with_name("validate_page.html.j2")


def write_docs(path: Path, checks: list[Check], results: list[Any], facts: dict[str, str]) -> None:
    """Write the page.

    Args:
        checks: shown in the page's own table, failed ones first with their offending rows.
        results: Great Expectations' result of each table, shown below, column by column.
        facts: names and values of facts about the run.
    """
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    view = DefaultJinjaPageView()
    tables = []
    for result in results:
        document = ValidationResultsPageRenderer().render(result).to_json_dict()
        # The first two sections repeat this page's head (status, run, batch); the others are the expectations.
        sections = [section for section in document["sections"] if section.get("section_name") not in ("Overview", "Run Info")]
        tables.append({"name": result.suite_name, "sections": _escaped(sections)})
    html = view.env.from_string(PAGE.read_text()).render(checks=checks, tables=tables, facts=facts, row_names=ROW_NAMES)
    with atomic_file(path) as temporary:
        temporary.write_text("\n".join(line.rstrip() for line in html.splitlines() if line.strip()) + "\n")


def _escaped(block: Any) -> Any:
    """The content block with the plain cells of its tables escaped: GX does not escape the data's values."""
    if isinstance(block, list):
        return [_escaped(item) for item in block]
    if not isinstance(block, dict):
        return block
    escaped = {key: _escaped(item) for key, item in block.items()}
    if "table" in block:
        escaped["table"] = [[escape(cell) if isinstance(cell, str) else _escaped(cell) for cell in row] for row in block["table"]]
    return escaped
