"""Parameters are locked and typed; files are whole or absent."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path
from typing import Literal

import pytest

from components.base.config import load_yaml, parse
from components.base.errors import FarposeError, unknown_name
from components.base.files import atomic_directory, atomic_file, digest_of, read_json, size_in_words, write_json


@dataclasses.dataclass(frozen=True)
class Inner:
    sigma: float
    sizes: tuple[int, int] = (64, 48)


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    mode: Literal["fast", "exact"] = "fast"
    rate: float | None = None
    steps: list[int] = dataclasses.field(default_factory=list)
    table: dict[str, float] = dataclasses.field(default_factory=dict)


VALID = {"name": "a", "inner": {"sigma": 1}, "mode": "exact", "rate": "1e-3", "steps": [1, 2], "table": {"x": 1}}


def test_parse_builds_nested_dataclasses_with_exact_types():
    outer = parse(Outer, VALID, "file: key")
    assert outer == Outer("a", Inner(1.0, (64, 48)), "exact", 0.001, [1, 2], {"x": 1.0})
    assert type(outer.inner.sigma) is float and type(outer.table["x"]) is float


@dataclasses.dataclass(frozen=True)
class Start:
    init: str = dataclasses.field(metadata={"null": "none"})


def test_null_is_answered_with_the_value_that_is_meant():
    with pytest.raises(FarposeError, match=r"place\.init: null is none of its values \(write `init: none`\)"):
        parse(Start, {"init": None}, "place")
    assert parse(Start, {"init": "none"}, "place") == Start("none")
    with pytest.raises(FarposeError, match="'init' is missing"):
        parse(Start, {}, "place")


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (412_345, "412 kB"), (2_449_000, "2.4 MB"), (18_930_000_000, "18.9 GB")],
)
def test_sizes_in_words(count, words):
    assert size_in_words(count) == words


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"naem": "b"}, ["naem", "did you mean 'name'"]),
        ({"inner": {"sigma": 1, "sigmma": 2}}, ["place.inner", "sigmma", "did you mean 'sigma'"]),
        ({"inner": {}}, ["place.inner", "'sigma' is missing"]),
        ({"mode": "exat"}, ["place.mode", "did you mean 'exact'"]),
        ({"name": 3}, ["place.name", "expected a text", "3"]),
        ({"inner": {"sigma": True}}, ["place.inner.sigma", "expected a number"]),
        ({"inner": {"sigma": "wide"}}, ["place.inner.sigma", "expected a number", "wide"]),
        ({"inner": {"sigma": 1, "sizes": [64]}}, ["place.inner.sizes", "expected 2 values"]),
        ({"steps": [1, 2.5]}, ["place.steps[1]", "expected an integer"]),
        ({"inner": 5}, ["place.inner", "expected a mapping"]),
    ],
)
def test_parse_names_the_place_and_the_way_out(change, words):
    with pytest.raises(FarposeError) as caught:
        parse(Outer, VALID | change, "place")
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [("a: [1", ["not valid YAML", "line"]), ("- 1\n- 2\n", ["expected a mapping"]), ("a: 1\na: 2\n", ["'a' appears twice"])],
)
def test_load_yaml_names_what_is_wrong(tmp_path, text, words):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(FarposeError) as caught:
        load_yaml(path)
    assert str(path) in str(caught.value) and all(word in str(caught.value) for word in words)


def test_load_yaml_merges_shared_fragments_without_calling_them_repeats(tmp_path):
    path = tmp_path / "variants.yaml"
    path.write_text("_recipe: &recipe {epochs: 2, size: [64, 48]}\nfirst: {<<: *recipe, epochs: 5}\n")
    assert load_yaml(path)["first"] == {"epochs": 5, "size": [64, 48]}


def test_unknown_name_lists_the_known_ones_when_nothing_is_near():
    assert "known: alpha, beta" in str(unknown_name("thing", "zzz", ["beta", "alpha"]))


def test_a_failed_write_leaves_the_earlier_file_and_nothing_else(tmp_path):
    target = tmp_path / "out.json"
    write_json(target, {"good": 1})
    with pytest.raises(RuntimeError), atomic_file(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("killed")
    assert read_json(target) == {"good": 1}
    assert os.listdir(tmp_path) == ["out.json"]


def test_a_failed_directory_leaves_the_earlier_one_and_nothing_else(tmp_path):
    target = tmp_path / "out"
    with atomic_directory(target) as temporary:
        (temporary / "a").write_text("1")
    with pytest.raises(RuntimeError), atomic_directory(target) as temporary:
        (temporary / "a").write_text("2")
        raise RuntimeError("killed")
    assert (target / "a").read_text() == "1" and os.listdir(tmp_path) == ["out"]
    with atomic_directory(target) as temporary:
        (temporary / "b").write_text("3")
    assert os.listdir(target) == ["b"] and os.listdir(tmp_path) == ["out"]


def test_json_with_nan_is_refused(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"ap": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_malformed_json_is_named_with_line_and_column(tmp_path):
    (tmp_path / "x.json").write_text('{"a": 1,\n "b": }')
    with pytest.raises(FarposeError, match=r"x\.json: not valid JSON: .*line 2 column 7"):
        read_json(tmp_path / "x.json")


def test_digest_does_not_depend_on_the_order_of_keys():
    assert digest_of({"a": 1, "b": [2, 3]}) == digest_of(json.loads('{"b": [2, 3], "a": 1}')) != digest_of({"a": 1, "b": [3, 2]})


@pytest.fixture
def small_disk(tmp_path) -> Path:
    mount = tmp_path / "disk"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", mount], capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    yield mount
    subprocess.run(["umount", mount], check=True)


def test_a_full_disk_is_one_clear_error_and_the_earlier_file_stays(small_disk):
    target = small_disk / "out.bin"
    target.write_bytes(b"earlier")
    with pytest.raises(FarposeError, match=r"out\.bin: the disk is full .*MiB are free"), atomic_file(target) as temporary:
        temporary.write_bytes(bytes(1 << 20))
    assert target.read_bytes() == b"earlier" and os.listdir(small_disk) == ["out.bin"]
