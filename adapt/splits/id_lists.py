"""Published lists of sample ids: plain text, one id a line."""

from __future__ import annotations

from pathlib import Path

from skelcore.brief import brief
from skelcore.errors import InputError


def read_ids(path: str | Path) -> list[str]:
    """The ids of a list in their order; empty lines count for nothing.

    Raises InputError, with file and line, for a list that is missing, is no UTF-8 text, has more than one word or
    an unprintable character on a line, or has an id twice; and for a list without ids.
    """
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot read the id list: {error.strerror}") from None
    found: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        name = _id(line, f"{path}:{number}")
        if name and found.setdefault(name, number) != number:
            raise InputError(f"{path}:{number}: {brief(name)} was on line {found[name]} already; remove one of them")
    if not found:
        raise InputError(f"{path}: the list has no id")
    return list(found)


def _id(line: bytes, where: str) -> str:
    try:
        name = line.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise InputError(f"{where}: not UTF-8 text; give a plain list with one id a line") from None
    if not name.isprintable() or len(name.split()) > 1:
        raise InputError(f"{where}: {brief(name)} is not one id; give a plain list with one id a line")
    return name
