"""Failures that are nobody's fault and pass by themselves: a lock, the network, a store that restarts. A flow tries them again."""

from __future__ import annotations

import os

CODE = 75  # EX_TEMPFAIL of sysexits.h
ASKED = "FARPOSE_SAYS_IF_IT_PASSES"  # set for the processes of a flow; elsewhere every error's exit code is 1
EXITED = f"exited with {CODE}"  # in DVC's words
NAMES = frozenset({  # of the errors of the network and of a store that does not answer, in whatever package
    "BrokenTransfer", "ConnectionError", "ConnectTimeout", "ConnectTimeoutError", "EndpointConnectionError", "ConnectionClosedError",
    "IncompleteRead", "MaxRetryError", "NameResolutionError", "NewConnectionError", "ProtocolError", "ReadTimeout", "ReadTimeoutError",
    "ResponseStreamingError", "gaierror", "Down",  # of `components.registry.store`
})  # fmt: skip
WORDS = ("database is locked", "Unable to acquire lock")  # in SQLite's words and in DVC's


def passes(error: BaseException | None) -> bool:
    """Whether what was raised, or what led to it, is one of these failures."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if isinstance(error, ConnectionError | TimeoutError) or kinds & NAMES or any(word in str(error) for word in WORDS):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def exit_code(error: BaseException) -> int:
    """Of a process that ends by this error."""
    return CODE if os.environ.get(ASKED) and passes(error) else 1
