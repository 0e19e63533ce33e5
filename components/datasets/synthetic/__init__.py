"""Synthetic people: a seeded renderer of clothed, articulated figures, written as COCO keypoints."""

from components.datasets.synthetic.coco import write_synthetic
from components.datasets.synthetic.exact import Draw
from components.datasets.synthetic.layout import Place
from components.datasets.synthetic.params import SyntheticParams
from components.datasets.synthetic.scene import SyntheticPerson, render_scene

__all__ = ["Draw", "Place", "SyntheticParams", "SyntheticPerson", "render_scene", "write_synthetic"]
