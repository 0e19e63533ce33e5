"""`promote`: a registered model becomes the champion if it is better, or the former champion comes back."""

from __future__ import annotations

import argparse

from components.base.errors import FarposeError

REFUSED = 1  # exit code


def promote(options: argparse.Namespace) -> int:
    """Print the decision and its reasons; exit code 1 for a refusal, which changes nothing but the record."""
    from pipelines import promoting

    if options.rollback:
        if options.name is not None:
            raise FarposeError("--rollback takes no model: it gives the alias back to the former champion", fix="leave the name out")
        print(promoting.roll_back())
        return 0
    if options.name is None:
        raise FarposeError("nothing to promote", fix="name a registered model (`make ui` lists them), or give --rollback")
    passed, lines = promoting.promote(options.name, options.split, heights=options.heights)
    print("\n  ".join(lines))
    return 0 if passed else REFUSED
