"""The demo's parts of README.md: its table, and the pictures of its best row in docs/.

python -m benchmarks.demo         # after `make demo`; copies what artifacts/ holds
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from components.base.config import REPOSITORY
from components.base.errors import FarposeError
from components.base.files import atomic_file, read_json
from pipelines import paths

README, DOCS = REPOSITORY / "README.md", REPOSITORY / "docs"
PICTURE, TABLE = ("<!-- demo's picture: python -m benchmarks.demo -->", "<!-- demo's table: python -m benchmarks.demo -->")
END = "<!-- end -->"


def main() -> None:
    """Rewrite the marked parts of README.md and docs/overview.png and docs/by_height.png."""
    comparison = paths.COMPARISON / "comparison.json"
    if not comparison.is_file():
        raise FarposeError("the demo has not run", where=str(comparison), fix="`make demo`")
    best = read_json(comparison)[0]
    text = part(part(README.read_text(), PICTURE, caption(best)), TABLE, (paths.COMPARISON / "comparison.md").read_text())
    copy(paths.EVALUATIONS / best["variant"] / "overview.png", DOCS / "overview.png")
    copy(paths.COMPARISON / "by_height.png", DOCS / "by_height.png")
    with atomic_file(README) as temporary:
        temporary.write_text(text)


def caption(best: dict[str, Any]) -> str:
    """What the picture shows, in words."""
    return (
        f"*Made by `make demo` (best row, `{best['variant']}`): a synthetic scene, the crop with annotation and prediction for the\n"
        "median of the far persons, so half of them are found better, and AP against person height.*"
    )


def part(text: str, mark: str, content: str, where: str = "README.md") -> str:
    """`text` with `content` between a mark and the next end.

    Raises:
        FarposeError: the mark is missing.
    """
    found = re.compile(rf"({re.escape(mark)}\n)(?:.*?\n)??({re.escape(END)})", re.S)
    if not found.search(text):
        raise FarposeError(f"the mark {mark!r} is missing", where=where, fix="put it back, with its end below")
    return found.sub(lambda match: f"{match[1]}{content.strip()}\n{match[2]}", text)


def copy(source: Path, target: Path) -> None:
    with atomic_file(target) as temporary:
        shutil.copyfile(source, temporary)


if __name__ == "__main__":
    main()
