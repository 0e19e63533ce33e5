"""What `farpose acquire` says comes next: stages read the data set in use, which need not be the one that was acquired."""

from __future__ import annotations

from pipelines.ingesting import next_step


def test_the_data_set_in_use_is_run() -> None:
    assert next_step("farm", "farm") == "farpose run"


def test_another_one_is_named_with_the_key() -> None:
    said = next_step("farm", "synthetic")
    assert "`source: farm` in params/data.yaml" in said and "synthetic is in use" in said and said.endswith("farpose run")
