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
from components.codecs.codec import Codec, Outputs, Targets
from components.models import zoo
from components.models.variant import Variant
from components.models.weights import load_weights, read_metadata, train_first, trained_here
from components.pose.crop import CropGeometry

VIEW = "teacher_view"  # among a step's targets: (B, 3, H, W) what the teacher sees, where that is not what the student sees


class Imitating(Protocol):
    """A codec whose method can learn from another network's outputs."""

    def imitation(self, outputs: Outputs, teacher: Outputs) -> Tensor:
        """The loss, a scalar."""


@dataclass(frozen=True)
class Teacher:
    """The loss of imitating a network that sees the same crops, or the same views with more px.

    Attributes:
        share: of the imitation in the total loss, above 0 and at most 1; the labels have the rest.
        view: the geometry of its crops where they have more px than the student's; None: they are the same.
    """

    network: nn.Module
    codec: Imitating
    share: float
    view: CropGeometry | None = None

    def maps(self, images: Tensor, targets: Targets) -> Outputs:
        """What the teacher says of a batch.

        Args:
            images: (B, 3, H, W) normalised, as the network in training sees them.
            targets: of the step; `VIEW` is there where the teacher sees more px.
        """
        # bf16's rounding is far below what a teacher does not know
        with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda, cache_enabled=False):
            maps: Outputs = self.network(targets.get(VIEW, images))
        return maps

    def loss(self, outputs: Outputs, wanted: Outputs, supervised: Tensor) -> dict[str, Tensor]:
        """The total `loss`, and `imitation`.

        Args:
            outputs: of the network in training.
            wanted: the teacher's `maps` of the same batch.
            supervised: the loss from labels.
        """
        imitation = self.codec.imitation(outputs, tuple(output.float() for output in wanted))
        return {"loss": (1 - self.share) * supervised + self.share * imitation, "imitation": imitation}


def open_teacher(path: str, share: float, student: Variant, codec: Codec, device: torch.device) -> Teacher:
    """The teacher whose weights are in `path`, in evaluation mode.

    Args:
        path: a weights file of a variant (model.safetensors), from the repository's root.
        codec: the student's.
    Raises:
        FarposeError: the file is missing or damaged, its variant has other joints or maps than the student or fewer px, or the
            student's codec cannot imitate.
    """
    file = located(path)
    teacher = zoo.variant(read_metadata(file)["variant"])
    if not hasattr(codec, "imitation"):
        problem = f"the codec {student.codec_name!r} cannot imitate a teacher"
        raise FarposeError(problem, where=f"variant {student.name}: teacher", fix="remove `teacher`, or use method categorical")
    for what in ("codec_name", "heatmap_size", "convention", "skeleton"):
        ours, theirs = getattr(student, what), getattr(teacher, what)
        if ours != theirs:
            problem = f"{what.replace('_', ' ')} of the teacher is {theirs}, of {student.name} {ours}"
            raise FarposeError(problem, where=path, fix="name a teacher that has the same maps")
    (height, width), (more_height, more_width) = student.input_size, teacher.input_size
    if more_height * width != more_width * height or more_height < height:
        problem = f"crops of the teacher are {more_height}x{more_width} px, of {student.name} {height}x{width}"
        raise FarposeError(problem, where=path, fix="name a teacher whose crops have the same shape, and as many px or more")
    network = zoo.network(teacher)
    network.load_state_dict(load_weights(file, teacher))
    network = network.float().to(device).to(memory_format=torch.channels_last).eval()
    view = None if teacher.input_size == student.input_size else teacher.geometry()
    return Teacher(network, cast(Imitating, codec), share, view)


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
        raise FarposeError("the teacher's weights are not there", where=path, fix=f"{train_first(path)}, or name a file that is there")
    return sha256_of(located(path))


def described(path: str | None) -> dict[str, Any]:
    """What a model with this teacher says of it: for its card. Empty where there is none.

    The weights of a teacher that is trained here are not known before; those of the student name their digest.
    """
    if path is None:
        return {}
    if trained_here(path):
        return {"teacher": f"{trained_here(path)} ({path})"}
    return {"teacher": f"{read_metadata(located(path))['variant']} ({path})", "SHA-256 of the teacher": digest(path)}
