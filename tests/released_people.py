"""Six synthetic people, one an image, and the joints that a released model finds of them.

`python -m tests.released_people` writes tests/golden/released_NAME.json; run it after `farpose release … --as NAME`.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from components.approaches import approach
from components.base.files import sha256_of
from components.datasets.synthetic.exact import Draw
from components.datasets.synthetic.params import SyntheticParams
from components.datasets.synthetic.scene import SyntheticPerson, render_scene
from components.evaluate.approach import Files
from components.registry import released
from pipelines import paths

NAMES = ("pose_64x48", "pose_128x96")
NAME = paths.RELEASED.name
PEOPLE = SyntheticParams(min_height_px=30, max_height_px=200, max_persons=1, empty_fraction=0)
COUNT, SPLIT = 6, 7  # a split that the data set does not have


def golden(name: str) -> Path:
    """The file of a released model's golden joints."""
    return Path(__file__).parent / "golden" / f"released_{name}.json"


def draw_people(folder: Path) -> tuple[dict[int, Path], dict[int, np.ndarray]]:
    """Write one image per person into `folder`; by image number its path, and (1, 4) the box of the visible pixels."""
    paths: dict[int, Path] = {}
    boxes: dict[int, np.ndarray] = {}
    index = 0
    while len(paths) < COUNT:
        image, persons = render_scene(Draw(PEOPLE.seed, SPLIT, index), PEOPLE)
        index += 1
        if persons:
            number = len(paths)
            paths[number], boxes[number] = folder / f"{number}.png", box_of(persons[0])
            cv2.imwrite(str(paths[number]), image[..., ::-1])
    return paths, boxes


def box_of(person: SyntheticPerson) -> np.ndarray:
    """(1, 4) left, top, width and height of the visible pixels, px."""
    rows, columns = np.nonzero(person.mask)
    return np.array([[columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]], np.float64)


def joints(model: released.Loaded, paths: dict[int, Path], boxes: dict[int, np.ndarray]) -> np.ndarray:
    """(6, K, 2) joints that the model finds, px of the images."""
    package = model.package
    files = Files(paths, boxes, package.spec, package.degrade)
    found, _ = approach(package.variant.approach).find(model.built, files, package.evaluate, "cpu")
    return found.keypoints_image[np.argsort(found.image_id)]


def main() -> None:
    """Write the golden joints of the released models."""
    import tempfile

    for name in NAMES:
        model = released.load(name)
        with tempfile.TemporaryDirectory() as folder:
            found = joints(model, *draw_people(Path(folder))).round(3).tolist()
        content = {"weights_sha256": sha256_of(model.package.weights), "keypoints_image": found}
        golden(name).write_text(json.dumps(content) + "\n")
        print(f"{golden(name)}: {len(found)} people")


if __name__ == "__main__":
    main()
