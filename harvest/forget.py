"""Remove sources from a harvest for good: skelshot forget OUTPUT ID_OR_URL [ID_OR_URL ...]

Their tracks leave the shards, the rejected tracks and the attribution, and no later run into OUTPUT takes them again. A
URL stands for the video and all clips of it.
"""

from __future__ import annotations

import os
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from harvest import accounts, plan, workspace
from harvest.address import canonical, cut, is_url, split
from harvest.ledger import Ledger
from harvest.plan import Plan
from harvest.workspace import Workspace
from skelcore import command
from skelcore.errors import InputError


def forget(output: str | Path, names: Sequence[str]) -> list[str]:
    """Remove the sources of these ids, URLs or paths from an output folder; gives their ids.

    A kill in between leaves nothing half-done: the ledger says first what must go, and the same command, or the next
    harvest, completes it. Raises InputError for a name of which there is no source, and then removes nothing.
    """
    with Workspace(workspace.settled(output)) as space:
        planned = plan.read(space.plan)
        with Ledger(space.ledger, planned) as ledger:
            chosen = sorted(set(_chosen(planned, names, output)))
            ledger.forget(chosen)
            sources = [planned[index] for index in chosen]
            for shard in sorted({source.shard for source in sources} - ledger.closed):
                ids = [planned[index].id for index in planned.members(shard) if ledger.gave_tracks(index)]
                if all(map(ledger.is_settled, planned.members(shard))) and not space.lost(shard, ids):
                    space.close(shard, planned, ledger)
                else:
                    space.purge(shard, [source.id for source in sources if source.shard == shard], planned, ledger)
            accounts.settle(space, planned, ledger)
    return [source.id for source in sources]


def _chosen(planned: Plan, names: Iterable[str], output: str | Path) -> Iterator[int]:
    """The indices of what is named; a plan is only read through where an address is named."""
    addresses: dict[str, str] = {}
    for name in names:
        index = planned.find(name)
        if index is None:
            addresses[_address(name)] = name
        else:
            yield index
    found = set()
    if addresses:
        for index, source in enumerate(planned):
            for address in {source.address, source.location}.intersection(addresses):
                found.add(address)
                yield index
    for address in addresses.keys() - found:
        raise InputError(f"{addresses[address]}: no source of this id, URL or path is in the plan of {output}; "
                         "to keep it from being harvested at all, list it in law.opt_out")


def _address(name: str) -> str:
    if not is_url(name):
        return os.path.abspath(os.path.expanduser(name))
    location, clip = split(name)
    return cut(canonical(location), *clip or ())


def main(argv: Sequence[str] | None = None) -> int:
    parser = command.Parser(prog="skelshot forget", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("output", metavar="OUTPUT", help="folder of a harvest")
    parser.add_argument("names", metavar="ID_OR_URL", nargs="+", help="what to remove: an id, a URL or a path")
    return parser.run(argv, lambda words: print(f"forgotten: {' '.join(forget(words.output, words.names))}"))


if __name__ == "__main__":
    sys.exit(main())
