"""The study's page: its numbers are those of the files, in the order of AP, and a second writing changes nothing."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from benchmarks import across, elsewhere, lowres, lowres_summary
from components.base.errors import FarposeError
from components.base.files import read_json, write_json
from components.evaluate.oks import match, summarise
from components.evaluate.significance import write_matches
from tests import evaluation_cases as cases


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
    write_json(tmp_path / "runs" / "d.json", run("dark_ranked_mobilenet_fpn_coco_128x96", 0.4))
    gain = {"of": "hrnet_w32_coco_64x48", "difference": 0.0235, "low": 0.011, "high": -0.031, "p": 0.002, "p_holm": 0.004}
    write_json(tmp_path / "runs" / "e.json", run("dark_hrnet_w32_coco_64x48", 0.21, start="he") | {"baseline": gain})
    loss = gain | {"difference": -0.0612}
    write_json(tmp_path / "runs" / "f.json", run("cal_hrnet_w32_coco_64x48", 0.12, start="he") | {"baseline": loss})
    write_json(tmp_path / "runs" / "g.json", run("hrnet_w32_coco_64x48", 0.19, start="he") | {"baseline": None})
    write_json(tmp_path / "runs" / "h.json", run("dark_hrnet_tiny_coco_128x96", 0.11, start="he"))
    write_json(tmp_path / "runs" / "i.json", run("dark_hrnet_tiny_coco_256x192", 0.13, start="he"))
    write_json(tmp_path / "runs" / "j.json", run("dark_mobilenet_fpn_coco_256x192", 0.45))
    whole = run("centernet_mobilenet_fpn_coco_256", 0.26)
    numbers = {key.replace("gt_boxes", "no_boxes"): value for key, value in whole["metrics"].items() if not key.startswith("PCK")}
    write_json(tmp_path / "runs" / "k.json", whole | {"metrics": numbers})
    for name in ("e", "f", "g"):
        one = read_json(path := tmp_path / "runs" / f"{name}.json")
        write_json(path, one | {"metrics": one["metrics"] | apart})
    page = tmp_path / "study.md"
    marks = [lowres.mark(what, key) for key in lowres.GROUPS for what in ("table", "differences", "plain", "costs")]
    marks += [lowres.mark("seeds", "movenet_lightning"), lowres.mark("elsewhere", "movenet_lightning"), lowres.SUMMARY]
    page.write_text("\n\n".join(f"{mark}\nformer\n<!-- end -->" for mark in marks) + "\n")
    write_json(tmp_path / "seeds.json", {"movenet_lightning": [of_seeds("cal", 0.3), of_seeds("dark", 0.25) | apart]})
    write_json(tmp_path / "elsewhere.json", elsewhere_of({"weak_64x48": (0.3, 0.1, 0.2), "strong_64x48": (0.4, 0.3, 0.15)}))
    lowres.page(tmp_path / "runs", page, tmp_path / "seeds.json", tmp_path / "elsewhere.json")
    return page


def elsewhere_of(rows: dict[str, tuple[float, ...]]) -> dict[str, object]:
    """A record of `benchmarks.elsewhere`: the second row is told apart from the best everywhere but on Leeds."""
    ends = {column: (dataset, f"AP{end or '_gt_boxes'}") for column, (dataset, end, _) in elsewhere.COLUMNS.items()}
    found: dict[str, dict[str, object]] = {}
    for name, aps in rows.items():
        found[name] = {"start": "movenet_lightning", "coco": {}, elsewhere.LEEDS: {}}
        for (dataset, key), ap in zip(ends.values(), aps, strict=True):
            found[name][dataset] |= {key: ap, f"{key}_low": ap - 0.02, f"{key}_high": ap + 0.02}
    first, second = rows
    others = {column: {"best": second, "others": {first: {"p_holm": 0.01}}} for column in ends}
    others["leeds"] = {"best": first, "others": {second: {"p_holm": 0.4}}}
    return {"rows": found, "differences": {"movenet_lightning": others}}


def test_the_other_boxes_table_leads_with_the_best_at_low_resolution(written):
    table = written.read_text().split(lowres.mark("elsewhere", "movenet_lightning"))[1].split("<!-- end -->")[0]
    assert re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \| ([^|]+) \|$", table, re.MULTILINE) == [
        ("strong_64x48", "30.0 (28.0–32.0)", "15.0 (13.0–17.0) ≈"),
        ("weak_64x48", "10.0 (8.0–12.0)", "20.0 (18.0–22.0)"),
    ]


def of_seeds(name: str, ap: float) -> dict[str, object]:
    return {
        "variant": name,
        "seeds": 3,
        "AP_gt_boxes": ap,
        "AP_gt_boxes_low": ap - 0.02,
        "AP_gt_boxes_high": ap + 0.02,
        "AP_gt_boxes_spread": 0.004,
    }


def test_rows_stand_in_the_order_of_ap_with_their_files_numbers(written):
    text = written.read_text()
    assert "former" not in text
    assert re.findall(r"^\| `(\w+?)_mobilenet\w+` \| (\S+ \(\S+\)) \| .* \| 1,354 \|$", text, re.MULTILINE) == [
        ("cal", "30.0 (27.9–33.4)"),
        ("dark", "25.1 (23.0–28.5)"),
        ("dark_ranked", "40.0 (37.9–43.4)"),
        ("dark", "45.0 (42.9–48.4)"),
        ("centernet", "26.0 (23.9–29.4)"),
    ]
    assert re.search(r"^\| `centernet_mobilenet_fpn_coco_256` \|.* \| – \| 99.0 \| 1,354 \|$", text, re.MULTILINE), "no PCK without boxes"
    assert "| `dark_mobilenet_fpn_coco_64x48_x2` | −4.5 (−8.0 to −1.2) | 0.004 | yes |" in text
    assert "| `cal_mobilenet_fpn_coco_64x48_x2` | 2.30 | 0.079 | 1.5 | 80 | 2,048 | 8 | 0 | 20.0 |" in text
    pictures = {path.name for path in written.parent.glob("*.png")}
    assert pictures == {f"{group.figure}{end}.png" for group in lowres.GROUPS.values() for end in ("", "_curves")}


def test_rows_of_different_starts_stand_apart(written):
    text = written.read_text()
    for what in ("table", "costs"):
        pretrained, random = (text.partition(lowres.mark(what, key))[2].partition("<!-- end -->")[0] for key in ("movenet_lightning", "he"))
        assert "`dark_hrnet_tiny_coco_64x48`" in random and "mobilenet" not in random
        assert "hrnet" not in pretrained


def test_published_networks_stand_apart_from_small_ones_of_the_same_start(written):
    text = written.read_text()
    small, published, larger = (
        text.partition(lowres.mark("table", key))[2].partition("<!-- end -->")[0] for key in ("he", "he, published", "he, 128x96")
    )
    assert re.findall(r"`(\w+)`", published) == ["dark_hrnet_w32_coco_64x48", "hrnet_w32_coco_64x48", "cal_hrnet_w32_coco_64x48"]
    assert re.findall(r"`(\w+)`", small) == ["dark_hrnet_tiny_coco_64x48"]
    assert re.findall(r"`(\w+)`", larger) == ["dark_hrnet_tiny_coco_128x96"]


def test_a_row_s_gain_on_its_baseline_has_a_table_of_its_own_the_largest_first(written):
    table = written.read_text().split(lowres.mark("plain", "he, published"))[1].split("<!-- end -->")[0]
    assert re.findall(r"^\| `(\w+)` \| `(\w+)` \| (\S+) .* \| (\S+) \|$", table, re.MULTILINE) == [
        ("dark_hrnet_w32_coco_64x48", "hrnet_w32_coco_64x48", "+2.4", "0.004"),
        ("cal_hrnet_w32_coco_64x48", "hrnet_w32_coco_64x48", "−6.1", "0.004"),
    ]


def test_the_summary_has_a_method_s_row_with_its_mark_in_every_column(written):
    """Bold where a column's AP is largest; ▲ or ▼ only where the difference from plain heatmaps is told apart after the correction."""
    names = ("dark_{}_64x48_x4", "simple_{}_64x48_x4", "cal_{}_64x48_x4", "sr_head_{}_64x48_x4", "dark_{}_64x48_x2")
    runs = [run(name.format("mobilenet_fpn_coco"), ap) for name, ap in zip(names, (0.44, 0.42, 0.4, 0.41, 0.9), strict=True)]
    runs += [run("dark_ranked_mobilenet_fpn_coco_128x96_x2_averaged", 0.5), run("hrnet_w32_coco_64x48", 0.15, start="he")]
    runs += [run("hrnet_w32_coco_64x48_fused", 0.9, start="he")]
    for one, difference, p in zip(runs, (0.02, None, -0.02, -0.01), (0.01, None, 0.01, 0.2), strict=False):
        one["baseline"] = difference and {"difference": difference, "p_holm": p}
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lowres_summary.table(runs).splitlines()[2:]]
    assert rows == [
        [lowres_summary.METHODS["dark_ranked"], "", "**50.0**", "", "", "", "", ""],
        ["SR head", "41.0", "", "", "", "", "", ""],
        ["CAL", "40.0 ▼", "", "", "", "", "", ""],
        ["DARK", "**44.0** ▲", "", "", "", "", "", ""],
        ["plain heatmaps", "42.0", "", "", "", "", "", "**15.0**"],
    ]


