"""Values of unknown size in one line of text."""

from __future__ import annotations

import reprlib

_LONGEST = 80
_REPR = reprlib.Repr()
_REPR.maxlevel = 2
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = _LONGEST - 10


def brief(value: object) -> str:
    """``repr(value)`` in one line of at most 80 characters, whatever it is."""
    try:
        text = " ".join(_REPR.repr(value).split())
    except ValueError:  # Python writes no whole number of more than 4300 digits
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
