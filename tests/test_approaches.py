"""Both approaches fulfil one contract, and nothing outside of them asks which one it works with."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from components import approaches
from components.base.errors import FarposeError
from components.evaluate.approach import Approach
from components.evaluate.feed import Feed
from components.models import zoo

REPOSITORY = Path(__file__).resolve().parents[1]
NAMES = ("crops", "images")
METHODS = [name for name, value in vars(Approach).items() if inspect.isfunction(value) and not name.startswith("_")]


@pytest.mark.parametrize("name", NAMES)
def test_an_approach_answers_everything_that_the_pipeline_asks(name: str) -> None:
    found = approaches.approach(name)
    assert found.name == name and found.needs and isinstance(found.takes_boxes, bool) and found.draw_above < 1
    for method in METHODS:
        asked = list(inspect.signature(getattr(Approach, method)).parameters)[1:]
        assert list(inspect.signature(getattr(found, method)).parameters) == asked, method
    feed = approaches.feed(name)
    assert feed.name == name
    for method, value in vars(Feed).items():
        assert not inspect.isfunction(value) or method.startswith("_") or callable(getattr(feed.open, method)), method


def test_every_variant_names_one_of_them() -> None:
    variants = zoo.load_variants().values()
    assert {variant.approach for variant in variants} == set(NAMES)
    for variant in variants:
        shown = approaches.approach(variant.approach)
        assert shown.takes(shown.spec(variant)) and not any(
            other.takes(shown.spec(variant)) for other in map(approaches.approach, NAMES) if other.name != shown.name
        )


@pytest.mark.parametrize("look_up", [approaches.approach, approaches.feed])
def test_an_unknown_approach_is_named(look_up) -> None:
    with pytest.raises(FarposeError, match=r"unknown approach 'crop' .*did you mean 'crops'"):
        look_up("crop")


def test_nothing_outside_of_them_asks_which_one_it_is() -> None:
    asks = re.compile(r"\bapproach\s*[=!]=|\bshown\.name\s*[=!]=|isinstance\([^)]*Eval(Crops|Images)")
    files = [path for folder in ("components", "pipelines") for path in (REPOSITORY / folder).rglob("*.py")]
    entry = REPOSITORY / "components" / "models" / "variant.py"  # whose name and sizes follow from it
    others = [path for path in files if "approaches" not in path.parts and path != entry]
    assert len(others) > 150
    assert {str(path.relative_to(REPOSITORY)): asks.findall(path.read_text()) for path in others if asks.search(path.read_text())} == {}