def test_rows_of_several_seeds_have_a_table_of_their_own(written):
    text = written.read_text()
    assert "| `cal` | 3 | 30.0 (28.0–32.0) | 0.4 |  |  |" in text
    assert "| `dark` | 3 | 25.0 (23.0–27.0) | 0.4 | −4.5 (−8.0 to −1.2) | 0.004 |" in text


def evaluate(folder: Path, seed: int, noise: float) -> float:
    """Write what a comparison reads of a made-up evaluation; its AP."""
    coco = cases.random_coco(1, images=60)
    predictions, scores = cases.noisy_predictions(coco, seed, noise=noise)
    matches = match(cases.persons_of(coco), predictions, scores, cases.image_ids_of(coco))
    folder.mkdir(parents=True)
    write_matches(folder / "matches.npz", matches)
    return summarise(matches)["AP"]


def test_rows_of_several_clones_are_compared_with_the_best(tmp_path):
    """Each row's difference is that of the APs in the files; seeds become one row, which stays out of the others' table."""
    first, second, runs, seeds, pairs = (tmp_path / name for name in ("a", "b", "runs", "seeds.json", "pairs.json"))
    dark, cal = "dark_mobilenet_fpn_coco_64x48_x2", "cal_mobilenet_fpn_coco_64x48_x2"
    simple = "simple_mobilenet_fpn_coco_64x48_x2"  # the baseline of both
    names = {dark: (first, 0.04), cal: (second, 0.3), f"{dark}_seed1": (second, 0.04), simple: (first, 0.045)}
    for number, (name, (clone, noise)) in enumerate(names.items()):
        made = run(name, evaluate(clone / name, seed=2 + number, noise=noise))
        made["recipe"] = {"epochs": 8, "seed": int(name.endswith("seed1"))}
        write_json(runs / f"{name}.json", made)
    assert lowres.compare([first], runs, seeds, pairs) == []  # a row without its evaluation cannot be compared
    lowres.compare([first, second], runs, seeds, pairs)
    rows = {name: read_json(runs / f"{name}.json")["metrics"] for name in names}
    best, other = rows[dark], rows[cal]
    assert other["best"] == dark and "difference" not in best
    assert other["difference"] == pytest.approx(other["AP_gt_boxes"] - best["AP_gt_boxes"]) and other["difference_high"] < 0
    told = {(one["first"], one["second"]): one for one in read_json(pairs)["movenet_lightning"]}
    assert {frozenset(pair) for pair in told} == {frozenset(pair) for pair in itertools.combinations((dark, cal, simple), 2)}
    assert told[dark, cal]["AP"] == pytest.approx(-100 * other["difference"], abs=0.006) and told[dark, cal]["low"] > 0
    plain = {name: read_json(runs / f"{name}.json")["baseline"] for name in (dark, cal, simple)}
    assert plain[simple] is None and {plain[name]["of"] for name in (dark, cal)} == {simple}
    for name in (dark, cal):
        assert plain[name]["difference"] == pytest.approx(rows[name]["AP_gt_boxes"] - rows[simple]["AP_gt_boxes"])
        assert plain[name]["low"] <= plain[name]["difference"] <= plain[name]["high"] and plain[name]["p"] <= plain[name]["p_holm"] <= 1
    assert plain[cal]["high"] < 0
    [mean] = read_json(seeds)["movenet_lightning"]
    both = [rows[name]["AP_gt_boxes"] for name in names if name.startswith("dark")]
    assert mean["seeds"] == 2 and mean["AP_gt_boxes"] == pytest.approx(sum(both) / 2)


