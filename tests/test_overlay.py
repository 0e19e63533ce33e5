"""Examples as overlays: merged key by key, `_replace`d as a whole, the base's comments kept, and only what differs named."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.base.config import PARAMS
from components.base.errors import FarposeError
from pipelines.overlay import LIKE, REPLACE, example_over, laid_over, layers

EXAMPLES = sorted((PARAMS / "examples").glob("*/*.yaml"))
BASE = """# What the file is for.

data:
  source: synthetic      # in use
  sizes: [64, 48]        # px
  shares: {dev: 0.05}
  sources:               # by name
    one:
      path: a            # of one
    # before two
    two:
      path: "b"

flow:                    # the rest
  parallel: 2            # stages
  hours: 48
"""


def oracle(base: Any, overlay: Any, replaced: list[str], prefix: str = "") -> Any:
    """The rule, stated on values."""
    merged = copy.deepcopy(base)
    for key, value in overlay.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict) and value and base[key]
        merged[key] = oracle(base[key], value, replaced, f"{prefix}{key}.") if both and f"{prefix}{key}" not in replaced else value
    return merged


def comments(text: str) -> list[str]:
    return [line[line.index("#") :] for line in text.splitlines() if "#" in line]


OVERLAYS = {
    "a value": "data:\n  source: coco\n",
    "a longer value": "data:\n  source: something_of_a_much_longer_name\n",
    "a list": "data:\n  sizes: [256, 192]\n",
    "a mapping in braces": "data:\n  shares: {dev: 0.1, test: 0.2}\n",
    "braces over lines": "data:\n  sources: {one: {path: x, more: [1, 2]}, three: {path: d}}\nflow: {hours: 1, more: 'a, b'}\n",
    "lines over braces": "data:\n  shares:\n    test: a, b # of it\n    more:\n      deep: [1, {a: 2}]\n    dev: 0.2\n",
    "another kind of value": "data:\n  sizes:\n    - 1\n    - 2\n  shares: 3\n",
    "a mapping for a value": "flow:\n  parallel:\n    a: 1\n  hours: {b: 2}\n",
    "several at once": "data:\n  source: coco\n  sources:\n    two:\n      path: c\nflow:\n  parallel: 3\n",
    "added at every depth": "data:\n  sources:\n    one:\n      more: 1\n    three:\n      path: d # of it\n  new: 5\nextra:\n  x: 1\n",
    "added where the next is replaced": "_replace: [flow]\nflow:\n  other: 1\ndata:\n  new: 5\n",
    "a mapping as a whole": "_replace: [data.sources]\ndata:\n  sources:\n    three:\n      path: d\n",
    "indented by four": "data:\n    sources:\n        three:\n            path: d\n        one:\n            more: {a: 1}\n",
    "to nothing": "data:\n  source: null\n  sources:\n    one:\n      path:\n",
}


@pytest.mark.parametrize("base", [BASE, BASE.rstrip("\n")], ids=["", "no line break at the end"])
@pytest.mark.parametrize("case", OVERLAYS)
def test_the_values_are_those_of_the_rule(case: str, base: str) -> None:
    overlay = yaml.safe_load(OVERLAYS[case])
    replaced = overlay.pop(REPLACE, [])
    assert yaml.safe_load(laid_over(base, OVERLAYS[case], "here")) == oracle(yaml.safe_load(base), overlay, replaced)


KEPT = OVERLAYS.keys() - {case for case in OVERLAYS if REPLACE in OVERLAYS[case]} - {"another kind of value", "a mapping for a value"}


@pytest.mark.parametrize("case", sorted(KEPT))
def test_the_bases_comments_stay(case: str) -> None:
    kept = comments(laid_over(BASE, OVERLAYS[case], "here"))
    assert [comment for comment in kept if comment in comments(BASE)] == comments(BASE)


def test_a_comment_stays_in_its_column_where_there_is_room() -> None:
    line = next(line for line in laid_over(BASE, OVERLAYS["a value"], "here").splitlines() if "coco" in line)
    assert line == "  source: coco           # in use"


def test_nothing_else_changes() -> None:
    after = laid_over(BASE, OVERLAYS["several at once"], "here").splitlines()
    differing = [new for old, new in zip(BASE.splitlines(), after, strict=True) if old != new]
    assert differing == ["  source: coco           # in use", "      path: c", "  parallel: 3            # stages"]


@pytest.mark.parametrize("seed", range(20))
def test_random_overlays_follow_the_rule(seed: int) -> None:
    draw = random.Random(seed)

    def tree(depth: int) -> dict[str, Any]:
        keys = draw.sample("abcdef", draw.randint(1, 4))
        return {key: tree(depth - 1) if depth and draw.random() < 0.6 else draw.choice([1, "x", [1, 2], None, 0.5]) for key in keys}

    base, overlay = tree(3), tree(3)
    # lines all the way down, or braces around mappings of values alone
    texts = [[yaml.safe_dump(value, sort_keys=False, default_flow_style=style) for style in (False, None)] for value in (base, overlay)]
    for below, above in itertools.product(*texts):
        if not (below.startswith("{") or above.startswith("{")):
            assert yaml.safe_load(laid_over(below, above, "here")) == oracle(base, overlay, [])


@pytest.mark.parametrize(
    ("base", "overlay", "message"),
    [
        (BASE, "_replace: [data.source]\ndata:\n  source: x\n", "_replace names 'data.source', which is not a mapping of both files"),
        (BASE, "_replace: [data.sourcs]\ndata:\n  sources:\n    a: 1\n", "_replace names 'data.sourcs'"),
        (BASE, "- 1\n", "here: expected a mapping"),
        (BASE, "a: [\n", "here: not valid YAML"),
        ("a: &x {b: 1}\nc: *x\n", "a: 1\n", "what here is laid over: the file has anchors"),
    ],
)
def test_what_does_not_fit_is_named(base: str, overlay: str, message: str) -> None:
    with pytest.raises(FarposeError, match=message) as caught:
        laid_over(base, overlay, "here")
    assert "\n" not in str(caught.value)


def leaves(value: dict[str, Any], replaced: list[str], prefix: str = "") -> dict[str, Any]:
    """What an overlay states, by dotted key; what it replaces counts as one."""
    found: dict[str, Any] = {}
    for key, entry in value.items():
        dotted = f"{prefix}{key}"
        whole = not isinstance(entry, dict) or dotted in replaced
        found |= {dotted: entry} if whole else leaves(entry, replaced, f"{dotted}.")
    return found


@pytest.mark.parametrize("path", EXAMPLES, ids=[str(path.relative_to(PARAMS)) for path in EXAMPLES])
def test_an_example_names_only_what_differs_from_what_it_lies_on(path: Path) -> None:
    base = yaml.safe_load((PARAMS / path.name).read_text())
    expected = base
    for layer in layers(path):
        overlay = yaml.safe_load(layer.read_text())
        replaced, _ = overlay.pop(REPLACE, []), overlay.pop(LIKE, None)
        for dotted, value in leaves(overlay, replaced).items():
            below: Any = expected
            for key in dotted.split("."):
                below = below.get(key, ...) if isinstance(below, dict) else ...
            assert below != value, f"{layer}: {dotted} is as below"
        expected = oracle(expected, overlay, replaced)
    text = example_over((PARAMS / path.name).read_text(), path)
    assert yaml.safe_load(text) == expected != base
    head = (PARAMS / path.name).read_text().split("\n\n")[0].split("\n")[0]
    assert text.startswith(head + "\n"), "the base's head stays"


@pytest.fixture
def examples(tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    """Writes examples' files data.yaml, by name; the folder."""

    def write(texts: dict[str, str]) -> Path:
        for name, text in texts.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "data.yaml").write_text(text)
        return tmp_path

    return write


