"""Provenance: which code made a result."""

from __future__ import annotations

import functools
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_HERE = Path(__file__)


@functools.cache
def provenance() -> dict[str, str | None]:
    """The git revision (with -dirty if tracked files differ from it; None without git) and versions, as at first asked.

    All values are plain, as checkpoints want them.
    """
    return {"revision": revision(_HERE), "python": platform.python_version(),
            **{name: _version(name) for name in ("skelshot", "torch", "numpy")}}


def revision(file: Path) -> str | None:
    """The git revision of the checkout that ``file`` belongs to; None if it is tracked in none."""
    # An installed copy may lie inside somebody else's checkout, whose revision says nothing about it.
    if _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return None
    head, changes = _git(file.parent, "rev-parse", "HEAD"), _git(file.parent, "status", "--porcelain", "-uno")
    return None if head is None else head + ("-dirty" if changes else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