def test_a_second_writing_changes_nothing(written):
    before = written.read_bytes()
    lowres.page(written.parent / "runs", written, written.parent / "seeds.json", written.parent / "elsewhere.json")
    assert written.read_bytes() == before


def test_without_a_comparison_nothing_is_collected(tmp_path, monkeypatch):
    monkeypatch.setattr(lowres.paths, "COMPARISON", tmp_path)
    with pytest.raises(FarposeError, match=r"nothing is compared here \(`farpose run`\)"):
        lowres.collect("study_small", tmp_path / "runs")


def test_differences_across_tables_take_seeds_together_and_keep_what_is_not_given(tmp_path):
    """The difference is that of the APs, of their mean where a side has several seeds; of two of one name the later is second."""
    here, there, record = tmp_path / "here", tmp_path / "there", tmp_path / "differences.json"
    one = {name: evaluate(here / name, seed=number, noise=0.05) for number, name in enumerate(("a", "b", "b_seed1"))}
    other = evaluate(there / "a", seed=7, noise=0.2)
    a, as_given = across.Side("a"), [across.AS_THEY_ARE]
    pairs = [(a, across.Side("b", seeds=2), as_given), (a, across.Side("a", said="elsewhere"), as_given)]
    pairs += [(a, across.Side("missing"), as_given), (a, across.Side("b"), ["h32"])]
    found = list(across.rows([here, there], pairs))
    assert [row["second"] for row in found] == ["b, 2 seeds", "a, elsewhere"]
    assert found[0]["AP"] == pytest.approx(100 * (one["a"] - (one["b"] + one["b_seed1"]) / 2), abs=6e-4)
    assert found[1]["AP"] == pytest.approx(100 * (one["a"] - other), abs=6e-4) and found[1]["low"] > 0
    across.write(found, record)
    assert not list(across.rows([here], pairs[1:2])), "the later evaluation is not given"
    assert across.write([found[0] | {"AP": 1.0}], record) == [found[0] | {"AP": 1.0}, found[1]] == read_json(record)["rows"]
