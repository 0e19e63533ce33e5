"""Skeletons: which joints a data set labels, in which order, and how precisely."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from components.base.config import parse
from components.base.errors import FarposeError, unknown_name


@dataclass(frozen=True)
class Skeleton:
    """A data set's joints.

    Attributes:
        keypoint_names: K names, in the order of the annotations.
        sigmas: K per-joint OKS constants (Ronchi & Perona 2017, as in pycocotools), relative to sqrt(area).
        limbs: pairs of names that are drawn as lines.
        upper_body: names of the upper half in half-body augmentation; all other joints are the lower half.
        uncounted: names that `num_keypoints` does not count. Persons with no other joint are neither trained on nor scored.
        flips: pairs of names that exchange places in a mirrored image; None: left_NAME and right_NAME of the same NAME.

    Raises:
        ValueError: a name is repeated or unknown, or the sigmas are not K positive numbers.
    """

    name: str
    keypoint_names: tuple[str, ...]
    sigmas: tuple[float, ...]
    limbs: tuple[tuple[str, str], ...] = ()
    upper_body: tuple[str, ...] = ()
    uncounted: tuple[str, ...] = ()
    flips: tuple[tuple[str, str], ...] | None = None

    def __post_init__(self) -> None:
        if not self.keypoint_names or len(set(self.keypoint_names)) != len(self.keypoint_names):
            raise ValueError(f"keypoint_names must be different names, at least one, got {list(self.keypoint_names)}")
        if self.flips is None:
            object.__setattr__(self, "flips", _sides(self.keypoint_names))
        if len(self.sigmas) != len(self.keypoint_names) or not all(0 < sigma < math.inf for sigma in self.sigmas):
            raise ValueError(f"sigmas must be {len(self.keypoint_names)} positive numbers, one per joint, got {list(self.sigmas)}")
        for key in ("limbs", "upper_body", "uncounted", "flips"):
            entries = getattr(self, key)
            for name in itertools.chain.from_iterable(entries) if key in ("limbs", "flips") else entries:
                if name not in self.keypoint_names:
                    raise ValueError(str(unknown_name(f"joint in {key}:", name, self.keypoint_names)))
        flipped = list(itertools.chain.from_iterable(self.flips or ()))
        if len(set(flipped)) != len(flipped):
            raise ValueError(f"flips must name each joint once, got {[list(pair) for pair in self.flips or ()]}")

    def __len__(self) -> int:
        return len(self.keypoint_names)

    def index(self, name: str) -> int:
        return self.keypoint_names.index(name)

    def plain(self) -> dict[str, Any]:
        """As JSON values, which are stored with tables, shards and models; `Skeleton.of` parses them."""
        pairs = {key: [list(pair) for pair in getattr(self, key)] for key in ("limbs", "flips")}
        lists = {key: list(getattr(self, key)) for key in ("keypoint_names", "sigmas", "upper_body", "uncounted")}
        return {"name": self.name, **lists, **pairs}

    @classmethod
    def of(cls, plain: Any, where: object = None, name: str | None = None) -> Skeleton:
        """The skeleton of `plain`'s values, or a known one by its name.

        Args:
            name: given to a skeleton that is spelled out without one.
        Raises:
            FarposeError: unknown name, or not a skeleton; names the key.
        """
        if isinstance(plain, str):
            if plain not in SKELETONS:
                raise unknown_name("skeleton", plain, SKELETONS, where=where)
            return SKELETONS[plain]
        if isinstance(plain, dict) and "sigmas" not in plain:
            fix = "give one per joint, as the data set's authors publish them or as measured on persons annotated twice"
            raise FarposeError("the skeleton has no sigmas: OKS needs them, and they are never guessed", where=where, fix=fix)
        read = parse(cls, {"name": name, **plain} if isinstance(plain, dict) and name else plain, str(where or "skeleton"))
        known = SKELETONS.get(read.name)
        return known if known == read else read

    @cached_property
    def flip_permutation(self) -> tuple[int, ...]:
        """K indices: joint k of a mirrored person is joint `flip_permutation[k]` of the original."""
        other = {a: b for pair in self.flips or () for a, b in (pair, pair[::-1])}
        return tuple(self.index(other.get(name, name)) for name in self.keypoint_names)

    @cached_property
    def limb_indices(self) -> tuple[tuple[int, int], ...]:
        return tuple((self.index(a), self.index(b)) for a, b in self.limbs)

    @cached_property
    def upper_body_mask(self) -> np.ndarray:
        """(K,) bool."""
        return np.array([name in self.upper_body for name in self.keypoint_names])

    @cached_property
    def counted_mask(self) -> np.ndarray:
        """(K,) bool: the joints that `num_keypoints` counts."""
        return np.array([name not in self.uncounted for name in self.keypoint_names])


def _sides(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """(left_NAME, right_NAME) of every NAME that has both."""
    bases = [name.removeprefix("left_") for name in names if name.startswith("left_")]
    return tuple((f"left_{base}", f"right_{base}") for base in bases if f"right_{base}" in names)


def _both_sides(*pairs: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    """Each pair of joints for the left and the right side; names without a side stay as they are."""
    sided = {"shoulder", "elbow", "wrist", "hip", "knee", "ankle", "eye", "ear"}
    place = lambda side, name: f"{side}_{name}" if name in sided else name  # noqa: E731
    return tuple((place(side, a), place(side, b)) for side in ("left", "right") for a, b in pairs)


_ARM = ("shoulder", "elbow"), ("elbow", "wrist")
_LEG = ("hip", "knee"), ("knee", "ankle")
_GIRDLES = ("left_shoulder", "right_shoulder"), ("left_hip", "right_hip")

COCO_17 = Skeleton(
    name="coco_17",
    keypoint_names=(
        "nose", "left_eye", "right_eye", "left_ear", "right_ear",
        "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
        "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
    ),
    sigmas=(
        0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062,
        0.107, 0.107, 0.087, 0.087, 0.089, 0.089,
    ),
    limbs=_both_sides(("nose", "eye"), ("eye", "ear"), ("ear", "shoulder"), *_ARM, ("shoulder", "hip"), *_LEG) + _GIRDLES,
    upper_body=(
        "nose", "left_eye", "right_eye", "left_ear", "right_ear",
        "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
    ),
)  # fmt: skip

MPII_16 = Skeleton(
    name="mpii_16",
    keypoint_names=(
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
        "pelvis", "thorax", "upper_neck", "head_top",
        "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
    ),
    sigmas=(  # MPII is scored by PCKh; these only serve drawing and OKS-NMS (joints as in COCO, 0.026 elsewhere)
        0.089, 0.087, 0.107, 0.107, 0.087, 0.089, 0.026, 0.026, 0.026, 0.026,
        0.062, 0.072, 0.079, 0.079, 0.072, 0.062,
    ),
    limbs=_both_sides(*_ARM, *_LEG, ("hip", "pelvis"), ("shoulder", "thorax"))
    + (("pelvis", "thorax"), ("thorax", "upper_neck"), ("upper_neck", "head_top")),
    upper_body=(
        "thorax", "upper_neck", "head_top",
        "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
    ),
)  # fmt: skip

CROWDPOSE_14 = Skeleton(
    name="crowdpose_14",
    keypoint_names=(
        "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
        "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "head_top", "neck",
    ),
    sigmas=(0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089, 0.079, 0.079),
    limbs=_both_sides(*_ARM, *_LEG, ("shoulder", "hip"), ("neck", "shoulder")) + (*_GIRDLES, ("neck", "head_top")),
    upper_body=(
        "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "head_top", "neck",
    ),
    uncounted=("head_top", "neck"),  # in all of the authors' files, whose counts reach 12 at most
)  # fmt: skip

LSPET_14 = replace(CROWDPOSE_14, name="lspet_14", uncounted=())  # LSP's joints in CrowdPose's order, all of them counted

LSP_14 = Skeleton(
    name="lsp_14",
    keypoint_names=(
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
        "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist", "neck", "head_top",
    ),
    sigmas=(0.089, 0.087, 0.107, 0.107, 0.087, 0.089, 0.062, 0.072, 0.079, 0.079, 0.072, 0.062, 0.079, 0.079),
    limbs=CROWDPOSE_14.limbs,
    upper_body=CROWDPOSE_14.upper_body,
)  # fmt: skip


def _arc(name: str, count: int, middle: str = "") -> tuple[str, ...]:
    """Landmarks in a row from the person's right to the left, numbered from the outside in."""
    right = [f"right_{name}_{i}" for i in range(1, count // 2 + 1)]
    return (*right, *([middle] if count % 2 else []), *(landmark.replace("right_", "left_", 1) for landmark in reversed(right)))


def _line(*names: str) -> tuple[tuple[str, str], ...]:
    return tuple(itertools.pairwise(names))


# The face is annotated with the 68 landmarks of 300-W (Sagonas et al. 2013, figure 1).
_CONTOUR, _EYEBROWS = _arc("contour", 17, "chin"), _arc("eyebrow", 10)
_NOSE, _NOSTRILS = tuple(f"nose_bridge_{i}" for i in range(1, 5)), _arc("nostril", 5, "nose_base")
_EYES = tuple(f"{side}_eyelid_{i}" for side, order in (("right", "123456"), ("left", "432165")) for i in order)  # 1: outer corner
_OUTER_LIPS = _arc("outer_upper_lip", 7, "outer_upper_lip") + _arc("outer_lower_lip", 5, "outer_lower_lip")[::-1]
_INNER_LIPS = _arc("inner_upper_lip", 5, "inner_upper_lip") + _arc("inner_lower_lip", 3, "inner_lower_lip")[::-1]
_FACE = _CONTOUR + _EYEBROWS + _NOSE + _NOSTRILS + _EYES + _OUTER_LIPS + _INNER_LIPS
_FACE_LIMBS = (
    _line(*_CONTOUR) + _line(*_EYEBROWS[:5]) + _line(*_EYEBROWS[5:]) + _line(*_NOSE, "nose_base") + _line(*_NOSTRILS)
    + _line(*_EYES[:6], _EYES[0]) + _line(*_EYES[6:], _EYES[6]) + _line(*_OUTER_LIPS, _OUTER_LIPS[0]) + _line(*_INNER_LIPS, _INNER_LIPS[0])
)  # fmt: skip
_FINGERS = ("thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger")
_FEET = tuple(f"{side}_{part}" for side in ("left", "right") for part in ("big_toe", "small_toe", "heel"))
_HANDS = tuple(
    f"{side}_{part}" for side in ("left", "right") for part in ("hand_root", *(f"{finger}{i}" for finger in _FINGERS for i in range(1, 5)))
)
_FOOT_LIMBS = tuple((f"{foot.split('_')[0]}_ankle", foot) for foot in _FEET)
_HAND_LIMBS = tuple(
    limb
    for side in ("left", "right")
    for finger in _FINGERS
    for limb in _line(f"{side}_wrist", f"{side}_hand_root", *(f"{side}_{finger}{i}" for i in range(1, 5)))
)
_HAND_SIGMAS = (
    0.029, 0.022, 0.035, 0.037, 0.047, 0.026, 0.025, 0.024, 0.035, 0.018, 0.024, 0.022, 0.026, 0.017, 0.021, 0.021, 0.032,
    0.02, 0.019, 0.022, 0.031,
)  # fmt: skip

WHOLEBODY_133 = Skeleton(  # Jin et al. 2020, "Whole-Body Human Pose Estimation in the Wild": body, feet, face, hands
    name="wholebody_133",
    keypoint_names=COCO_17.keypoint_names + _FEET + _FACE + _HANDS,
    sigmas=(  # of the authors' evaluation; left and right differ for feet and face, as published
        *COCO_17.sigmas,
        0.068, 0.066, 0.066, 0.092, 0.094, 0.094,
        0.042, 0.043, 0.044, 0.043, 0.040, 0.035, 0.031, 0.025, 0.020, 0.023, 0.029, 0.032, 0.037, 0.038, 0.043, 0.041, 0.045,
        0.013, 0.012, 0.011, 0.011, 0.012, 0.012, 0.011, 0.011, 0.013, 0.015, 0.009, 0.007, 0.007, 0.007, 0.012, 0.009, 0.008,
        0.016, 0.010, 0.017, 0.011, 0.009, 0.011, 0.009, 0.007, 0.013, 0.008, 0.011, 0.012, 0.010, 0.034, 0.008, 0.008, 0.009,
        0.008, 0.008, 0.007, 0.010, 0.008, 0.009, 0.009, 0.009, 0.007, 0.007, 0.008, 0.011, 0.008, 0.008, 0.008, 0.01, 0.008,
        *_HAND_SIGMAS, *_HAND_SIGMAS,
    ),
    limbs=COCO_17.limbs + _FOOT_LIMBS + _FACE_LIMBS + tuple(dict.fromkeys(_HAND_LIMBS)),
    upper_body=COCO_17.upper_body + _FACE + _HANDS,
)  # fmt: skip

SKELETONS = {skeleton.name: skeleton for skeleton in (COCO_17, MPII_16, CROWDPOSE_14, LSP_14, LSPET_14, WHOLEBODY_133)}
