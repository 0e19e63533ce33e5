"""Failures that are nobody's fault and pass by themselves: a lock, the network, a store that restarts. A flow tries them again."""

from __future__ import annotations

import os

from pipelines import causes

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
    return any(map(_passes, causes.chain(error, suppressed=False)))


def _passes(error: BaseException) -> bool:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, ConnectionError | TimeoutError) or bool(kinds & NAMES) or any(word in str(error) for word in WORDS)


def exit_code(error: BaseException) -> int:
    """Of a process that ends by this error."""
    return CODE if os.environ.get(ASKED) and passes(error) else 1
