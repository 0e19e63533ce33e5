"""The demo's marked parts of README.md."""

from __future__ import annotations

import pytest

from benchmarks import demo
from components.base.errors import FarposeError


def test_readme_has_the_marks_and_only_what_is_between_them_changes():
    text = demo.README.read_text()
    changed = demo.part(demo.part(text, demo.PICTURE, r"a \1 caption"), demo.TABLE, "| a |\n| b |\n")
    assert rf"{demo.PICTURE}{chr(10)}a \1 caption{chr(10)}{demo.END}" in changed
    assert f"{demo.TABLE}\n| a |\n| b |\n{demo.END}" in changed
    assert changed.count(demo.END) == text.count(demo.END) == 2
    before, after = (one.split(demo.TABLE)[0].split(demo.PICTURE)[0] for one in (text, changed))
    assert before == after and changed.endswith(text.split(demo.END)[-1])


def test_a_missing_mark_is_named():
    with pytest.raises(FarposeError, match=r"README\.md.*is missing"):
        demo.part("no marks", demo.TABLE, "")


@pytest.mark.parametrize("between", ["", "old\n", "old\n\nlines\n"])
def test_a_part_ends_at_its_own_end_even_if_nothing_stands_in_it(between):
    other = f"text\n{demo.PICTURE}\nkept\n{demo.END}\n"
    text = f"{demo.TABLE}\n{between}{demo.END}\n{other}"
    assert demo.part(text, demo.TABLE, "| a |") == f"{demo.TABLE}\n| a |\n{demo.END}\n{other}"
