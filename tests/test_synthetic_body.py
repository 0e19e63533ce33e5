"""Synthetic bodies: exact sines, joints inside their limits, both sides alike."""

from __future__ import annotations

import decimal
import math

import pytest

from components.datasets.synthetic import Draw
from components.datasets.synthetic.body import Build, pose_body
from components.datasets.synthetic.exact import about_x, about_y, about_z, chain, cosine, dot, sine, turn, unit
from components.datasets.synthetic.poses import LIMITS, PAIRED, POSES, draw_angles


def test_sine_table_does_not_depend_on_the_mathematical_library():
    """Every entry is the rounded true sine, and no true sine lies so near a rounding boundary that a library's error could matter."""
    decimal.getcontext().prec = 40
    pi = decimal.Decimal("3.14159265358979323846264338327950288419717")
    for tenths in range(901):
        x = pi * tenths / 1800
        term, total, n = x, x, 1
        while abs(term) > decimal.Decimal(10) ** -35:
            term *= -x * x / ((n + 1) * (n + 2))
            total, n = total + term, n + 2
        scaled = total * 10**9
        assert sine(tenths / 10) == float(round(scaled)) / 1e9
        assert abs(abs(scaled - round(scaled)) - decimal.Decimal("0.5")) > decimal.Decimal("1e-5")


@pytest.mark.parametrize("degrees", [-725.3, -90, 0, 12.34, 45, 179.9, 180, 270, 1000])
def test_sine_and_cosine(degrees):
    exact = math.radians(round(degrees, 1))
    assert sine(degrees) == pytest.approx(math.sin(exact), abs=1e-9)
    assert cosine(degrees) == pytest.approx(math.cos(exact), abs=1e-9)


@pytest.mark.parametrize("rotation", [about_x, about_y, about_z])
def test_rotations_keep_lengths_and_undo(rotation):
    back = turn(chain(rotation(-33.3), rotation(33.3)), (0.3, -0.5, 0.8))
    assert back == pytest.approx((0.3, -0.5, 0.8), abs=1e-8)


# --- the body


def bodies(count: int):
    for index in range(count):
        draw = Draw(9, index)
        build, angles = Build.draw(draw), draw_angles(draw)
        yield build, angles, pose_body(build, angles)


def bone(joints, a, b):
    return tuple(q - p for p, q in zip(joints[a], joints[b], strict=True))


def test_poses_name_known_joints_and_stay_inside_their_limits():
    for pose in POSES.values():
        for name, (low, high) in pose.items():
            joint = name.removeprefix("near_").removeprefix("far_")
            assert LIMITS[joint][0] <= low <= high <= LIMITS[joint][1]


def test_drawn_angles_respect_the_limits():
    for _, angles, _ in bodies(300):
        assert set(angles) == {f"{s}_{n}" for n in PAIRED for s in ("left", "right")} | (set(LIMITS) - set(PAIRED))
        for name, degrees in angles.items():
            low, high = LIMITS[name.removeprefix("left_").removeprefix("right_")]
            assert low <= degrees <= high


def test_elbows_and_knees_bend_as_far_and_in_the_direction_that_they_can():
    for _, _, body in bodies(300):
        for side in ("left", "right"):
            bone_of = lambda a, b: bone(body.joints, f"{side}_{a}", f"{side}_{b}")  # noqa: B023, E731
            elbow = math.degrees(math.acos(min(1, dot(unit(bone_of("shoulder", "elbow")), unit(bone_of("elbow", "wrist"))))))
            knee = math.degrees(math.acos(min(1, dot(unit(bone_of("hip", "knee")), unit(bone_of("knee", "ankle"))))))
            assert elbow <= LIMITS["elbow_flexion"][1] + 0.01
            assert knee <= LIMITS["knee_flexion"][1] + 0.01
            shin, toes = unit(bone_of("knee", "ankle")), bone_of("heel", "toe")
            forward = tuple(t - dot(toes, shin) * s for t, s in zip(toes, shin, strict=True))
            assert dot(bone_of("hip", "knee"), forward) > -1e-6, "a knee bends backwards only"


def test_both_sides_have_bones_of_one_length():
    for _, _, body in bodies(100):
        for a, b in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"), ("heel", "toe")):
            left, right = (bone(body.joints, f"{side}_{a}", f"{side}_{b}") for side in ("left", "right"))
            assert dot(left, left) == pytest.approx(dot(right, right), rel=1e-7)


def test_mirrored_angles_give_the_mirrored_body():
    for build, angles, body in bodies(50):
        mirrored = {_swapped(name): -value if name in ("spine_side", "spine_twist", "neck_side", "neck_twist") else value
                    for name, value in angles.items()}  # fmt: skip
        other = pose_body(build, mirrored)
        for name, (x, y, z) in body.joints.items():
            assert other.joints[_swapped(name)] == pytest.approx((-x, y, z), abs=1e-9)


def _swapped(name: str) -> str:
    side, _, rest = name.partition("_")
    return {"left": f"right_{rest}", "right": f"left_{rest}"}.get(side, name)
