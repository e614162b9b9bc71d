"""Weights of another repository -> a checkpoint of SkelShot: skelshot import-weights FILE --to OUT [options]

Reads PYSKL and MMAction2 checkpoints of every network that both have, and those of the st-gcn, 2s-AGCN (aagcn) and
CTR-GCN repositories, without running anything in them. Encoder, layout, channels and width are found from the keys and
their shapes; the report says what could only be assumed. Every key of the network must have its place: one too many,
one too few or one of another shape is an error. Of what stands beside it, the classifier is kept, under `head`.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skelcore import checkpoint, foreign, views
from skelcore.brief import brief
from skelcore.command import Parser
from skelcore.encoders import ENCODERS, Encoder
from skelcore.encoders.heatmaps import HeatmapEncoder
from skelcore.errors import InputError
from skelcore.foreign import Weights
from skelcore.layouts import LAYOUTS

FRAMES, HEATMAP_FRAMES, PERSONS = 100, 48, 2  # with which the reference trains
LARGEST = 10_000  # frames or persons of a clip
STREAMS = (*views.STREAMS, "joint_bone")


def convert(source: Path, target: Path, name: str | None = None, layout: str | None = None, frames: int | None = None,
            stream: str | None = None, persons: int | None = None, coordinates: int | None = None) -> str:
    """Write ``source``'s weights to ``target`` as a checkpoint that ``load_encoder`` reads; returns the report.

    What is None is found from the file. Raises InputError for a file that is of no known network, or fits none.
    """
    check_places(source, target)
    weights = foreign.parse(checkpoint.load(source, foreign.STAND_INS), str(source))
    chosen = partial(_chosen, weights)
    stream = chosen("stream", stream, None, _one_of(STREAMS))
    layout = chosen("layout", layout, None, _one_of(LAYOUTS))
    name = chosen("encoder", name, None, _one_of(ENCODERS))
    encoder = foreign.encoder_for(weights, name, layout, stream or "joint")
    heatmaps = isinstance(encoder, HeatmapEncoder)
    frames = chosen("frames", frames, HEATMAP_FRAMES if heatmaps else FRAMES, _is_count)
    persons = chosen("persons", persons, PERSONS, _is_count)
    coordinates = chosen("coordinates", coordinates, _dimensions(encoder), _one_of((2, 3)))
    usual = _graphs(encoder)
    report = foreign.fill(encoder, weights)
    own = any(not torch.equal(graph, usual[key]) for key, graph in _graphs(encoder).items())
    classifier = foreign.head(weights, encoder.dim)
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    checkpoint.save_encoder(target, encoder, frames, stream or "joint", persons=persons, coordinates=coordinates,
                            imported={"file": source.name, "sha256": digest, "format": weights.form.name},
                            **({"head": classifier} if classifier else {}))
    spec = encoder.spec
    inputs = f"{encoder.in_channels} heatmaps" if heatmaps else f"{len(encoder.layout)} joints"
    layout_note = "" if layout else f" (assumed from {inputs}; --layout says otherwise)"
    stream_note = "" if stream else " (assumed; --stream says otherwise)"
    classes = f"{len(classifier['bias'])} classes, kept beside the encoder" if classifier else "none"
    return "\n".join([
        f"{weights.form.name} -> {spec['name']}: layout {spec['layout']}{layout_note}, {spec['in_channels']} channels, "
        f"width {spec['width']}, stream {stream or 'joint'}{stream_note} of {coordinates}D poses, {frames} frames, "
        f"{persons} persons",
        f"  matched  {len(report.matched)} keys",
        f"  unused   {foreign.listed(report.unused)}",
        f"  missing  {foreign.listed(report.missing)}",
        f"  head     {classes}",
        *([f"  graph    its graph is another than layout {spec['layout']}'s: kept"] if own else []),
        f"-> {target}"])


def check_places(source: Path, target: Path) -> None:
    """Raise InputError for a ``target`` that is a folder or the ``source``, before anything is computed."""
    if target.is_dir():
        raise InputError(f"--to {target}: is a folder; name a file in it")
    if source.resolve() == target.resolve():
        raise InputError(f"--to {target}: is the file to read; name another")


def _chosen(weights: Weights, field: str, said: Any, usual: Any, wrong: Callable[[Any], str | None]) -> Any:
    """What the user says before what the file says, and that before what is usual.

    ``wrong`` gives what is wrong with a value, None if nothing is; that is an InputError with the value's origin.
    """
    hint = weights.hints.get("name" if field == "encoder" else field)
    if said is None and hint is None:
        return usual
    value, origin = (hint, f"checkpoint={weights.where}: its {field}") if said is None else (said, f"--{field}")
    if fault := wrong(value):
        raise InputError(f"{origin} {brief(value)}: {fault}")
    return value


def _one_of(known: Collection[str | int]) -> Callable[[Any], str | None]:
    kinds = {type(value) for value in known}
    return lambda value: (None if type(value) in kinds and value in known
                          else f"unknown; known: {', '.join(map(str, known))}")


def _is_count(value: Any) -> str | None:
    return None if type(value) is int and 1 <= value <= LARGEST else f"must be a whole number from 1 to {LARGEST}"


def _graphs(encoder: Encoder) -> dict[str, Tensor]:
    """Where the graphs that training leaves as they are have edges; only batch norm has other buffers, of one axis."""
    return {key: value != 0 for key, value in encoder.named_buffers() if value.ndim > 1}


def _dimensions(encoder: Encoder) -> int:
    """2 or 3: whether the poses that an imported encoder reads are flat; 3 channels are x, y, score or x, y, z."""
    if isinstance(encoder, HeatmapEncoder):
        return 2
    return 3 if encoder.layout.name == "ntu25" or encoder.in_channels > 3 else 2


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("must name a file")
    return Path(text)


def parser(command: str, doc: str | None, source: str) -> Parser:
    """The parser of `skelshot COMMAND SOURCE --to OUT`, described by the module's ``doc``."""
    about, details = (doc or "").split("\n", 1)
    made = Parser(f"skelshot {command}", description=about.split(":")[0], epilog=details)
    made.add_argument("source", type=_path, metavar=source, help="the file to read")
    made.add_argument("--to", type=_path, required=True, metavar="OUT", help="the file to write")
    return made


def _execute(arguments: argparse.Namespace) -> None:
    print(convert(arguments.source, arguments.to, arguments.encoder, arguments.layout, arguments.frames,
                  arguments.stream, arguments.persons, arguments.coordinates))


def main(argv: Sequence[str] | None = None) -> int:
    """Import one file; exit status 2 with one line for a file that is not what it should be."""
    made = parser("import-weights", __doc__, "FILE")
    made.add_argument("--encoder", help=f"instead of what the keys say: {', '.join(ENCODERS)}")
    made.add_argument("--layout", help="instead of the one with as many joints: " + ", ".join(LAYOUTS))
    made.add_argument("--frames", type=int, help=f"frames of a clip ({FRAMES}; heatmaps {HEATMAP_FRAMES})")
    made.add_argument("--stream", help=f"what the network reads (joint): {', '.join(STREAMS)}")
    made.add_argument("--persons", type=int, help=f"persons of a clip ({PERSONS})")
    made.add_argument("--coordinates", type=int, choices=(2, 3), help="dimensions of the poses (3 for ntu25, else 2)")
    return made.run(argv, _execute)


if __name__ == "__main__":
    sys.exit(main())
