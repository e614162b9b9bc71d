"""What a joint is and of which limb, by its name."""

from __future__ import annotations

from skelcore.layouts import Layout

_KINDS = {"nose": ("nose", "mouth"), "eye": ("eye",), "ear": ("ear", "head"), "shoulder": ("shoulder", "neck", "upper"),
          "elbow": ("elbow",), "wrist": ("wrist", "hand", "thumb", "index", "middle", "ring", "pinky"),
          "hip": ("hip", "pelvis", "spine"), "knee": ("knee",), "ankle": ("ankle", "foot", "heel")}
KINDS = tuple(_KINDS)
REGIONS = {"nose": "head", "eye": "head", "ear": "head", "shoulder": "trunk", "hip": "trunk", "elbow": "arm",
           "wrist": "arm", "knee": "leg", "ankle": "leg"}
OUTER = ("arm", "leg")


def kind(joint: str) -> str:
    """The one of KINDS that stands for a joint, by the beginning of its name; empty for an unknown name."""
    name = joint.removeprefix(f"{side(joint)}_")
    return next((kind for kind, names in _KINDS.items() if name.startswith(names)), "")


def side(joint: str) -> str:
    """``left``, ``right`` or empty."""
    first = joint.partition("_")[0]
    return first if first in ("left", "right") else ""


def body_parts(layout: Layout) -> list[list[int]]:
    """The joints of head and shoulders, hips, and each arm and leg below them; those of unknown names are one more."""
    found: dict[str, list[int]] = {}
    for number, joint in enumerate(layout.joints):
        name, region = kind(joint), REGIONS.get(kind(joint), "")
        key = f"{side(joint)} {region}" if region in OUTER else "hips" if name == "hip" else "top" if name else ""
        found.setdefault(key, []).append(number)
    return list(found.values())
