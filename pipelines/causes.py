"""What an error came of."""

from __future__ import annotations

from collections.abc import Iterator


def chain(error: BaseException | None, suppressed: bool) -> Iterator[BaseException]:
    """The error, and what led to it, one by one.

    Args:
        suppressed: also what `raise … from None` hides from a traceback.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        hidden = error.__suppress_context__ and not suppressed
        error = error.__cause__ or (None if hidden else error.__context__)
