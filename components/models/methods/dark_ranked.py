"""DARK's heatmaps, whose persons are ranked by the joints that are seen: ours.

Networks, targets, loss and decoding are DARK's. What is new lies in the codec, whose docstring gives the equation.
"""

from __future__ import annotations

import dataclasses

from components.models.methods import dark

METHOD = dataclasses.replace(dark.METHOD, name="dark_ranked", codec="dark_ranked")
