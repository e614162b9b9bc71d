"""A checkpoint of SkelShot -> a file in PYSKL's naming: skelshot export-weights CHECKPOINT --to OUT

The classifier goes with it where the checkpoint has one; `skelshot import-weights` brings the file back bit by bit.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from skelcore import checkpoint
from skelcore.import_weights import check_places, parser


def convert(source: Path, target: Path) -> str:
    """Write the encoder in ``source`` to ``target`` as `{'meta', 'state_dict'}`; returns the report.

    Raises InputError for a checkpoint that is none of ours, and for an encoder that PYSKL does not have.
    """
    check_places(source, target)
    encoder, contents = checkpoint.load_encoder(source)
    state = checkpoint.to_pyskl(encoder)
    classifier = contents.get("head")
    if (isinstance(classifier, dict) and set(classifier) == {"weight", "bias"}
            and all(isinstance(value, Tensor) for value in classifier.values())):
        state |= {f"cls_head.fc_cls.{leaf}": value for leaf, value in classifier.items()}
    facts = {"name": encoder.name, "layout": encoder.layout.name}
    facts |= {key: contents[key] for key in ("frames", "stream", "persons", "coordinates")
              if isinstance(contents.get(key), int | str)}
    checkpoint.save(target, {"meta": {"skelshot": facts}, "state_dict": state})
    note = ("\nnote: PYSKL's CTR-GCN has a ReLU after the temporal unit that these weights were trained without, so "
            "its outputs differ" if encoder.name == "ctrgcn-orig" else "")
    return f"{encoder.name}, layout {encoder.layout.name}: {len(state)} keys -> {target}{note}"


def _execute(arguments: argparse.Namespace) -> None:
    print(convert(arguments.source, arguments.to))


def main(argv: Sequence[str] | None = None) -> int:
    """Export one checkpoint; exit status 2 with one line for a file that is not what it should be."""
    return parser("export-weights", __doc__, "CHECKPOINT").run(argv, _execute)


if __name__ == "__main__":
    sys.exit(main())
