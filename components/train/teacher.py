"""A trained network that the network in training imitates (Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network")."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from components.base.config import REPOSITORY
from components.base.errors import FarposeError
from components.base.files import sha256_of
from components.codecs.codec import Codec, Outputs
from components.models import zoo
from components.models.variant import Variant
from components.models.weights import load_weights, read_metadata


class Imitating(Protocol):
    """A codec whose method can learn from another network's outputs."""

    def imitation(self, outputs: Outputs, teacher: Outputs) -> Tensor:
        """The loss, a scalar."""


@dataclass(frozen=True)
class Teacher:
    """The loss of imitating a network that sees the same images.

    Attributes:
        share: of the imitation in the total loss, above 0 and at most 1; the labels have the rest.
    """

    network: nn.Module
    codec: Imitating
    share: float

    def loss(self, images: Tensor, outputs: Outputs, supervised: Tensor) -> dict[str, Tensor]:
        """The total `loss`, and `imitation`.

        Args:
            images: (B, 3, H, W) normalised, as the network in training saw them.
            outputs: of the network in training.
            supervised: its loss from labels.
        """
        with torch.no_grad():
            wanted = self.network(images)
        imitation = self.codec.imitation(outputs, tuple(output.float() for output in wanted))
        return {"loss": (1 - self.share) * supervised + self.share * imitation, "imitation": imitation}


def open_teacher(path: str, share: float, student: Variant, codec: Codec, device: torch.device) -> Teacher:
    """The teacher whose weights are in `path`, in evaluation mode.

    Args:
        path: a weights file of a variant (model.safetensors), from the repository's root.
        codec: the student's.
    Raises:
        FarposeError: the file is missing or damaged, its variant has other inputs, joints or maps than the student, or the student's
            codec cannot imitate.
    """
    file = located(path)
    teacher = zoo.variant(read_metadata(file)["variant"])
    if not hasattr(codec, "imitation"):
        problem = f"the codec {student.codec_name!r} cannot imitate a teacher"
        raise FarposeError(problem, where=f"variant {student.name}: teacher", fix="remove `teacher`, or use method categorical")
    for what in ("codec_name", "input_size", "heatmap_size", "convention", "skeleton"):
        ours, theirs = getattr(student, what), getattr(teacher, what)
        if ours != theirs:
            problem = f"{what.replace('_', ' ')} of the teacher is {theirs}, of {student.name} {ours}"
            raise FarposeError(problem, where=path, fix="name a teacher that takes the same crops and has the same maps")
    network = zoo.network(teacher)
    network.load_state_dict(load_weights(file, teacher))
    network = network.float().to(device).to(memory_format=torch.channels_last).eval()
    return Teacher(network, cast(Imitating, codec), share)


def located(path: str) -> Path:
    """The file, from the repository's root."""
    return REPOSITORY / path


def digest(path: str | None) -> str | None:
    """SHA-256 of a teacher's weights; None where there is no teacher.

    Raises:
        FarposeError: the file is not there.
    """
    if path is None:
        return None
    if not located(path).is_file():
        raise FarposeError("the teacher's weights are not there", where=path, fix="train it, or name a file that is there")
    return sha256_of(located(path))


def described(path: str | None) -> dict[str, Any]:
    """What a model with this teacher says of it: for its card. Empty where there is none."""
    if path is None:
        return {}
    return {"teacher": f"{read_metadata(located(path))['variant']} ({path})", "SHA-256 of the teacher": digest(path)}
