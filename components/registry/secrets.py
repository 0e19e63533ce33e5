"""What nobody may read in a message, a tag or a file: names and passwords in addresses, and keys of the environment."""

from __future__ import annotations

import os
import re

VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_API_KEY",
)
SHORTEST = 4  # shorter values occur in words


def without_secrets(text: str) -> str:
    """A text as it may be shown and kept: no name and password in addresses, and no value of `VARIABLES`."""
    text = re.sub(r"://[^\s/'\"]*@", "://", text)
    for name in VARIABLES:
        value = os.environ.get(name, "")
        if len(value) >= SHORTEST:
            text = text.replace(value, f"<{name}>")
    return text
