"""A pretrained encoder + clips -> features by sample id: skelshot embed CHECKPOINT DATA OUT [key=value ...]

OUT ends in .npz (arrays ids, features, labels and classes) or .parquet (columns id, label, class and features), or is a
folder for TensorBoard's projector. Features are the encoder's own, neither centred nor rescaled; label -1 is none.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from adapt import checks, embedded, features, represent, source
from skelcore import command
from skelcore.config import Config
from skelcore.errors import InputError
from skelcore.progress import Progress
from skelcore.store import Store, indices_of, open_store

Rows = Iterator[tuple[list[str], np.ndarray]]
_PLACES = ("checkpoint", "data", "out")


class EmbedConfig(Config):
    """Which clips, and how they are encoded."""

    checkpoint: str = Field(description="pretraining checkpoint")
    data: str = Field(description="clips: PYSKL pickle, folder of .skeleton files, pose shards, procedural:COUNT")
    out: str = Field(description="file ending in .npz or .parquet, or a folder for TensorBoard's projector")
    data_layout: str | None = Field(None, description="layout of a pickle whose joint count does not tell it")
    split: str | None = Field(None, description="only the clips of that split; null is all")
    project: bool = Field(False, description="look at 3D poses from the camera, in 2D, for encoders of 2D poses")
    map_layout: bool = Field(False, description="convert the data to the checkpoint's layout when the two differ")
    frames: int | None = Field(None, ge=2, description="frames the encoder sees; null is the checkpoint's own number")
    persons: int | None = Field(None, ge=1, description="persons of a clip; null is the checkpoint's own number")
    pool: Literal["mean", "segments", "parts"] = Field("mean", description="as in skelshot adapt")
    segments: int = Field(4, ge=1, description="temporal segments of pool=segments")
    mirror: bool = Field(False, description="average features over a clip and its mirror image")
    windows: int = Field(1, ge=1, description="average them over that many windows of four fifths of a clip as well")
    batch_size: int = Field(128, ge=1, description="clips a forward pass; does not change the result")
    workers: int = Field(0, ge=0, description="processes that read clips")
    device: str = Field("auto", description="auto (GPU when there is one), cpu, cuda, cuda:0, ...")

    @field_validator("out")
    @classmethod
    def _known(cls, value: str) -> str:
        return embedded.check_name(value)


def embed(checkpoint: str, data: str | Store, *, split: str | None = None, data_layout: str | None = None,
          project: bool = False, map_layout: bool = False, frames: int | None = None, persons: int | None = None,
          pool: str = "mean", segments: int = 4, mirror: bool = False, windows: int = 1, batch_size: int = 128,
          workers: int = 0, device: str = "auto") -> Rows:
    """Ids and features (B, F) float32 of every clip once, in the order of the data, a batch at a time.

    Options are those of ``EmbedConfig``. Nothing is kept of a batch that was given. What does not fit is an InputError
    of the call, before the first batch.
    """
    used = _used(open_store(data, data_layout) if isinstance(data, str) else data, split, project)
    found = source.load(checkpoint, used, frames=frames, persons=persons, map_layout=map_layout, batch_size=batch_size,
                        workers=workers, device=checks.device(device))
    if found.note:
        print(found.note, file=sys.stderr)
    return _batches(found, pool, segments, features.looks(windows, mirror))


def _used(store: Store, split: str | None, project: bool) -> Store:
    if split is None and not project:
        return store  # which may read many clips in a call
    return represent.view(store, indices_of(store, split), project)


def _batches(found: source.Source, pool: str, segments: int, looks: Sequence[features.Look]) -> Rows:
    encoder, ids, done = found.encoder, found.clips.store.ids, 0
    views = [replace(found.clips, look=look).inputs(encoder) for look in looks]
    for inputs in zip(*views, strict=True):
        rows: np.ndarray = np.stack([features.encode(encoder, [each], pool, segments) for each in inputs]).mean(0)
        yield [ids[i] for i in range(done, done + len(rows))], rows
        done += len(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Embed; exit status 2 with one line for what does not fit. The first words may be CHECKPOINT, DATA and OUT."""
    words = list(sys.argv[1:] if argv is None else argv)
    places = [*_PLACES]
    while words and places and not (words[0].startswith("-") or words[0].partition("=")[0] in EmbedConfig.model_fields
                                    or words[0].endswith((".yaml", ".yml"))):
        words.append(f"{places.pop(0)}={json.dumps(words.pop(0))}")
    return command.run(words, EmbedConfig, __doc__ or "", _plan, _execute)


def _plan(config: EmbedConfig) -> str:
    store, _ = _prepared(config)
    return f"{len(store)} clips -> {config.out}"


def _execute(config: EmbedConfig) -> None:
    store, rows = _prepared(config)
    embedded.write(config.out, _counted(rows, len(store)), store)
    print(f"wrote the features of {len(store)} clips to {config.out}")


def _prepared(config: EmbedConfig) -> tuple[Store, Rows]:
    """The clips in question, and their features, none of which are computed yet."""
    out = Path(config.out)
    if out.suffix and out.is_dir():
        raise InputError(f"out={out}: is a folder; name a file")
    checks.writable("out", out.parent if out.suffix else out)
    used = _used(open_store(config.data, config.data_layout), config.split, config.project)
    options = config.model_dump(exclude={"checkpoint", "data", "out", "data_layout", "split", "project"})
    return used, embed(config.checkpoint, used, **options)


def _counted(rows: Rows, count: int) -> Rows:
    with Progress(count, "clips") as progress:
        for ids, block in rows:
            yield ids, block
            progress.update(len(ids))


if __name__ == "__main__":
    sys.exit(main())
