"""The picture of a report: photographs are taken out, plots stay, and both widths are on it."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import page
from components.base.errors import FarposeError
from components.evaluate import report
from components.evaluate.report import Section


def written(folder: Path) -> Path:
    """A page with a plot and two photographs, one wide and one small."""
    cv2.imwrite(str(folder / "plot.png"), np.full((40, 60, 3), (0, 0, 255), np.uint8))
    photograph = np.zeros((30, 40, 3), np.uint8)
    photograph[..., 1] = 255
    shots = [report.photograph(photograph, "seen", wide=True)]
    tiles = [report.photograph(photograph, "a <person>")]
    table = report.table_of(["name", "difference"], [["a", "best"], ["b", "−2.5 (−3.0 to −2.0)"]])
    sections = [
        Section("leaderboard", "Leaderboard", tables=[table], pictures=[*shots, report.png(folder / "plot.png", "plot")]),
        Section("errors", "Errors", tiles=tiles),
    ]
    report.write(folder / "page.html", "title", ["lead"], sections)
    return folder / "page.html"


def test_no_photograph_is_left(tmp_path: Path) -> None:
    html = written(tmp_path).read_text()
    plots = page.without_photographs(html)
    assert html.count("data:image/jpeg") == 2 and "data:image/jpeg" not in plots and "a &lt;person&gt;" not in plots
    assert plots.count("data:image/png") == html.count("data:image/png") == 1
    assert plots.count("<figure") == plots.count("</figure>") == 1


def test_a_photograph_elsewhere_stops_it() -> None:
    with pytest.raises(FarposeError, match="cannot be taken out"):
        page.without_photographs('<p><img src="data:image/jpeg;base64,AA"></p>')


def test_a_missing_page_is_named(tmp_path: Path) -> None:
    with pytest.raises(FarposeError, match="there is no such page"):
        page.main(tmp_path / "none.html", tmp_path / "picture.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not any(shutil.which(name) for name in page.PROGRAMS), reason="no Chromium on this machine")
def test_the_picture_has_the_plot_and_no_photograph(tmp_path: Path) -> None:
    page.main(written(tmp_path), tmp_path / "picture.png")
    blue, green, red = (plane.astype(int) for plane in cv2.split(cv2.imread(str(tmp_path / "picture.png"))))
    assert blue.shape[1] == round(page.SCALE * (page.DESK_PX + page.PHONE_PX + 3 * page.MARGIN_PX))
    assert ((red > 200) & (green < 60) & (blue < 60)).sum() > 500, "the plot"
    assert not ((green > 200) & (red < 60) & (blue < 60)).any(), "the photographs"


def test_the_best_row_sorts_as_no_difference() -> None:
    table = report.table_of(["name", "difference"], [["a", "best"], ["b", "−2.5 (−3.0 to −2.0)"]])
    assert [row[1].value for row in table.rows] == [0.0, -2.5]
