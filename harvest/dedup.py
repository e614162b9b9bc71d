"""Near-duplicates: skelshot dedup SHARDS_OR_OUTPUT [...] [--threshold X] [--output FILE] [--drop]

Finds tracks that show the same motion, in one set of shards or across several (outputs of harvests, folders, globs,
URLs): re-encoded, mirrored, cropped, trimmed or replayed at another speed. The copies are listed, one JSON line
{group, id, of, score} each; the first of a group is the original as far as anyone can tell. With --drop, the copies in
one finished output move to its rejected tracks, and those that are copies no more come back.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harvest import accounts, copies, duplicates, plan, pool, regate, weeding, workspace
from harvest.copies import FILE
from harvest.ledger import Ledger
from harvest.pool import Pool
from harvest.workspace import Workspace
from skelcore import shards
from skelcore.command import Parser
from skelcore.errors import InputError
from skelcore.gallery import Copy


def search(named: Sequence[str], threshold: float, output: Path | None, dropping: bool) -> str:
    """Find the copies in sets of shards, list or drop them, and say in one line what there is."""
    if not 0 < threshold < 1:
        raise InputError(f"--threshold {threshold:g}: must lie between 0 and 1; copies score near 1")
    names = [name.rstrip("/") for name in named]
    again = [name for number, name in enumerate(names) if name in names[:number]]
    if again:
        raise InputError(f"{again[0]}: named twice; name each set once")
    if dropping and (len(names) > 1 or output or not _is_output(names[0])):
        raise InputError("--drop: takes one OUTPUT of a harvest, where its list stays, and no --output")
    if len(names) == 1 and _is_output(names[0]) and not output:
        return _in_output(names[0], threshold, dropping)
    if not output:
        raise InputError("--output FILE: needed, since only one OUTPUT of a harvest has a place for the list")
    pools = {name: _pool(name) for name in names}
    searched = pool.join(pools) if len(pools) > 1 else pools[names[0]]
    found = duplicates.find(searched, threshold)
    try:
        copies.write(output, found)
    except OSError as error:
        raise InputError(f"--output {output}: cannot be written: {error.strerror}") from None
    return f"{_told(found)} among {len(searched)} tracks; listed in {output}"


def _in_output(output: str, threshold: float, dropping: bool) -> str:
    with Workspace(workspace.settled(output)) as space:
        planned = plan.read(space.plan)
        with Ledger(space.ledger, planned) as ledger:
            if dropping:
                # Before any search, which may take a while.
                regate.closed(output, planned, ledger)
            found = weeding.mark(space, planned, ledger, threshold)
            if dropping:
                weeding.reject(space, planned, ledger, found)
            weeding.note(space, planned, ledger, "drop" if dropping else "mark", threshold)
            accounts.settle(space, planned, ledger)
    return f"{_told(found)}{', rejected' if dropping else ''}; listed in {output}/{FILE}"


def _told(found: Sequence[Copy]) -> str:
    return f"{len(found)} copies of {len({copy.group for copy in found})} tracks"


def _is_output(name: str) -> bool:
    return (Path(name) / "settings.json").is_file() or ("://" in name and _settles(name))


def _settles(url: str) -> bool:
    try:
        workspace.settled(url)
    except InputError:
        return False
    return True


def _pool(name: str) -> Pool:
    return pool.of_harvest(name) if (Path(name) / "settings.json").is_file() else pool.of_store(shards.read(name))


def main(argv: Sequence[str] | None = None) -> int:
    """See the module; exit statuses as for every command."""
    parser = Parser(prog="skelshot dedup", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", metavar="SHARDS_OR_OUTPUT", nargs="+",
                        help="folder, glob or URL of shards, or the output of a harvest")
    parser.add_argument("--threshold", type=float, default=duplicates.THRESHOLD,
                        help="score from which a track is a copy (default: %(default)s)")
    parser.add_argument("--output", type=Path, help=f"file to write (default: {FILE} in the OUTPUT)")
    parser.add_argument("--drop", action="store_true", help="reject the copies of one finished OUTPUT")
    return parser.run(argv, lambda words: print(search(words.shards, words.threshold, words.output, words.drop)))


if __name__ == "__main__":
    sys.exit(main())
