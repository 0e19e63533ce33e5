"""Whether a published file is the version that `params/weights.yaml` names."""

from __future__ import annotations

import hashlib
from pathlib import Path

from components.base.errors import FarposeError


def check_version(name: str, content: bytes, sha256: str | None, where: str | Path) -> None:
    """Compare the values of a published file with the digest of the entry `name`.

    Args:
        content: bytes that hold the values.
        sha256: that they must have; None: any.
    Raises:
        FarposeError: they are of another version; shows both digests.
    """
    found = hashlib.sha256(content).hexdigest()
    if sha256 not in (None, found):
        fix = f"get the version that params/weights.yaml names, or write this digest there (`{name}: source: sha256`) if you mean this one"
        raise FarposeError(f"the values have SHA-256 {found}, params/weights.yaml names {sha256}", where=where, fix=fix)
