"""What a video is, whatever its name: found again where no person is in view, and so no pose to compare."""

from __future__ import annotations

import hashlib
from pathlib import Path

from harvest.address import Clip, cut


def content_key(path: str | Path, clip: Clip | None = None) -> str:
    """The sha256 of a file's bytes, 64 hexadecimal digits, and of what ``clip`` of it is taken, as in an address.

    Raises OSError for a file that cannot be read.
    """
    with open(path, "rb") as file:
        return cut(hashlib.file_digest(file, "sha256").hexdigest(), *clip or ())
