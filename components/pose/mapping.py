"""Joint mappings: persons annotated with one skeleton, as persons of another that shares some of its joints.

A model that is trained on COCO can so be scored on MPII's, CrowdPose's or LSP's persons, by the joints that both label. A joint is shared
where both name the same part of the body; none is derived from others. Annotators of different data sets place the same joint differently,
so numbers over a mapping compare models, not data sets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from components.base.errors import unknown_name
from components.pose.persons import Persons
from components.pose.skeleton import COCO_17, CROWDPOSE_14, LSP_14, LSPET_14, MPII_16, WHOLEBODY_133, Skeleton

LIMBS = tuple(f"{side}_{joint}" for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle") for side in ("left", "right"))


@dataclass(frozen=True)
class JointMapping:
    """From one skeleton to another.

    Attributes:
        name: as params/data.yaml names it.
        source, target: skeletons.
        joints: (name in `source`, name in `target`) of every shared joint; the target's others are unlabelled.
    """

    name: str
    source: Skeleton
    target: Skeleton
    joints: tuple[tuple[str, str], ...]

    @cached_property
    def indices(self) -> tuple[list[int], list[int]]:
        """Of the shared joints, in the source and in the target."""
        return [self.source.index(a) for a, _ in self.joints], [self.target.index(b) for _, b in self.joints]

    def persons(self, persons: Persons) -> Persons:
        """The same persons with the target's joints; `num_keypoints` counts the target's labelled ones."""
        ours, theirs = self.indices
        keypoints = np.zeros((len(persons), len(self.target), 3))
        keypoints[:, theirs] = persons.keypoints[:, ours]
        counted = (keypoints[:, self.target.counted_mask, 2] > 0).sum(1)
        frame = persons.frame.assign(num_keypoints=counted)
        return replace(persons, frame=frame, keypoints=keypoints, skeleton=self.target)


def _same(*names: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, name) for name in names)


_TO_COCO = {skeleton.name: skeleton for skeleton in (CROWDPOSE_14, LSP_14, LSPET_14, MPII_16)}
MAPPINGS = {
    mapping.name: mapping
    for mapping in (
        *(JointMapping(f"{name}_to_coco_17", skeleton, COCO_17, _same(*LIMBS)) for name, skeleton in _TO_COCO.items()),
        JointMapping("wholebody_133_to_coco_17", WHOLEBODY_133, COCO_17, _same(*COCO_17.keypoint_names)),
        JointMapping("coco_17_to_crowdpose_14", COCO_17, CROWDPOSE_14, _same(*LIMBS)),
        JointMapping("coco_17_to_lspet_14", COCO_17, LSPET_14, _same(*LIMBS)),
        JointMapping("coco_17_to_mpii_16", COCO_17, MPII_16, _same(*LIMBS)),
        JointMapping("mpii_16_to_lspet_14", MPII_16, LSPET_14, (*_same(*LIMBS, "head_top"), ("upper_neck", "neck"))),
        JointMapping("lspet_14_to_crowdpose_14", LSPET_14, CROWDPOSE_14, _same(*CROWDPOSE_14.keypoint_names)),
    )
}


def mapping_of(name: str, where: object = None) -> JointMapping:
    """
    Raises:
        FarposeError: an unknown name; lists the known ones.
    """
    if name not in MAPPINGS:
        raise unknown_name("mapping", name, MAPPINGS, where=where)
    return MAPPINGS[name]
