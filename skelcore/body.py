"""The body of the mannequin: proportions, looks, and from a pose to points in space and round parts.

Axes of a body: x to its left, y up, z forward; metres; the origin is on the floor between the feet.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skelcore.layouts import get
from skelcore.motions import Pose

_JOINTS = get("coco17").joints
_SIDES = (("left", 1.0), ("right", -1.0))

# Points that move with the head, in head heights from its centre (left side; the right one mirrors x).
_HEAD = {
    "nose": (0, -0.06, 0.42), "eye": (0.135, 0.05, 0.335), "ear": (0.305, -0.01, 0.0),
    "crown": (0, 0.13, -0.05), "jaw": (0, -0.2, 0.055), "chin": (0, -0.33, 0.15), "bridge": (0, 0.03, 0.35),
    "pupil": (0.135, 0.045, 0.385), "brow_in": (0.07, 0.145, 0.35), "brow_out": (0.2, 0.135, 0.31),
    "mouth": (0.09, -0.215, 0.325), "hair": (0, 0.2, -0.09), "hair_side": (0.2, 0.1, -0.12),
    "nape": (0, -0.18, -0.2), "lock": (0.2, -0.55, -0.2), "bun": (0, 0.3, -0.4), "fringe": (0.15, 0.27, 0.17),
    "neck_top": (0, -0.36, -0.02),
}
# Points that move with the torso, in torso lengths from the pelvis; x in shoulder half-widths.
_TORSO = {
    "pit": (0.53, 0.83, 0.0), "waist": (0.38, 0.36, 0.02), "flank": (0.40, 0.15, 0.0), "chest": (0, 0.80, 0.03),
    "belly": (0, 0.30, 0.05), "seat": (0.42, 0.02, 0.0), "neck": (0, 0.99, -0.02), "collar": (0.45, 0.96, -0.01),
}
_PAIRED = {"eye", "ear", "pupil", "brow_in", "brow_out", "mouth", "hair_side", "lock", "fringe", "pit", "waist",
           "flank", "collar", "seat"}


def _names() -> tuple[str, ...]:
    extra = [f"{side}_{name}" if name in _PAIRED else name
             for table in (_HEAD, _TORSO) for name in table for side in ("left", "right")]
    extra += [f"{side}_{name}" for name in ("hand", "toe", "heel", "sleeve", "hem") for side in ("left", "right")]
    return (*_JOINTS, *(name for name in dict.fromkeys(extra) if name not in _JOINTS), "pelvis")


POINTS = {name: i for i, name in enumerate(_names())}

# How deep each joint lies in its own flesh as a share of body height: surfaces nearer by more than that hide it.
_DEEP = np.array([0.018] * 5 + [0.065] * 2 + [0.04] * 4 + [0.09] * 2 + [0.06] * 2 + [0.045] * 2)


@dataclass(frozen=True)
class Parts:
    """P tapered capsules: ``ends`` (P, 2) point indices, ``radii`` (P, 2) metres, ``colours`` (P, 3) RGB 0-255.

    ``cloth`` (P,) is the strength of the pattern and folds on each, in [0, 1].
    """

    ends: np.ndarray
    radii: np.ndarray
    colours: np.ndarray
    cloth: np.ndarray


@dataclass(frozen=True)
class Body:
    """One person: lengths in metres, thickness, posture and looks."""

    height: float
    torso: float
    shoulder: float
    hip: float
    upper_arm: float
    forearm: float
    thigh: float
    shin: float
    head: float
    girth: float
    stance: float
    lean: float
    hair: str
    long_sleeves: bool
    long_trousers: bool
    pattern: float
    colours: dict[str, np.ndarray]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Body:
        """A random person."""
        height = rng.normal(1.70, 0.09)
        share = lambda mean: height * mean * rng.normal(1, 0.035)  # noqa: E731
        skin = _SKINS[0] + (_SKINS[1] - _SKINS[0]) * rng.uniform() + rng.normal(0, 5, 3)
        hair_colour = _HAIRS[rng.integers(len(_HAIRS))] + rng.normal(0, 6, 3)
        top, trousers, shoes = (_cloth(rng) for _ in range(3))
        if np.abs(top - skin).sum() < 90:
            top = 255 - top
        colours = {"skin": skin, "hair": hair_colour, "top": top, "trousers": trousers * 0.75, "shoes": shoes * 0.6,
                   "lips": skin * [0.75, 0.5, 0.5], "white": np.full(3, 215.0), "pupil": np.array([30.0, 22, 18]),
                   "brow": hair_colour * 0.7}
        return cls(
            height=height, torso=share(0.295), shoulder=share(0.113), hip=share(0.056), upper_arm=share(0.166),
            forearm=share(0.146), thigh=share(0.242), shin=share(0.236), head=share(0.134),
            girth=rng.uniform(0.88, 1.2), stance=rng.uniform(0.02, 0.12), lean=rng.uniform(-0.02, 0.1),
            hair=str(rng.choice(["bald", "short", "short", "long", "long", "bun"])),
            long_sleeves=bool(rng.integers(2)), long_trousers=bool(rng.uniform() < 0.6),
            pattern=0.12 + 0.5 * rng.uniform() ** 3,
            colours={name: np.clip(colour, 5, 250) for name, colour in colours.items()},
        )

    def points(self, pose: Pose) -> np.ndarray:
        """Every point of the body (T, P, 3) in metres, in the order of `POINTS`."""
        frames = len(pose.turn)
        out = np.zeros((frames, len(POINTS), 3))
        facing = rotation(1, pose.turn)
        pitch, side, twist = pose.spine.T
        torso = facing @ rotation(1, twist) @ rotation(0, pitch) @ rotation(2, -side)
        leg = self.thigh + self.shin
        sole = 0.045 * self.height
        pelvis = _turned(facing, pose.root * leg + [0, leg + sole, 0])
        out[:, POINTS["pelvis"]] = pelvis
        for name, offset in _TORSO.items():
            self._place(out, pelvis, torso, name, np.array(offset) * [self.shoulder, self.torso, self.torso])
        nod = pose.head[:, 0] - 0.5 * pitch.clip(max=0.5)
        head = torso @ rotation(1, pose.head[:, 1]) @ rotation(0, nod)
        centre = out[:, POINTS["neck"]] + _turned(head, np.array([0.0, 0.62, 0.06]) * self.head)
        for name, offset in _HEAD.items():
            self._place(out, centre, head, name, np.array(offset) * self.head)
        for i, (side_name, sign) in enumerate(_SIDES):
            outward = np.array([sign, 1.0, 1.0])
            self._arm(out, side_name, pelvis, torso, pose.hands[:, i] * outward, pose.elbows[:, i] * outward, sign)
            foot = (pose.feet[:, i] * leg + [self.hip, sole, 0]) * outward
            self._leg(out, side_name, pelvis, facing, foot, pose.knees[:, i] * outward, sign)
        return out

    def _place(self, out: np.ndarray, origin: np.ndarray, frame: np.ndarray, name: str, offset: np.ndarray) -> None:
        if name not in _PAIRED:
            out[:, POINTS[name]] = origin + _turned(frame, offset)
            return
        for side, sign in _SIDES:
            out[:, POINTS[f"{side}_{name}"]] = origin + _turned(frame, offset * [sign, 1, 1])

    def _arm(self, out: np.ndarray, side: str, pelvis: np.ndarray, torso: np.ndarray, target: np.ndarray,
             pole: np.ndarray, sign: float) -> None:
        shoulder = pelvis + _turned(torso, np.array([sign * self.shoulder, 0.95 * self.torso, 0]))
        goal = shoulder + _turned(torso, target * (self.upper_arm + self.forearm))
        elbow, wrist = two_bones(shoulder, goal, _turned(torso, pole), self.upper_arm, self.forearm)
        for name, value in (("shoulder", shoulder), ("elbow", elbow), ("wrist", wrist),
                            ("hand", wrist + (wrist - elbow) * (0.062 * self.height / self.forearm)),
                            ("sleeve", shoulder + 0.62 * (elbow - shoulder))):
            out[:, POINTS[f"{side}_{name}"]] = value

    def _leg(self, out: np.ndarray, side: str, pelvis: np.ndarray, facing: np.ndarray, foot: np.ndarray,
             pole: np.ndarray, sign: float) -> None:
        hip = pelvis + _turned(facing, np.array([sign * self.hip, 0, 0]))
        forward = _turned(facing, pole)
        knee, ankle = two_bones(hip, _turned(facing, foot), forward, self.thigh, self.shin)
        shin = (ankle - knee) / self.shin
        toes = _unit(forward - (forward * shin).sum(-1, keepdims=True) * shin)
        for name, value in (("hip", hip), ("knee", knee), ("ankle", ankle), ("hem", knee + 0.15 * (hip - knee)),
                            ("toe", ankle + 0.095 * self.height * toes + 0.026 * self.height * shin),
                            ("heel", ankle - 0.012 * self.height * toes + 0.024 * self.height * shin)):
            out[:, POINTS[f"{side}_{name}"]] = value

    def flesh(self) -> np.ndarray:
        """How far (17,) in metres the body's own surface may lie before each COCO joint without hiding it."""
        return _DEEP * self.height * self.girth

    def parts(self) -> Parts:
        """The capsules that make the visible body."""
        rows: list[tuple[str, str, float, float, str]] = [
            ("neck", "neck_top", 0.034, 0.031, "skin"), ("chest", "belly", 0.068, 0.062, "top"),
            ("left_seat", "right_seat", 0.070, 0.070, "trousers"), ("left_collar", "right_collar", 0.036, 0.036, "top"),
        ]
        cuff = 0.037 if self.long_trousers else 0.042
        arm, leg = ("top" if self.long_sleeves else "skin"), ("trousers" if self.long_trousers else "skin")
        for s in ("left", "right"):
            rows += [
                (f"{s}_pit", f"{s}_waist", 0.065, 0.059, "top"), (f"{s}_waist", f"{s}_flank", 0.059, 0.063, "top"),
                (f"{s}_collar", f"{s}_shoulder", 0.034, 0.035, "top"),
                (f"{s}_shoulder", f"{s}_sleeve", 0.036, 0.034, "top"),
                (f"{s}_shoulder", f"{s}_elbow", 0.031, 0.024, arm),
                (f"{s}_elbow", f"{s}_wrist", 0.025, 0.018, arm), (f"{s}_wrist", f"{s}_hand", 0.020, 0.019, "skin"),
                (f"{s}_hip", f"{s}_knee", 0.052, 0.034, leg), (f"{s}_hip", f"{s}_hem", 0.055, cuff, "trousers"),
                (f"{s}_knee", f"{s}_ankle", 0.034, 0.024, leg), (f"{s}_ankle", f"{s}_toe", 0.025, 0.018, "shoes"),
                (f"{s}_heel", f"{s}_toe", 0.023, 0.018, "shoes"),
            ]
        scale = np.array([[a * self.girth, b * self.girth] for _, _, a, b, _ in rows]) * self.height
        head = self._head_rows()
        rows += head
        scale = np.concatenate([scale, np.array([[a, b] for _, _, a, b, _ in head]) * self.head])
        paint = [row[4] for row in rows]
        cloth = np.array([{"top": self.pattern, "trousers": 0.12, "hair": 0.2}.get(name, 0.04) for name in paint])
        return Parts(np.array([[POINTS[a], POINTS[b]] for a, b, *_ in rows]), scale,
                     np.array([self.colours[name] for name in paint]), cloth)

    def _head_rows(self) -> list[tuple[str, str, float, float, str]]:
        rows = [("crown", "jaw", 0.36, 0.255, "skin"), ("jaw", "chin", 0.24, 0.14, "skin"),
                ("bridge", "nose", 0.03, 0.055, "skin"), ("left_mouth", "right_mouth", 0.032, 0.032, "lips")]
        for s in ("left", "right"):
            rows += [(f"{s}_eye", f"{s}_eye", 0.062, 0.062, "white"),
                     (f"{s}_pupil", f"{s}_pupil", 0.035, 0.035, "pupil"),
                     (f"{s}_brow_in", f"{s}_brow_out", 0.022, 0.018, "brow"),
                     (f"{s}_ear", f"{s}_ear", 0.085, 0.085, "skin")]
        if self.hair != "bald":
            rows += [("hair", "nape", 0.37, 0.27, "hair"), ("left_fringe", "right_fringe", 0.16, 0.16, "hair")]
            rows += [(f"{s}_hair_side", f"{s}_hair_side", 0.24, 0.24, "hair") for s in ("left", "right")]
        if self.hair == "long":
            rows += [(f"{s}_hair_side", f"{s}_lock", 0.2, 0.12, "hair") for s in ("left", "right")]
        if self.hair == "bun":
            rows.append(("bun", "bun", 0.18, 0.18, "hair"))
        return rows


