"""A pipeline entry chooses its recipe."""

from __future__ import annotations

import pytest
import yaml

from components.base.config import PARAMS
from components.base.errors import FarposeError
from pipelines import settings

NAME = "cal_fused_fpn_synthetic_64x48_x2"


def pipeline(tmp_path, **plan):
    text = yaml.safe_load((PARAMS / "pipeline.yaml").read_text())
    text["variants"][NAME].update(plan)
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(text))
    return settings.load(tmp_path / "pipeline.yaml")


def test_a_variant_is_trained_by_its_published_recipe_unless_its_entry_says_matched(tmp_path):
    assert pipeline(tmp_path).recipe_of(NAME) == "published"
    assert pipeline(tmp_path, recipe="matched").recipe_of(NAME) == "matched"
    assert pipeline(tmp_path).recipe_of("hrnet_w32_coco_256x192") == "published", "outside of the pipeline"


def test_an_unknown_recipe_is_refused(tmp_path):
    with pytest.raises(FarposeError, match=r"variants\.cal_fused_fpn_synthetic_64x48_x2\.recipe: unknown value 'match'"):
        pipeline(tmp_path, recipe="match")
