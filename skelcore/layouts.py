"""Skeleton layouts as data: joints, graph edges, bones, mirror pairs, centre joint, and maps between layouts.

Joint names come from one vocabulary, so that a map between two layouts needs no table of its own: a joint is
taken by name, or averaged from the joints that stand for it (``_STAND_INS``), or it is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np

from skelcore.errors import InputError


@dataclass(frozen=True)
class Layout:
    """A skeleton of V joints.

    ``edges`` are the (outer, inner) pairs of the graph encoders, ``bones`` the (joint, parent) pairs of the bone
    stream, ``limbs`` the pairs that limb heatmaps draw; they differ in the reference code for some layouts, so all
    are named. ``centre`` is the joint with which the body is centred and towards which edges point.
    """

    name: str
    joints: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    centre: int
    bones: tuple[tuple[int, int], ...] = ()
    limbs: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if not self.bones:
            object.__setattr__(self, "bones", self.edges)
        if not self.limbs:
            object.__setattr__(self, "limbs", self.bones)
        for outer, inner in (*self.edges, *self.bones, *self.limbs, (self.centre, self.centre)):
            if not (0 <= outer < len(self.joints) and 0 <= inner < len(self.joints)):
                raise InputError(f"layout {self.name}: pair ({outer}, {inner}) names a joint beyond its "
                                 f"{len(self.joints)}")
        if len(set(self.joints)) != len(self.joints):
            raise InputError(f"layout {self.name}: two joints have the same name")

    def __len__(self) -> int:
        return len(self.joints)

    @property
    def mirror(self) -> np.ndarray:
        """Joint permutation (V,) that swaps left and right."""
        index = {joint: i for i, joint in enumerate(self.joints)}
        return np.array([index.get(_other_side(joint), i) for i, joint in enumerate(self.joints)])

    def index(self, *joints: str) -> list[int]:
        """Positions of the named joints; raises InputError for a joint that the layout lacks."""
        lacking = [joint for joint in joints if joint not in self.joints]
        if lacking:
            raise InputError(f"layout {self.name} has no joint {lacking[0]!r}; it has: {', '.join(self.joints)}")
        return [self.joints.index(joint) for joint in joints]

    def matrix_to(self, target: Layout) -> np.ndarray:
        """Weights (V_target, V_self) whose rows average the joints that make up each joint of ``target``.

        A row of zeros marks a joint that this layout cannot give.
        """
        index = {joint: i for i, joint in enumerate(self.joints)}
        weights = np.zeros((len(target), len(self)), np.float32)
        for row, joint in enumerate(target.joints):
            for parts in ((joint,), *_STAND_INS.get(joint, ())):
                if all(part in index for part in parts):
                    weights[row, [index[part] for part in parts]] = 1 / len(parts)
                    break
        return weights


def _other_side(joint: str) -> str:
    if joint.startswith("left_"):
        return "right_" + joint[5:]
    if joint.startswith("right_"):
        return "left_" + joint[6:]
    return joint


# What may stand for a joint that a layout lacks, best first; several joints are averaged.
_STAND_INS: dict[str, tuple[tuple[str, ...], ...]] = {
    "head": (("left_ear", "right_ear"), ("nose",)),
    "nose": (("head",),),
    "neck": (("left_shoulder", "right_shoulder"),),
    "pelvis": (("left_hip", "right_hip"),),
    "spine": (("left_shoulder", "right_shoulder", "left_hip", "right_hip"), ("neck", "pelvis")),
    "upper_spine": (("neck",), ("left_shoulder", "right_shoulder")),
    "left_hand": (("left_index",), ("left_wrist",)),
    "right_hand": (("right_index",), ("right_wrist",)),
    "left_foot": (("left_foot_index",), ("left_ankle",)),
    "right_foot": (("right_foot_index",), ("right_ankle",)),
}


def _sides(*parts: str) -> tuple[str, ...]:
    """left_a right_a left_b right_b ... for layouts that alternate sides."""
    return tuple(f"{side}_{part}" for part in parts for side in ("left", "right"))


def _one_side(side: str, *parts: str) -> tuple[str, ...]:
    return tuple(f"{side}_{part}" for part in parts)


def _hand21() -> Layout:
    fingers = ("thumb", "index", "middle", "ring", "pinky")
    joints = ("wrist", *(f"{finger}_{i}" for finger in fingers for i in range(1, 5)))
    edges = tuple((i, 0 if i % 4 == 1 else i - 1) for i in range(1, 21))
    return Layout("hand21", joints, edges, 0)


_COCO = ("nose", *_sides("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle"))
_ARM, _LEG = ("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle")
_KINECT_V2 = ((0, 1), (1, 20), (2, 20), (3, 2), (4, 20), (5, 4), (6, 5), (7, 6), (8, 20), (9, 8), (10, 9), (11, 10),
              (12, 0), (13, 12), (14, 13), (15, 14), (16, 0), (17, 16), (18, 17), (19, 18))

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout(
            "coco17",
            _COCO,
            edges=((15, 13), (13, 11), (16, 14), (14, 12), (11, 5), (12, 6), (9, 7), (7, 5), (10, 8), (8, 6),
                   (5, 0), (6, 0), (1, 0), (3, 1), (2, 0), (4, 2)),
            bones=((1, 0), (2, 0), (3, 1), (4, 2), (5, 0), (6, 0), (7, 5), (8, 6), (9, 7), (10, 8), (11, 0), (12, 0),
                   (13, 11), (14, 12), (15, 13), (16, 14)),
            limbs=((0, 5), (0, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 11), (11, 13), (13, 15), (6, 12), (12, 14),
                   (14, 16), (0, 1), (0, 2), (1, 3), (2, 4), (11, 12)),
            centre=0,
        ),
        Layout(
            # Kinect v2. The graph joins hand tip and thumb to the hand (PYSKL); the bones are the original ones.
            "ntu25",
            ("pelvis", "spine", "neck", "head", *_one_side("left", *_ARM, "hand"), *_one_side("right", *_ARM, "hand"),
             *_one_side("left", *_LEG, "foot"), *_one_side("right", *_LEG, "foot"), "upper_spine",
             "left_hand_tip", "left_thumb", "right_hand_tip", "right_thumb"),
            edges=(*_KINECT_V2, (21, 7), (22, 7), (23, 11), (24, 11)),
            bones=(*_KINECT_V2, (21, 22), (22, 7), (23, 24), (24, 11)),
            centre=20,
        ),
        Layout(
            "openpose18",
            ("nose", "neck", *_one_side("right", *_ARM), *_one_side("left", *_ARM), *_one_side("right", *_LEG),
             *_one_side("left", *_LEG), "right_eye", "left_eye", "right_ear", "left_ear"),
            edges=((4, 3), (3, 2), (7, 6), (6, 5), (13, 12), (12, 11), (10, 9), (9, 8), (11, 5), (8, 2), (5, 1), (2, 1),
                   (0, 1), (15, 0), (14, 0), (17, 15), (16, 14)),
            bones=((1, 0), (2, 1), (3, 2), (4, 3), (5, 1), (6, 5), (7, 6), (8, 2), (9, 8), (10, 9), (11, 5), (12, 11),
                   (13, 12), (14, 0), (15, 0), (16, 14), (17, 15)),
            centre=1,
        ),
        Layout(
            # Kinect v1.
            "kinect20",
            ("head", "neck", "spine", "pelvis", *_one_side("left", *_ARM, "hand"), *_one_side("right", *_ARM, "hand"),
             *_one_side("left", *_LEG, "foot"), *_one_side("right", *_LEG, "foot")),
            edges=((0, 1), (1, 2), (3, 2), (4, 1), (5, 4), (6, 5), (7, 6), (8, 1), (9, 8), (10, 9), (11, 10), (12, 3),
                   (13, 12), (14, 13), (15, 14), (16, 3), (17, 16), (18, 17), (19, 18)),
            centre=2,
        ),
        Layout(
            "penn13",
            ("head", *_sides("shoulder", "elbow", "wrist", "hip", "knee", "ankle")),
            edges=((1, 0), (2, 0), (3, 1), (4, 2), (5, 3), (6, 4), (7, 1), (8, 2), (9, 7), (10, 8), (11, 9), (12, 10)),
            centre=0,
        ),
        Layout(
            "jhmdb15",
            ("neck", "spine", "head", "right_shoulder", "left_shoulder", "right_hip", "left_hip", "right_elbow",
             "left_elbow", "right_knee", "left_knee", "right_wrist", "left_wrist", "right_ankle", "left_ankle"),
            edges=((1, 0), (2, 0), (3, 0), (4, 0), (5, 1), (6, 1), (7, 3), (8, 4), (9, 5), (10, 6), (11, 7), (12, 8),
                   (13, 9), (14, 10)),
            centre=0,
        ),
        Layout(
            "mediapipe33",
            ("nose", "left_eye_inner", "left_eye", "left_eye_outer", "right_eye_inner", "right_eye", "right_eye_outer",
             "left_ear", "right_ear", "left_mouth", "right_mouth",
             *_sides("shoulder", "elbow", "wrist", "pinky", "index", "thumb", "hip", "knee", "ankle", "heel",
                     "foot_index")),
            edges=((1, 0), (2, 1), (3, 2), (7, 3), (4, 0), (5, 4), (6, 5), (8, 6), (9, 0), (10, 0), (11, 0), (12, 0),
                   (13, 11), (14, 12), (15, 13), (16, 14), (17, 15), (19, 15), (21, 15), (18, 16), (20, 16), (22, 16),
                   (23, 11), (24, 12), (25, 23), (26, 24), (27, 25), (28, 26), (29, 27), (30, 28), (31, 27), (32, 28)),
            centre=0,
        ),
        _hand21(),
    )
}


def get(layout: str | Layout) -> Layout:
    """The layout of that name (a Layout passes through, so user-defined ones work everywhere)."""
    if isinstance(layout, Layout):
        return layout
    if layout not in LAYOUTS:
        near = get_close_matches(layout, LAYOUTS, 1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(LAYOUTS)}"
        raise InputError(f"unknown layout {layout!r}; {hint}")
    return LAYOUTS[layout]
