"""Figures that others published, to stand beside ours: other encoders, inputs and seeds, and no intervals.

``mark`` is `published` where the figure was read in the paper or its code, `published, informal` where people report it
in the code's issues, and `unverified` where it was not traced to its paper. Names of benchmarks are those of
adapt/benchmarks.py.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """An accuracy in percent, what it was reached with, and who says so."""

    method: str
    setting: str
    accuracy: float
    mark: str
    source: str


_PUBLISHED, _UNVERIFIED, _INFORMAL = "published", "unverified", "published, informal"
_NTU120 = "Liu et al., NTU RGB+D 120, TPAMI 2019"
_MOTIONBERT = "Zhu et al., MotionBERT, ICCV 2023"
_CROSSGLG = "Yan et al., CrossGLG, ECCV 2024"
_SKELHCC = "SkelHCC, ICML 2026"
_DASTM = "Ma et al., DASTM, ECCV 2022"

_FIGURES: dict[str, tuple[Published, ...]] = {
    "ntu120-one-shot": (
        Published("attention ST-LSTM", "3D", 41.0, _UNVERIFIED, _NTU120),
        Published("average pooling", "3D", 42.9, _UNVERIFIED, _NTU120),
        Published("APSR", "3D LSTM and text", 45.3, _PUBLISHED, _NTU120),
        Published("TCN_OneShot", "3D TCN", 46.5, _PUBLISHED, "Sabater et al., CVPR workshops 2021"),
        Published("SL-DML", "signal image, ResNet", 50.9, _PUBLISHED, "Memmesheimer et al., ICPR 2020"),
        Published("Skeleton-DML", "image representation", 54.2, _PUBLISHED, "Memmesheimer et al., WACV 2022"),
        Published("JEANIE", "3D", 57.0, _UNVERIFIED, "Wang & Koniusz, ACCV 2022"),
        Published("Trans4SOAR", "3D", 57.05, _UNVERIFIED, "Peng et al., TMM 2023"),
        Published("ALCA-GCN", "3D", 57.6, _UNVERIFIED, "Zhu et al., WACV 2023"),
        Published("MotionBERT, from scratch", "2D HRNet", 61.0, _UNVERIFIED, _MOTIONBERT),
        Published("MotionBERT, pretrained", "2D HRNet", 67.4, _UNVERIFIED, _MOTIONBERT),
        Published("CrossGLG", "3D and text, 20 auxiliary classes", 45.3, _PUBLISHED, _CROSSGLG),
        Published("CrossGLG", "3D and text, 60 auxiliary classes", 62.1, _PUBLISHED, _CROSSGLG),
        Published("CrossGLG", "3D and text, 100 auxiliary classes", 62.6, _PUBLISHED, _CROSSGLG),
        Published("multi-scale matching", "3D", 68.7, _PUBLISHED, "Yang et al., TPAMI 2024"),
        Published("SkelHCC", "frozen encoder and text, 20 auxiliary classes", 52.0, _PUBLISHED, _SKELHCC),
        Published("SkelHCC", "frozen encoder and text, 60 auxiliary classes", 67.4, _PUBLISHED, _SKELHCC),
        Published("SkelHCC", "frozen encoder and text, 100 auxiliary classes", 71.6, _PUBLISHED, _SKELHCC),
        Published("SkelHCC, Euclidean", "frozen encoder and text", 62.9, _PUBLISHED, _SKELHCC),
    ),
    "ntu120-episodes": (
        Published("DASTM, claimed", "NTU-T, 5-way 1-shot, classes of its own; about", 75.0, _PUBLISHED, _DASTM),
        Published("DASTM, claimed", "NTU-T, 5-way 5-shot, classes of its own; about", 83.0, _PUBLISHED, _DASTM),
        Published("DASTM, run by others", "NTU-T, 5-way 1-shot", 70.3, _INFORMAL, f"{_DASTM}; its repository, #5"),
        Published("DASTM, run by others", "NTU-T, 5-way 1-shot", 71.9, _INFORMAL, f"{_DASTM}; its repository, #5"),
        Published("DASTM, run by others", "NTU-T, 5-way 5-shot", 86.5, _INFORMAL, f"{_DASTM}; its repository, #7"),
    ),
}


def of(benchmark: str) -> list[Published]:
    """The figures for that very benchmark; none for others."""
    return list(_FIGURES.get(benchmark, ()))
