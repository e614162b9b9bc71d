"""What a command asks of the machine before it begins."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from skelcore.errors import InputError


def writable(field: str, folder: Path) -> None:
    """Try a nameless file in the folder, or in the nearest one that is there; raises InputError where that fails."""
    nearest = folder
    try:
        while not nearest.exists():
            nearest = nearest.parent
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise InputError(f"{field}={folder}: cannot be written to ({error.strerror}); name another folder") from None


def device(name: str) -> torch.device:
    """The device of that name, of `auto` a GPU where there is one; raises InputError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device={name}: not available here ({str(error).splitlines()[0]}); use device=auto") from None
    return torch.device(name)
