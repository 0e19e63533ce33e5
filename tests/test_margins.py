"""A variant that needs more margin than its planned shards have is refused before anything is cut."""

from __future__ import annotations

import dataclasses

import pytest

from components.base.errors import FarposeError
from components.degrade.params import MARGIN_SCALE, ShardSpec
from components.models import zoo
from components.train import recipe as recipes
from pipelines import checks, settings
from pipelines.settings import VariantPlan


def demanding() -> dict[str, float]:
    """Variants whose recipe asks for more than the usual margin, and how much."""
    base = recipes.load()
    needed = {name: recipes.resolve(variant, base).augmentation.margin_scale for name, variant in zoo.load_variants().items()}
    return {name: margin for name, margin in needed.items() if margin > MARGIN_SCALE + 1e-9}


def plan(monkeypatch: pytest.MonkeyPatch, name: str, spec: ShardSpec) -> None:
    """One variant in the pipeline, on shards of this spec."""
    table = next(path.stem for path in sorted(settings.PARAMS.glob("variants/*.yaml")) if f"\n{name}:" in f"\n{path.read_text()}")
    pipeline = dataclasses.replace(settings.load(), shards={spec.name: spec}, variants={name: VariantPlan(table, spec.name)})
    monkeypatch.setattr(settings, "load", lambda: pipeline)
    monkeypatch.setattr(checks, "data_of", lambda *_: None)  # the data set in use is another


def test_variants_that_need_more_margin_than_their_shards_have_are_refused(monkeypatch):
    needed = demanding()
    assert any(name.startswith("srpose") for name in needed) and any(name.startswith("sharpose") for name in needed)
    one_of_each = {(zoo.variant(name).method, margin): name for name, margin in needed.items()}
    for (_, margin), name in one_of_each.items():
        spec = ShardSpec(zoo.variant(name).input_size)
        enough = dataclasses.replace(spec, margin_scale=round(margin, 6))
        with monkeypatch.context() as patch, pytest.raises(FarposeError) as caught:
            plan(patch, name, spec)
            checks.parameters()
        message = str(caught.value)
        assert message.startswith(f"params/pipeline.yaml: variants.{name}: its augmentation needs shards with margin_scale {margin:g}")
        assert repr(enough.name) in message and "\n" not in message


def test_shards_with_the_margin_that_is_asked_for_are_accepted(monkeypatch):
    name, margin = next(iter(demanding().items()))
    plan(monkeypatch, name, ShardSpec(zoo.variant(name).input_size, margin_scale=round(margin, 6)))
    assert list(checks.parameters()["pipeline"].variants) == [name]
