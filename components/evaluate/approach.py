"""The contract of an approach: one way of finding persons' joints, with everything that the pipeline needs of it.

There are two, in `components.approaches`: one person in a crop, and all persons of a whole image. Training, evaluation, serving
and the commands use this contract and never ask which of the two it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import nn

from components.codecs.codec import Codec
from components.degrade.images import read_image
from components.degrade.params import DegradeParams, ShardSpec
from components.evaluate.params import EvaluateParams
from components.evaluate.predictions import Predictions
from components.evaluate.scoring import Truth
from components.models.export import Form
from components.models.variant import Variant
from components.models.zoo import Built
from components.pose.persons import Persons


@dataclass(frozen=True)
class EvaluationData:
    """What models are scored on.

    Attributes:
        inputs: `EvalCrops` of the labelled persons or `EvalImages`, opened by the approach.
        persons: all rows of the split, crowd regions and persons without labelled joints included.
        images: `image_id` and `image_path` of every image of the split, those without persons included.
        data_root: the folder that image paths are relative to.
        degrade: how further inputs are made (a detector's boxes, other test scales); as the shard was made.
        split: "val" or "dev".
        evaluator: name of the data set's evaluator, see `evaluate.evaluators`.
    """

    inputs: Any
    persons: Persons
    images: pd.DataFrame
    data_root: Path
    degrade: DegradeParams = field(default_factory=DegradeParams)
    split: str = "val"
    evaluator: str = "oks"

    @property
    def image_ids(self) -> np.ndarray:
        return self.images["image_id"].to_numpy()

    @property
    def truth(self) -> Truth:
        return Truth(self.persons, self.image_ids, self.evaluator)


@dataclass(frozen=True)
class EvaluationContext:
    """One model, what it is scored on, how, and where the results go.

    Attributes:
        codec: decodes the model's outputs.
        out: the directory that is written.
        provenance: what made the model; repeated in every record of the prediction files.
        title: heading of the pictures, such as the variant's name.
    """

    model: nn.Module
    codec: Codec
    data: EvaluationData
    params: EvaluateParams
    out: Path
    provenance: Mapping[str, Any]
    device: str | torch.device = "cpu"
    title: str = ""


@dataclass(frozen=True)
class Found:
    """Predictions with one kind of boxes, and how well each labelled person was found.

    Attributes:
        boxes: suffix of the metrics, which names the boxes that were given, see `evaluate.headline`.
        predictions, scores: (N,) those that are written and scored.
        before: (M,) predictions before repeats were dropped.
        persons: (P,) the labelled persons; none for a detector's boxes.
        own, oks: (P,) row in `before` of the prediction that is the person's, -1 without one, and its OKS.
        seen: how the inputs were made, for the provenance of the prediction file.
        counts: further numbers for the metrics.
    """

    boxes: str
    predictions: Predictions
    scores: np.ndarray
    before: Predictions
    persons: Persons
    own: np.ndarray
    oks: np.ndarray
    seen: Mapping[str, Any]
    counts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Tiles:
    """What a gallery can show: R pictures and how good each is.

    Attributes:
        quality: (R,) such as OKS; NaN rows are not shown.
        labelled: (R,) how much of each is labelled; rows with less than half of the most are shown last.
        shape: (height, width) of a picture, px.
        draw, caption: of a row.
        legend: what the colours mean.
    """

    quality: np.ndarray
    labelled: np.ndarray
    shape: tuple[int, int]
    draw: Callable[[int], np.ndarray]
    caption: Callable[[int], str]
    legend: str


@dataclass(frozen=True)
class Look:
    """One far person: its place in the image, the network's input there, and the prediction.

    Attributes:
        image: (H, W, 3) uint8 RGB original.
        part: left, top, right and bottom of the image's part that is shown, px.
        frame_xywh: the box drawn into it, px of the image.
        seen: (h, w, 3) uint8 RGB, the network's view, drawn on.
        caption: of `seen`.
        legend: what its colours mean.
    """

    image: np.ndarray
    part: tuple[float, float, float, float]
    frame_xywh: Sequence[float]
    seen: np.ndarray
    caption: str
    legend: str


@dataclass(frozen=True)
class Check:
    """One check: whether it passed, what was measured, and whether a user should look at it although it passed."""

    name: str
    passed: bool
    detail: str
    warning: bool = False


@dataclass(frozen=True)
class Served:
    """A registered model's tensors, each as (numpy type, shape with -1 for any), and how to call it, in words.

    Attributes:
        outputs: by name, in order.
        task, needs, usage: sentences and lines of Python for the model card.
    """

    input: tuple[type, tuple[int, ...]]
    outputs: Mapping[str, tuple[type, tuple[int, ...]]]
    task: str
    needs: str
    usage: str


@dataclass(frozen=True)
class Files:
    """Images without annotations, such as a user's own.

    Attributes:
        paths: by image number; empty where `pixels` are given.
        boxes: at least one, by image number (n, 4) left, top, width, height, px of the image; None where the approach takes none.
        spec, degrade: how inputs are made of them.
        scores: of the boxes, where a detector found them: by image number (n,). None: they are the user's own, and nobody is dropped.
        upright: turn images by their EXIF orientation, as viewers do; False: as stored, as COCO's annotations take them.
        pixels: by image number (H, W, 3) uint8 BGR, where the images are in memory, such as frames of a video.
    """

    paths: Mapping[int, Path]
    boxes: Mapping[int, np.ndarray] | None
    spec: ShardSpec
    degrade: DegradeParams
    scores: Mapping[int, np.ndarray] | None = None
    upright: bool = True
    pixels: Mapping[int, np.ndarray] | None = None

    @property
    def numbers(self) -> list[int]:
        """Of all images, in order."""
        return list(self.paths if self.pixels is None else self.pixels)

    def image(self, number: int) -> np.ndarray:
        """(H, W, 3) uint8 BGR.

        Raises:
            FarposeError: its file is missing or damaged.
        """
        return read_image(self.paths[number], self.upright) if self.pixels is None else self.pixels[number]


class Approach(Protocol):
    """One way of finding joints; `components.approaches.approach` looks it up by the name that a variant gives.

    Its training data is separate, in `evaluate.feed`, so that a changed picture or check retrains nothing.

    Attributes:
        name: "crops" or "images": the network's inputs, also as a word in messages.
        needs: what its shards must hold, in words.
        takes_boxes: whether a user may give persons' boxes.
        draw_above: score below which a person is not drawn on a user's image.
    """

    name: str
    needs: str
    takes_boxes: bool
    draw_above: float

    # --- shards

    def spec(self, variant: Variant) -> ShardSpec:
        """How inputs are made for a variant that the pipeline has no shards for."""
        ...

    def takes(self, spec: ShardSpec) -> bool:
        """Whether these shards hold what the approach needs."""
        ...

    def inputs(self, directory: Path, variant: Variant, params: EvaluateParams | None = None, split: str = "val") -> Any:
        """A shard's evaluation inputs, with a length, `image_id` and `image_path`."""
        ...

    def label(self, shards: str, variant: Variant) -> str:
        """A label that differs between variants that use different inputs of the same shards."""
        ...

    # --- evaluation

    def predict(self, context: EvaluationContext) -> Iterator[Found]:
        """The model's predictions: first with the boxes of the main AP, then with further ones that the parameters name."""
        ...

    def perfect(self, codec: Codec, data: EvaluationData, device: str | torch.device = "cpu") -> tuple[Predictions, np.ndarray]:
        """Predictions decoded from the method's own perfect targets, and the person scores."""
        ...

    def bound(self, codec: Codec, data: EvaluationData) -> tuple[Predictions, np.ndarray]:
        """The best that the decoder can give, over all maps, and the person scores; see `evaluate.bound`."""
        ...

    def reductions(self, context: EvaluationContext, found: Found) -> tuple[np.ndarray, np.ndarray]:
        """Image px per px of the network's input, of `data.persons` and of the predictions; above 1 the input is a reduction."""
        ...

    def tiles(self, context: EvaluationContext, found: Found) -> Tiles:
        """The gallery's pictures."""
        ...

    def look(self, context: EvaluationContext, found: Found, person: int) -> Look:
        """The overview's pictures of one row of `found.persons`."""
        ...

    # --- checks that cost no training

    def checks(self, variant: Variant, persons: Persons) -> Iterator[Check]:
        """Geometry, flips, decoding and the AP of perfect targets, on a split's persons."""
        ...

    def follows(self, name: str, inputs: Any, persons: Persons) -> Check:
        """Whether a shard's inputs are those of the persons table."""
        ...

    # --- users' images, registered models, ONNX files

    def find(self, built: Built, files: Files, params: EvaluateParams, device: str) -> tuple[Predictions, np.ndarray]:
        """Persons of a user's images and their scores; image ids are their numbers."""
        ...

    def picture(
        self, image: np.ndarray, found: Predictions, scores: np.ndarray, built: Built, params: EvaluateParams, frame: bool = False
    ) -> np.ndarray:
        """A user's image (H, W, 3) RGB with its persons drawn on it.

        Args:
            frame: of a video: the picture has the image's size, and neither tags nor a legend, which would flicker.
        """
        ...

    def served(self, variant: Variant) -> Served:
        """The inputs and outputs of a registered model."""
        ...

    def examples(self, inputs: Any) -> np.ndarray:
        """(N, 3, H, W) uint8: examples of a registered model's input."""
        ...

    def serve(self, built: Built, preparation: Mapping[str, Any]) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        """The registered model as a function of its input.

        Args:
            preparation: the mappings `shards` (a `ShardSpec`), `degrade` and `evaluate`, as the model was evaluated.
        """
        ...

    def form(self, variant: Variant) -> Form:
        """How the variant is written as ONNX and its outputs are decoded."""
        ...

    def compared(self, inputs: Any) -> list[np.ndarray]:
        """Some evaluation inputs, each (3, H, W) uint8, on which an ONNX file is compared."""
        ...
