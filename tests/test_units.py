"""Numbers' names in MLflow: what is in percent, and that each one that stages record is explained."""

from __future__ import annotations

import pytest

from components.registry import units


@pytest.mark.parametrize(
    ("key", "value", "name", "shown"),
    [
        ("AP_gt_boxes", 0.25, "AP_gt_boxes_percent", 25.0),
        ("AP50_gt_boxes", 1.0, "AP50_gt_boxes_percent", 100.0),
        ("AP_M_no_boxes_letterbox", 0.5, "AP_M_no_boxes_letterbox_percent", 50.0),
        ("AP_gt_boxes_low", 0.125, "AP_gt_boxes_low_percent", 12.5),
        ("target_AP", 0.75, "target_AP_percent", 75.0),
        ("target_AP75", 0.75, "target_AP75_percent", 75.0),
        ("dev_AP_gt_boxes", 0.5, "dev_AP_gt_boxes_percent", 50.0),
        ("paper_PCKh_50", 0.5, "paper_PCKh_50_percent", 50.0),
        ("PCK_torso_gt_boxes", 0.5, "PCK_torso_gt_boxes_percent", 50.0),
        ("PCK_torso_left_out_gt_boxes", 3, "PCK_torso_left_out_gt_boxes", 3),
        ("mean_OKS_gt_boxes", 0.5, "mean_OKS_gt_boxes", 0.5),
        ("params_m", 4.5, "parameters_millions", 4.5),
        ("data_share", 0.25, "data_share_percent", 25.0),
        ("images_per_second", 100.0, "images_per_second", 100.0),
        ("APPLES", 3, "APPLES", 3),
        ("ARCH", 3, "ARCH", 3),
    ],
)
def test_fractions_are_percent_and_counts_are_not(key, value, name, shown):
    assert units.named({key: value}) == {name: shown}


def test_texts_stay_and_nested_names_are_joined():
    assert units.named({"scored_on": "AP", "a": {"loss": 1.0}}) == {"scored_on": "AP", "a.loss": 1.0}


def test_names_of_one_meaning_share_a_row():
    table = units.described(["loss", "heatmap_loss", "learning_rate", "nobody_knows"])
    rows = table.splitlines()[2:]
    assert len(rows) == 2 and "`loss`, `heatmap_loss` | none" in rows[0] and "nobody_knows" not in table
    assert "| `images_per_second` | images/s |" in units.described(["images_per_second", "images"])
    assert units.described(["nobody_knows"]) == ""
