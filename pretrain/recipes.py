"""Recipes: an objective's file, then an encoder's, then a size's, each changing a little of what went before."""

from __future__ import annotations

from pathlib import Path

from pretrain.objectives import OBJECTIVES
from skelcore.encoders import ENCODERS

CONFIGS = Path(__file__).resolve().parents[1] / "configs/pretrain"


def names(kind: str) -> list[str]:
    """The recipes' parts of one kind: ``objective``, ``encoder`` or ``size``."""
    if kind == "objective":
        return [name for name in OBJECTIVES if (CONFIGS / f"{name}.yaml").exists()]
    return sorted(path.stem for path in (CONFIGS / kind).glob("*.yaml"))


def fits(objective: str, encoder: str) -> bool:
    """Whether the objective trains encoders of that kind."""
    return issubclass(ENCODERS[encoder], OBJECTIVES[objective].families)


def listing() -> str:
    """All recipes, and the command that starts one."""
    lines = ["objective       encoders"]
    for objective in names("objective"):
        fitting = [encoder for encoder in names("encoder") if fits(objective, encoder)]
        lines.append(f"  {objective:14}{' '.join(fitting)}")
        if len(fitting) < len(names("encoder")):
            lines.append(f"                (no other: {OBJECTIVES[objective].why})")
    folder = "configs/pretrain"
    return "\n".join([
        *lines, "", f"sizes           {' '.join(names('size'))}",
        "streams         joint bone joint_motion bone_motion (heatmaps: joint bone joint_bone)", "",
        "Any three of them make a recipe; later files change what earlier ones say, and key=value changes both:",
        f"  skelshot pretrain {folder}/OBJECTIVE.yaml {folder}/encoder/ENCODER.yaml {folder}/size/SIZE.yaml \\",
        "      stream=joint data=... output=..."])
