"""A clone that was moved, or a copied `mlruns/`, keeps its pictures and models: MLflow writes whole paths into its database.

They are corrected when the store is opened, in one transaction.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

PLACES = (  # columns of MLflow's tables that hold addresses of artifacts
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
WAIT_S = 60.0


def follow(database: Path, before: str, folder: Path) -> int:
    """Let all addresses below `before` point into `folder`; how many were changed.

    Args:
        before: the experiment's artifact location, as the database has it. Nothing is done if it is `folder`, or if it is none of ours:
            the database may name any place, on S3 too.
    """
    now = folder.as_uri()
    if before == now or not (before.startswith("file:") and before.endswith("/".join(("", *folder.parts[-2:])))):
        return 0
    changed = 0
    with closing(sqlite3.connect(database, timeout=WAIT_S)) as connection, connection:
        for table, column in PLACES:
            matches = f"{column} = ? or substr({column}, 1, ?) = ?"
            values = (before, len(before) + 1, f"{before}/")
            query = f"update {table} set {column} = ? || substr({column}, ?) where {matches}"
            changed += connection.execute(query, (now, len(before) + 1, *values)).rowcount
    return changed
