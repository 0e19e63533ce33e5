"""Joint angles: limits of each joint, and common poses."""

from __future__ import annotations

from components.datasets.synthetic.exact import Draw

Range = tuple[float, float]
Angles = dict[str, float]

# Degrees; inside the normal ranges of motion of the American Academy of Orthopaedic Surgeons (1965).
LIMITS: dict[str, Range] = {
    "shoulder_flexion": (-50, 175),
    "shoulder_abduction": (-15, 165),
    "shoulder_rotation": (-60, 80),
    "elbow_flexion": (0, 145),
    "hip_flexion": (-25, 115),
    "hip_abduction": (-15, 45),
    "hip_rotation": (-30, 35),
    "knee_flexion": (0, 135),
    "ankle_flexion": (-40, 20),
    "spine_flexion": (-20, 70),
    "spine_side": (-25, 25),
    "spine_twist": (-35, 35),
    "neck_flexion": (-35, 40),
    "neck_side": (-25, 25),
    "neck_twist": (-65, 65),
}
PAIRED = tuple(name for name in LIMITS if name.split("_")[0] in ("shoulder", "elbow", "hip", "knee", "ankle"))

_REST: dict[str, Range] = {
    "shoulder_flexion": (-10, 14),
    "shoulder_abduction": (5, 16),
    "shoulder_rotation": (-10, 45),
    "elbow_flexion": (4, 32),
    "hip_flexion": (-3, 8),
    "hip_abduction": (1, 9),
    "hip_rotation": (-22, 0),
    "knee_flexion": (0, 8),
    "ankle_flexion": (-2, 2),
    "spine_flexion": (-3, 7),
    "spine_side": (-4, 4),
    "spine_twist": (-9, 9),
    "neck_flexion": (-12, 20),
    "neck_side": (-8, 8),
    "neck_twist": (-45, 45),
}

# Each pose lists the differences from rest. "near" and "far" are the two sides of the body; which one is left is random.
POSES: dict[str, dict[str, Range]] = {
    "stand": {},
    "shift": {"near_hip_abduction": (4, 14), "near_knee_flexion": (8, 35), "near_hip_flexion": (5, 25), "spine_side": (-9, 9)},
    "walk": {
        "near_hip_flexion": (14, 32), "near_knee_flexion": (2, 18), "far_hip_flexion": (-20, -8), "far_knee_flexion": (10, 42),
        "near_shoulder_flexion": (-32, -8), "far_shoulder_flexion": (10, 35), "elbow_flexion": (10, 45), "spine_flexion": (2, 9),
    },
    "run": {
        "near_hip_flexion": (40, 80), "near_knee_flexion": (50, 105), "far_hip_flexion": (-22, 2), "far_knee_flexion": (15, 95),
        "near_shoulder_flexion": (-45, -20), "far_shoulder_flexion": (25, 60), "elbow_flexion": (65, 110), "spine_flexion": (8, 22),
    },
    "wave": {"near_shoulder_abduction": (95, 155), "near_elbow_flexion": (15, 80), "near_shoulder_rotation": (-60, -20)},
    "cheer": {"shoulder_abduction": (110, 160), "elbow_flexion": (5, 60), "shoulder_rotation": (-60, 0), "hip_abduction": (5, 20)},
    "star": {"shoulder_abduction": (60, 110), "hip_abduction": (15, 32), "elbow_flexion": (0, 25)},
    "point": {"near_shoulder_flexion": (70, 115), "near_elbow_flexion": (0, 30), "near_shoulder_abduction": (0, 25)},
    "akimbo": {"shoulder_abduction": (38, 52), "shoulder_rotation": (60, 80), "elbow_flexion": (85, 105), "hip_abduction": (4, 14)},
    "fold": {"shoulder_flexion": (25, 40), "shoulder_rotation": (55, 75), "elbow_flexion": (85, 105)},
    "phone": {"near_shoulder_flexion": (25, 55), "near_shoulder_rotation": (15, 55), "near_elbow_flexion": (115, 142)},
    "carry": {"shoulder_flexion": (10, 40), "shoulder_rotation": (10, 35), "elbow_flexion": (60, 95), "spine_flexion": (-6, 4)},
    "bend": {
        "spine_flexion": (35, 65), "hip_flexion": (15, 35), "knee_flexion": (5, 40), "shoulder_flexion": (40, 90),
        "elbow_flexion": (0, 45), "neck_flexion": (-25, 15),
    },
    "crouch": {
        "hip_flexion": (75, 108), "knee_flexion": (85, 130), "spine_flexion": (10, 40), "shoulder_flexion": (25, 80),
        "elbow_flexion": (20, 85), "hip_abduction": (5, 30), "ankle_flexion": (0, 18), "neck_flexion": (-25, 10),
    },
    "lunge": {
        "near_hip_flexion": (55, 85), "near_knee_flexion": (50, 90), "far_hip_flexion": (-24, -8), "far_knee_flexion": (5, 40),
        "shoulder_abduction": (10, 60), "elbow_flexion": (10, 90), "spine_flexion": (0, 20),
    },
    "kick": {
        "near_hip_flexion": (35, 90), "near_knee_flexion": (0, 40), "far_hip_flexion": (-5, 8), "far_knee_flexion": (3, 20),
        "shoulder_abduction": (20, 75), "spine_flexion": (-12, 6), "elbow_flexion": (10, 60),
    },
    "throw": {
        "near_shoulder_abduction": (70, 110), "near_shoulder_rotation": (-60, -30), "near_elbow_flexion": (60, 110),
        "far_shoulder_flexion": (40, 90), "far_hip_flexion": (15, 40), "far_knee_flexion": (5, 35), "spine_twist": (-30, 30),
    },
}  # fmt: skip
_OFTEN = {"stand": 5, "shift": 4, "walk": 6, "run": 4, "akimbo": 2, "point": 2, "bend": 2, "crouch": 2}


def draw_angles(draw: Draw) -> Angles:
    """Degrees of every joint: `left_` and `right_` for paired joints, plain names for spine and neck. All inside `LIMITS`."""
    pose = POSES[draw.weighted({name: _OFTEN.get(name, 1) for name in POSES})]
    sides = ("left", "right") if draw.chance(0.5) else ("right", "left")
    angles: Angles = {}
    for name in LIMITS:
        if name in PAIRED:
            for side, role in zip(sides, ("near", "far"), strict=True):
                span = pose.get(f"{role}_{name}", pose.get(name, _REST[name]))
                angles[f"{side}_{name}"] = _clamp(name, draw.between(*span))
        else:
            angles[name] = _clamp(name, draw.between(*pose.get(name, _REST[name])))
    return angles


def _clamp(name: str, degrees: float) -> float:
    low, high = LIMITS[name]
    return min(max(round(degrees, 1), low), high)
