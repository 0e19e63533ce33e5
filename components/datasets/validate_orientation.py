"""What EXIF orientations mean for a data set's annotations, in words."""

from __future__ import annotations

import numpy as np
import pandas as pd

from components.pose.orientation import STORED, SWAPPING


def turned_images(images: pd.DataFrame) -> int:
    """How many images viewers turn or mirror (columns of `image_columns`); 0 where no file was opened."""
    return int((images["orientation"] != STORED).sum()) if "orientation" in images else 0


def said_of_orientation(images: pd.DataFrame, source: str, upright: bool) -> list[str]:
    """What a person should know of the orientations, a sentence each; none where no image carries one.

    Args:
        images: columns of `image_columns`.
        source: the data set's name.
    """
    count, key = turned_images(images), f"data.sources.{source}.orientation"
    if not count:
        return []
    used, other = ("upright", "stored") if upright else ("stored", "upright")
    read = "are turned as viewers show them" if upright else "are read as stored, unturned"
    fits = _fit_when_swapped(images)
    if fits:
        of_them = f"the annotated width and height of {fits} of {count} images with an EXIF orientation fit the {other} image only"
        return [f"{of_them}: set {key} to {other} in params/data.yaml and run the fetch stage again"]
    way = f"joints that lie sideways or upside down in contact_sheet.png of the shards mean that {key} must be {other} (it is {used})"
    return [f"{count} of {len(images)} images carry an EXIF orientation; such images {read}: {way}"]


def _fit_when_swapped(images: pd.DataFrame) -> int:
    """Images that are not as large as annotated, and would be with width and height exchanged, as their orientation exchanges them."""
    wrong = images["orientation"].isin(SWAPPING) & (images["size_error_px"] > 0)
    swapped = (images["file_width"] == images["image_height"]) & (images["file_height"] == images["image_width"])
    return int(np.sum(wrong & swapped))
