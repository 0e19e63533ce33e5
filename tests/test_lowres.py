"""The study's page: its numbers are those of the files, in the order of AP, and a second writing changes nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import lowres
from components.base.errors import FarposeError
from components.base.files import write_json


def run(name: str, ap: float, start: str = "movenet_lightning", **metrics: object) -> dict[str, object]:
    bins = [
        {"middle": 40.0, "AP": ap, "persons": 100},
        {"middle": 90.0, "AP": None, "persons": 0},
        {"middle": 20.0, "AP": 0.0, "persons": 2},
    ]
    numbers = {"AP_gt_boxes": ap, "AP_gt_boxes_low": ap - 0.021, "AP_gt_boxes_high": ap + 0.034, "persons": 1354, "by_height": bins}
    numbers |= dict.fromkeys(("AP50_gt_boxes", "AP75_gt_boxes", "AP_M_gt_boxes", "AP_L_gt_boxes", "mean_OKS_gt_boxes"), ap)
    numbers |= {"PCK_torso_gt_boxes": 0.9, "target_AP": 0.99, "params_m": 2.3, "gmacs": 0.079}
    return {
        "run": name,
        "start": {"init": start},
        "metrics": numbers | metrics,
        "recipe": {"epochs": 8, "seed": 0},
        "measured": {"train_seconds": 90.0, "images_per_second": 80.4, "memory_mib": 2048.0},
        "history": [{"epoch": 4, "dev_AP_gt_boxes": 0.1}, {"epoch": 8, "dev_AP_gt_boxes": 0.2}],
    }


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A page of two rows of one start and one of another in `tmp_path`."""
    apart = {"difference": -0.0449, "difference_low": -0.08, "difference_high": -0.012, "difference_p_holm": 0.004}
    write_json(tmp_path / "runs" / "a.json", run("dark_mobilenet_fpn_coco_64x48_x2", 0.251, **apart))
    write_json(tmp_path / "runs" / "b.json", run("cal_mobilenet_fpn_coco_64x48_x2", 0.3))
    write_json(tmp_path / "runs" / "c.json", run("dark_hrnet_tiny_coco_64x48", 0.09, start="he"))
    page = tmp_path / "study.md"
    marks = (lowres.mark(what, start) for start in lowres.STARTS for what in ("table", "differences", "costs"))
    page.write_text("\n\n".join(f"{mark}\nformer\n<!-- end -->" for mark in marks) + "\n")
    lowres.page(tmp_path / "runs", page)
    return page


def test_rows_stand_in_the_order_of_ap_with_their_files_numbers(written):
    text = written.read_text()
    assert "former" not in text
    assert re.findall(r"^\| `(\w+?)_mobilenet\w+` \| (\S+ \(\S+\)) \| .* \| 1,354 \|$", text, re.MULTILINE) == [
        ("cal", "30.0 (27.9–33.4)"),
        ("dark", "25.1 (23.0–28.5)"),
    ]
    assert "| `dark_mobilenet_fpn_coco_64x48_x2` | −4.5 (−8.0 to −1.2) | 0.004 | yes |" in text
    assert "| `cal_mobilenet_fpn_coco_64x48_x2` | 2.30 | 0.079 | 1.5 | 80 | 2,048 | 8 | 0 | 20.0 |" in text
    pictures = {path.name for path in written.parent.glob("*.png")}
    assert pictures == {"study.png", "study_curves.png", "study_random.png", "study_random_curves.png"}


def test_rows_of_different_starts_stand_apart(written):
    text = written.read_text()
    for what in ("table", "costs"):
        pretrained, random = (text.partition(lowres.mark(what, start))[2].partition("<!-- end -->")[0] for start in lowres.STARTS)
        assert "`dark_hrnet_tiny_coco_64x48`" in random and "mobilenet" not in random
        assert "hrnet" not in pretrained


def test_a_second_writing_changes_nothing(written):
    before = written.read_bytes()
    lowres.page(written.parent / "runs", written)
    assert written.read_bytes() == before


def test_without_a_comparison_nothing_is_collected(tmp_path, monkeypatch):
    monkeypatch.setattr(lowres.paths, "COMPARISON", tmp_path)
    with pytest.raises(FarposeError, match=r"nothing is compared here \(`farpose run`\)"):
        lowres.collect("study_small", tmp_path / "runs")
