"""A 3-D body: proportions and forward kinematics.

Lengths are in statures (standing height = 1). Axes of the body: x to the person's own left, y up, z to the front.
"""

from __future__ import annotations

from dataclasses import dataclass

from components.datasets.synthetic.exact import Draw, Matrix, Vector, about_x, about_y, about_z, add, chain, turn
from components.datasets.synthetic.poses import Angles

SIDES = {"left": 1.0, "right": -1.0}
IDENTITY: Matrix = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))

# Segment lengths as shares of stature: Winter, Biomechanics and Motor Control of Human Movement (2009), figure 4.1, after
# Drillis and Contini (1966).
THIGH, SHIN, ANKLE_HEIGHT, FOOT = 0.245, 0.246, 0.039, 0.152
UPPER_ARM, FOREARM, HAND = 0.186, 0.146, 0.085
HIP_TO_SHOULDER, SHOULDER_TO_NECK = 0.288, 0.042


@dataclass(frozen=True)
class Build:
    """Proportions of a person; all are factors or lengths in statures.

    Attributes:
        shoulder: half the distance between the shoulder joints.
        hip: half the distance between the hip joints.
        girth: factor on all radii.
        limb: factor on the lengths of arms and legs.
        head: factor on the size of the head; children's are larger.
    """

    shoulder: float
    hip: float
    girth: float
    limb: float
    head: float

    @classmethod
    def draw(cls, draw: Draw) -> Build:
        child = draw.chance(0.12)
        return cls(
            shoulder=draw.between(0.098, 0.116),
            hip=draw.between(0.066, 0.080),
            girth=draw.between(0.90, 1.22),
            limb=draw.between(0.90, 0.95) if child else draw.between(0.97, 1.03),
            head=draw.between(1.18, 1.35) if child else draw.between(0.98, 1.10),
        )


@dataclass(frozen=True)
class Body:
    """A posed body: 3-D joints and the orientation of its rigid parts, in the body's own axes.

    Attributes:
        joints: name → position; COCO's names without the face, and pelvis, chest, neck, head, `*_hand`, `*_heel`, `*_toe`.
        frames: part → rotation, for pelvis, chest and head.
    """

    build: Build
    joints: dict[str, Vector]
    frames: dict[str, Matrix]

    def on_head(self, x: float, y: float, z: float) -> Vector:
        """A point of the head, given in statures from the head's centre."""
        return add(self.joints["head"], turn(self.frames["head"], (x, y, z)), self.build.head)

    def on_chest(self, x: float, y: float, z: float) -> Vector:
        """A point of the chest, given in statures from the middle between the shoulders."""
        return add(self.joints["chest"], turn(self.frames["chest"], (x, y, z)))

    def on_pelvis(self, x: float, y: float, z: float) -> Vector:
        """A point of the pelvis, given in statures from the middle between the hips."""
        return add(self.joints["pelvis"], turn(self.frames["pelvis"], (x, y, z)))


def pose_body(build: Build, angles: Angles) -> Body:
    """Forward kinematics from the middle between the hips (the origin) outwards."""
    chest = chain(about_y(angles["spine_twist"]), about_z(angles["spine_side"]), about_x(angles["spine_flexion"]))
    # The spine bends over its length: its lower half follows half of the angle.
    lower = chain(about_z(angles["spine_side"] / 2), about_x(angles["spine_flexion"] / 2))
    joints: dict[str, Vector] = {"pelvis": (0.0, 0.0, 0.0)}
    joints["waist"] = turn(lower, (0.0, HIP_TO_SHOULDER * 0.36, 0.0))
    joints["chest"] = add(joints["waist"], turn(chest, (0.0, HIP_TO_SHOULDER * 0.64, 0.0)))
    joints["neck"] = add(joints["chest"], turn(chest, (0.0, SHOULDER_TO_NECK, 0.004)))
    head = chain(chest, about_y(angles["neck_twist"]), about_z(angles["neck_side"]), about_x(angles["neck_flexion"]))
    joints["head"] = add(joints["neck"], turn(head, (0.0, 0.082 * build.head, 0.006)))
    for side, sign in SIDES.items():
        _arm(build, angles, joints, chest, side, sign)
        _leg(build, angles, joints, side, sign)
    return Body(build, joints, {"pelvis": IDENTITY, "chest": chest, "head": head})


def _arm(build: Build, angles: Angles, joints: dict[str, Vector], chest: Matrix, side: str, sign: float) -> None:
    upper = chain(
        chest,
        about_z(sign * angles[f"{side}_shoulder_abduction"]),
        about_x(-angles[f"{side}_shoulder_flexion"]),
        about_y(-sign * angles[f"{side}_shoulder_rotation"]),
    )
    fore = chain(upper, about_x(-angles[f"{side}_elbow_flexion"]))
    joints[f"{side}_shoulder"] = add(joints["chest"], turn(chest, (sign * build.shoulder, -0.010, 0.0)))
    joints[f"{side}_elbow"] = add(joints[f"{side}_shoulder"], turn(upper, (0.0, -UPPER_ARM * build.limb, 0.0)))
    joints[f"{side}_wrist"] = add(joints[f"{side}_elbow"], turn(fore, (0.0, -FOREARM * build.limb, 0.0)))
    joints[f"{side}_hand"] = add(joints[f"{side}_wrist"], turn(fore, (0.0, -HAND * 0.62, 0.006)))


def _leg(build: Build, angles: Angles, joints: dict[str, Vector], side: str, sign: float) -> None:
    upper = chain(
        about_z(sign * angles[f"{side}_hip_abduction"]),
        about_x(-angles[f"{side}_hip_flexion"]),
        about_y(-sign * angles[f"{side}_hip_rotation"]),
    )
    lower = chain(upper, about_x(angles[f"{side}_knee_flexion"]))
    foot = chain(lower, about_x(-angles[f"{side}_ankle_flexion"]))
    joints[f"{side}_hip"] = (sign * build.hip, 0.0, 0.0)
    joints[f"{side}_knee"] = add(joints[f"{side}_hip"], turn(upper, (0.0, -THIGH * build.limb, 0.0)))
    joints[f"{side}_ankle"] = add(joints[f"{side}_knee"], turn(lower, (0.0, -SHIN * build.limb, 0.0)))
    joints[f"{side}_heel"] = add(joints[f"{side}_ankle"], turn(foot, (0.0, -ANKLE_HEIGHT * 0.45, -0.012)))
    joints[f"{side}_toe"] = add(joints[f"{side}_ankle"], turn(foot, (0.0, -ANKLE_HEIGHT * 0.55, FOOT * 0.62)))
