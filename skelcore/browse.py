"""Pose shards as one page to look at and to sift: skelshot browse SHARDS [--output FILE.html]

The page opens from disk and asks nothing of any server. Every track is in it with its numbers; a sample, of each
verdict some, with its first seconds.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from pathlib import Path

from skelcore import command, gallery, page, shards
from skelcore.errors import InputError
from skelcore.files import write_text
from skelcore.gallery import Copy, Gallery
from skelcore.shard_store import ShardStore

COPIES = "duplicates.jsonl"
_WIDE = "<style>body { max-width: 1700px; margin: 1rem auto }</style>"


def write(uri: str, path: Path, most_tracks: int = gallery.MOST_TRACKS, most_poses: int = gallery.MOST_POSES
          ) -> Gallery:
    """Write the page of a shard, a folder or glob of them, or a harvest's output folder; what is on it.

    Of an output folder on this machine the rejected tracks and the groups of copies are shown too. Raises InputError
    where there is no shard or one is damaged, RunError when a server fails.
    """
    found = gallery.gather(stores(uri), copies(Path(uri) / COPIES), most_tracks, most_poses)
    name = Path(uri).name or uri
    write_text(path, page.document(f"Tracks of {name}", [
        _WIDE, f"<h1>Tracks of {page.escape(name)}</h1>", gallery.fragment(found)]))
    return found


def stores(uri: str) -> list[ShardStore]:
    """What ``shards.read`` reads of a set, and the rejected tracks beside them in a harvest's output folder."""
    parts = [Path(uri) / name for name in ("shards", "rejected")]
    # Apart, since a video whose tracks part ways is in both under one key.
    inside = [str(part) for part in parts if any(part.glob("*.manifest.json"))]
    if Path(uri).is_dir() and not any(Path(uri).glob("*.tar")) and inside:
        return [shards.read(part) for part in inside]
    return [shards.read(uri)]


def copies(path: Path) -> Iterator[Copy]:
    """The lines of ``duplicates.jsonl``, none where there is no such file; raises InputError for a damaged one."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                yield Copy(int(row["group"]) % 2**31, str(row["id"]), str(row["of"]), float(row["score"]))
            except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
                raise InputError(f"{path}, line {number}: not a duplicate; search for them again or delete the file"
                                 ) from None


def main(argv: Sequence[str] | None = None) -> int:
    parser = command.Parser(prog="skelshot browse", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("shards", metavar="SHARDS", help="a shard, a folder or glob of them, or a harvest's output")
    parser.add_argument("--output", type=Path, default=Path("browse.html"), help="the page (default: browse.html)")
    parser.add_argument("--tracks", type=_count, default=gallery.MOST_TRACKS,
                        help="most tracks on the page, evenly spread (default: %(default)s)")
    parser.add_argument("--poses", type=_count, default=gallery.MOST_POSES,
                        help="most tracks with their poses, some 3.5 kB each (default: %(default)s)")

    def execute(words: Namespace) -> None:
        found = write(words.shards, words.output, words.tracks, words.poses)
        print(f"{len(found.verdict):,} of {found.total:,} tracks, {len(found.posed):,} with poses, "
              f"{words.output.stat().st_size / 1e6:.1f} MB: open {words.output}")

    return parser.run(argv, execute)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


if __name__ == "__main__":
    sys.exit(main())
