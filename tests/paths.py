"""Where real data and numerical fixtures lie; tests skip with a reason where they are absent."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
DATA = Path(os.environ.get("SKELSHOT_DATA", SHARED / "data"))
PARITY = Path(os.environ.get("SKELSHOT_PARITY", SHARED / "parity"))


def need(path: Path) -> Path:
    """The path, or a skip that says what is missing."""
    if not path.exists():
        pytest.skip(f"{path.name} is absent (set SKELSHOT_DATA / SKELSHOT_PARITY to the folder that holds it)")
    return path