def test_an_example_lies_on_those_that_it_is_like(examples: Callable[[dict[str, str]], Path]) -> None:
    """Each file once, above all that it is like, in the order given."""
    folder = examples({
        "lowest": "data:\n  source: coco\n  new: 1\n",
        "left": "_like: lowest\ndata:\n  source: left\n  more: 2\n",
        "right": "_like: [lowest]\n_replace: [data.sources]\ndata:\n  sources:\n    three: 3\n",
        "top": "_like: [left, right]\ndata:\n  more: 4\n",
        "same": "_like: top   # nothing of its own\n",
    })  # fmt: skip
    names = [path.parent.name for path in layers(folder / "same" / "data.yaml")]
    assert names == ["lowest", "left", "right", "top", "same"]
    data = yaml.safe_load(example_over(BASE, folder / "same" / "data.yaml"))["data"]
    assert (data["source"], data["new"], data["more"], data["sources"]) == ("left", 1, 4, {"three": 3})
    assert data["sizes"] == [64, 48]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"one": "_like: two\n"}, "one/data.yaml: _like names 'two', which has no data.yaml"),
        ({"one": "_like: one\n"}, "_like names 'one', which is like it in turn"),
        ({"one": "_like: [two]\n", "two": "_like: one\n"}, "two/data.yaml: _like names 'one', which is like it in turn"),
    ],
)
def test_a_wrong_likeness_is_named(texts: dict[str, str], message: str, examples: Callable[[dict[str, str]], Path]) -> None:
    with pytest.raises(FarposeError, match=message):
        layers(examples(texts) / "one" / "data.yaml")
