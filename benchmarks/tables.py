"""The commands below the tables of docs/tables.md: what trains and what scores each row.

python -m benchmarks.tables       # rewrites them from the rows
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from components.base.config import REPOSITORY
from components.base.files import atomic_file
from components.models import zoo

PAGE = REPOSITORY / "docs" / "tables.md"
BEGIN, END = "<!-- commands: python -m benchmarks.tables -->", "<!-- end of commands -->"
ONLY = "farpose params --only {name} && farpose run {stage}@{name}"


def with_commands(text: str) -> str:
    """The page with the commands of its rows, one block per section, in the place of those that it has."""
    start, *sections = text.split("\n## ")
    return "\n## ".join([start, *(_with_commands(section) for section in sections)])


def _with_commands(section: str) -> str:
    bare = re.sub(rf"\n+{re.escape(BEGIN)}.*?{re.escape(END)}", "", section, flags=re.DOTALL).rstrip()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in bare.splitlines() if line.startswith("| ")][1:]
    lines = [line for label, *cells in rows for line in _commands(label, cells[-1])]
    return "\n".join([bare, "", BEGIN, "```", *lines, "```", END, ""])


def _commands(label: str, last: str) -> Iterator[str]:
    """Two lines per variant of a row, below its name; `farpose submit` scores where a server does.

    Args:
        last: the row's last cell.
    """
    yield f"# {label}"
    submitted = re.search(r"`(farpose submit .*--variant (\w+))`", last)
    if submitted:
        yield from (ONLY.format(name=submitted[2], stage="train"), submitted[1])
    for name in re.findall(r"`(\w+)`", last):
        if zoo.variant(name).upscale == "spsr":
            yield "farpose import-weights spsr_x4 FILE"
        yield from (ONLY.format(name=name, stage=stage) for stage in ("train", "evaluate"))


def main() -> None:
    text = with_commands(PAGE.read_text())
    with atomic_file(PAGE) as temporary:
        temporary.write_text(text)


if __name__ == "__main__":
    main()
