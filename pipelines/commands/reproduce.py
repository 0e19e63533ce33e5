"""`reproduce`: a run or a model, made again from what is recorded of it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.registry.verdict import Line
    from pipelines.repeating import Report


def reproduce(options: argparse.Namespace) -> int:
    """Print every number with its verdict; exit code 1 if one differs."""
    from components.registry import verdict
    from pipelines import repeating

    found = repeating.reproduce(options.what, options.tolerance, options.keep, lambda line: print(line, flush=True))
    print("\n".join(said(found, options.tolerance)))
    return int(found.verdict == verdict.DIFFERENT)


def said(found: Report, tolerance: float) -> list[str]:
    """The report for the terminal, a line each."""
    from components.registry import verdict

    lines = ["", found.said]
    for stage, compared in found.lines.items():
        counts = [f"{sum(line.verdict == kind for line in compared)} {kind}" for kind in verdict.ORDER]
        lines += ["", f"{stage}: {', '.join(counts)}" if compared else f"{stage}: no numbers are recorded"]
        width = max((len(line.name) for line in compared), default=0)
        lines += [f"  {line.name:{width}}  {_values(line)}" for line in compared]
    lines += ["", "environment: " + ("the same" if not found.around else "differs")]
    lines += [f"  {line.name}: {_value(line.recorded)} → {_value(line.now)}" for line in found.around]
    meant = f" (relative difference up to {tolerance:g}; counts must be equal)" if found.verdict == verdict.NEAR else ""
    lines += ["", f"result: {found.verdict}{meant}"]
    if found.folder is not None:
        lines.append(f"worktree: {found.folder} (`git worktree remove --force` removes it)")
    return lines


def _values(line: Line) -> str:
    from components.registry import verdict

    if line.verdict == verdict.SAME:
        return f"{line.verdict}: {_value(line.now)}"
    return f"{line.verdict}: {_value(line.recorded)} → {_value(line.now)}"


def _value(value: float | str | None) -> str:
    """Numbers with all digits that tell them apart; a digest's first ones."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return f"{value[:16]}…" if len(value) == 64 else value
    return repr(value)
