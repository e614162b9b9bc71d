"""Weights of another repository -> a checkpoint of SkelShot: skelshot import-weights FILE --to OUT [options]

Reads PYSKL and MMAction2 checkpoints of every network that both have, and those of the st-gcn, 2s-AGCN (aagcn) and
CTR-GCN repositories, without running anything in them. Encoder, layout, channels and width are found from the keys and
their shapes. Every key must have its place: one too many, one too few or one of another shape is an error. The
classifier is kept beside the encoder, under `head`.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

from skelcore import checkpoint, foreign, views
from skelcore.encoders import ENCODERS, Encoder
from skelcore.encoders.heatmaps import HeatmapEncoder
from skelcore.errors import InputError, RunError
from skelcore.layouts import LAYOUTS

FRAMES, HEATMAP_FRAMES, PERSONS = 100, 48, 2  # with which the reference trains
STREAMS = (*views.STREAMS, "joint_bone")


def convert(source: Path, target: Path, name: str | None = None, layout: str | None = None, frames: int | None = None,
            stream: str | None = None, persons: int | None = None, coordinates: int | None = None) -> str:
    """Write ``source``'s weights to ``target`` as a checkpoint that ``load_encoder`` reads; returns the report.

    What is None is found from the file. Raises InputError for a file that is of no known network, or fits none.
    """
    if source.resolve() == target.resolve():
        raise InputError(f"--to {target}: is the file to import; name another")
    weights = foreign.parse(checkpoint.load(source, foreign.STAND_INS), str(source))
    hints = weights.hints
    stream = _known("stream", _first(stream, hints.get("stream"), "joint"), STREAMS) or "joint"
    name = _known("encoder", _first(name, hints.get("name")), ENCODERS)
    layout = _known("layout", _first(layout, hints.get("layout")), LAYOUTS)
    encoder = foreign.encoder_for(weights, name, layout, stream)
    report = foreign.fill(encoder, weights)
    classifier = foreign.head(weights, encoder.dim)
    usual = HEATMAP_FRAMES if isinstance(encoder, HeatmapEncoder) else FRAMES
    frames = _count("frames", _first(frames, hints.get("frames"), usual))
    persons = _count("persons", _first(persons, hints.get("persons"), PERSONS))
    coordinates = _count("coordinates", _first(coordinates, hints.get("coordinates"), _dimensions(encoder)))
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    checkpoint.save_encoder(target, encoder, frames, stream, persons=persons, coordinates=coordinates,
                            imported={"file": source.name, "sha256": digest, "format": weights.form.name},
                            **({"head": classifier} if classifier else {}))
    spec = encoder.spec
    classes = f"{len(classifier['bias'])} classes, kept beside the encoder" if classifier else "none"
    return "\n".join([
        f"{weights.form.name} -> {spec['name']}: layout {spec['layout']}, {spec['in_channels']} channels, width "
        f"{spec['width']}, stream {stream} of {coordinates}D poses, {frames} frames, {persons} persons",
        f"  matched  {len(report.matched)} keys",
        f"  unused   {foreign.listed(report.unused)}",
        f"  missing  {foreign.listed(report.missing)}",
        f"  head     {classes}",
        f"-> {target}"])


def _first(*values: Any) -> Any:
    """What the user says before what the file says, and that before what is usual."""
    return next((value for value in values if value is not None), None)


def _dimensions(encoder: Encoder) -> int:
    """2 or 3: whether the poses that an imported encoder reads are flat; 3 channels are x, y, score or x, y, z."""
    if isinstance(encoder, HeatmapEncoder):
        return 2
    return 3 if encoder.layout.name == "ntu25" or encoder.in_channels > 3 else 2


def _known(field: str, value: Any, known: Collection[str]) -> str | None:
    if value is not None and (not isinstance(value, str) or value not in known):
        raise InputError(f"--{field} {value!r}: unknown; known: {', '.join(known)}")
    return value


def _count(field: str, value: Any) -> int:
    if not isinstance(value, int) or value < 1:
        raise InputError(f"--{field} {value!r}: must be a whole number above 0")
    return value


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are InputErrors."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def parser(command: str, doc: str | None, source: str) -> Parser:
    """The parser of `skelshot COMMAND SOURCE --to OUT`, described by the module's ``doc``."""
    about, details = (doc or "").split("\n", 1)
    made = Parser(f"skelshot {command}", description=about.split(":")[0], epilog=details)
    made.add_argument("source", type=Path, metavar=source, help="the file to read")
    made.add_argument("--to", type=Path, required=True, metavar="OUT", help="the file to write")
    return made


def run(made: Parser, argv: Sequence[str] | None, execute: Callable[[argparse.Namespace], str]) -> int:
    """Parse, execute and print what that returns; exit status 2 for bad input, 1 where the disk fails."""
    words = sys.argv[1:] if argv is None else list(argv)
    if {"-h", "--help"} & set(words):
        print(made.format_help(), end="")
        return 0
    try:
        print(execute(made.parse_args(words)))
        return 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1


def _execute(arguments: argparse.Namespace) -> str:
    return convert(arguments.source, arguments.to, arguments.encoder, arguments.layout, arguments.frames,
                   arguments.stream, arguments.persons, arguments.coordinates)


def main(argv: Sequence[str] | None = None) -> int:
    """Import one file; exit status 2 with one line for a file that is not what it should be."""
    made = parser("import-weights", __doc__, "FILE")
    made.add_argument("--encoder", help=f"instead of what the keys say: {', '.join(ENCODERS)}")
    made.add_argument("--layout", help="instead of the one with as many joints: " + ", ".join(LAYOUTS))
    made.add_argument("--frames", type=int, help=f"frames of a clip ({FRAMES}; heatmaps {HEATMAP_FRAMES})")
    made.add_argument("--stream", help=f"what the network reads (joint): {', '.join(STREAMS)}")
    made.add_argument("--persons", type=int, help=f"persons of a clip ({PERSONS})")
    made.add_argument("--coordinates", type=int, choices=(2, 3), help="dimensions of the poses (3 for ntu25, else 2)")
    return run(made, argv, _execute)


if __name__ == "__main__":
    sys.exit(main())
