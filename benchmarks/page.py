"""A picture of a report's page at two widths, without its photographs: tables and plots alone, so that it may lie in a repository.

python -m benchmarks.page artifacts/report/report.html results/coco_pretrained/report.png
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from components.base.errors import FarposeError
from components.base.files import atomic_file

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
PHOTOGRAPH = re.compile(r"<figure[^>]*><div><img src=\"data:image/jpeg[^>]*></div><figcaption>.*?</figcaption></figure>", re.S)
DESK = "#conditions, #errors, #data, #inputs, #provenance, #curves p, #curves .scroll"  # what the wide picture leaves out
PHONE = "h1, h1 ~ p, nav, section:not(#errors), #errors > p:nth-of-type(n+4)"  # what the narrow one leaves out: all but errors
DESK_PX, PHONE_PX, HIGHEST_PX, MARGIN_PX = (1280, 390, 3000, 24)
SCALE = 0.75  # px of the picture per px of the pages
BACKGROUND, WHITE = 224, 255
LEVEL = 17  # step of the grey levels that are kept, 0 to 255: the file becomes three times smaller


def main(page: Path, picture: Path) -> None:
    """Write the picture.

    Raises:
        FarposeError: there is no page or no Chromium, or the browser writes no picture.
    """
    if not page.is_file():
        raise FarposeError("there is no such page", where=page, fix="`farpose report`")
    plots = without_photographs(page.read_text())
    desk, phone = trimmed(shown(plots, DESK, DESK_PX)), trimmed(shown(plots, PHONE, PHONE_PX))
    height = len(desk) + 2 * MARGIN_PX
    whole = np.full((height, DESK_PX + PHONE_PX + 3 * MARGIN_PX, 3), BACKGROUND, np.uint8)
    left = MARGIN_PX
    for shot in (desk, phone[: len(desk)]):
        whole[MARGIN_PX : MARGIN_PX + len(shot), left : left + shot.shape[1]] = shot
        left += shot.shape[1] + MARGIN_PX
    small = cv2.resize(whole, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_AREA)
    small = (np.round(small / LEVEL) * LEVEL).astype(np.uint8)
    with atomic_file(picture) as temporary:
        temporary.write_bytes(cv2.imencode(".png", small)[1].tobytes())


def without_photographs(html: str) -> str:
    """The page without any JPEG: the report writes photographs as JPEG and plots as PNG.

    Raises:
        FarposeError: a photograph lies where none is expected.
    """
    plots = PHOTOGRAPH.sub("", html)
    if "data:image/jpeg" in plots:
        raise FarposeError("a photograph of the page cannot be taken out", fix="mend PHOTOGRAPH of benchmarks/page.py")
    return plots


def shown(html: str, hidden: str, width: int) -> np.ndarray:
    """(HIGHEST_PX, width, 3) uint8: the page in a window of this width, without what the CSS selector `hidden` names."""
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        raise FarposeError(f"there is no {PROGRAMS[0]}", fix="install it")
    with tempfile.TemporaryDirectory() as folder:
        page, picture = Path(folder) / "page.html", Path(folder) / "page.png"
        # an iframe has the width asked for; a window has at least 500 px
        page.write_text(html.replace("</head>", f"<style>{hidden} {{ display: none }} nav {{ position: static }}</style></head>"))
        frame = Path(folder) / "frame.html"
        frame.write_text(
            f'<body style="margin: 0"><iframe src="page.html" width="{width}" height="{HIGHEST_PX}" style="border: 0"></iframe></body>'
        )
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder}/profile"]
        size = f"--window-size={max(width, 600)},{HIGHEST_PX}"
        subprocess.run([program, *options, size, f"--screenshot={picture}", frame.as_uri()], capture_output=True, timeout=240, check=False)
        pixels = cv2.imread(str(picture))
    if pixels is None:
        raise FarposeError(f"{program} writes no picture", fix="open the page in a browser")
    return pixels[:, :width]


def trimmed(pixels: np.ndarray) -> np.ndarray:
    """Without the white rows below the last other one."""
    rows = np.flatnonzero((pixels != WHITE).any((1, 2)))
    return pixels[: rows[-1] + 1 + MARGIN_PX] if len(rows) else pixels


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