_SKINS = np.array([[236.0, 196, 170], [112.0, 74, 52]])
_HAIRS = np.array([[32.0, 26, 24], [70, 46, 30], [112, 78, 46], [186, 150, 92], [130, 126, 122], [120, 52, 30]])


def _cloth(rng: np.random.Generator) -> np.ndarray:
    value, saturation = rng.uniform(60, 235), rng.uniform(0.1, 0.75)
    return value * (1 - saturation * rng.permutation([0.0, rng.uniform(), 1.0]))


def rotation(axis: int, angles: np.ndarray) -> np.ndarray:
    """Right-handed rotations (T, 3, 3) about one axis."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    out = np.zeros((len(angles), 3, 3))
    out[:, axis, axis] = 1
    out[:, i, i] = out[:, j, j] = np.cos(angles)
    out[:, j, i] = np.sin(angles)
    out[:, i, j] = -out[:, j, i]
    return out


def two_bones(start: np.ndarray, goal: np.ndarray, pole: np.ndarray, first: float | np.ndarray,
              second: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middle and end (..., 3) of a two-bone limb that reaches from ``start`` for ``goal`` and bends towards ``pole``.

    Lengths, numbers or (..., 1), are kept: a goal out of reach is approached as far as the limb goes (law of cosines).
    """
    way = goal - start
    distance = np.linalg.norm(way, axis=-1, keepdims=True)
    along = way / np.maximum(distance, 1e-9)
    reach = np.clip(distance, abs(first - second) + 1e-3, 0.998 * (first + second))
    bend = _unit(pole - (pole * along).sum(-1, keepdims=True) * along)
    cosine = (first**2 + reach**2 - second**2) / (2 * first * reach)
    middle = start + first * (cosine * along + np.sqrt(np.maximum(1 - cosine**2, 0)) * bend)
    return middle, start + reach * along


def _turned(frame: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return (frame @ np.broadcast_to(vectors, (len(frame), 3))[..., None])[..., 0]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
