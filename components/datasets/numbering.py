"""Ids that are unique over splits whose files each count their images and annotations from the same number, as tools' exports do."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

FIRST = "val"  # keeps the files' ids, because predictions of it carry them


def raises(paths: Mapping[str, pd.Series]) -> dict[str, int]:
    """By file the number that its ids are raised by: 0, or a power of ten above all ids.

    Ids are raised where two files have one id for different images. One id for the same image is a mistake of the splits, which the
    validate stage finds: it stays.

    Args:
        paths: file → paths of images, indexed by the ids of images or of annotations. "val" keeps its ids, later files give way to earlier.
    """
    found = {}
    taken = pd.Series(dtype=object)
    for name in sorted(paths, key=lambda name: name != FIRST):
        own = paths[name][~paths[name].index.duplicated()]
        shared = own.index.intersection(taken.index)
        collides = bool((own[shared].to_numpy() != taken[shared].to_numpy()).any())
        found[name] = 10 ** len(str(max(own.index.max(), taken.index.max(), 0))) if collides else 0
        own.index = own.index + found[name]
        taken = pd.concat([taken, own[~own.index.isin(taken.index)]])
    return found
