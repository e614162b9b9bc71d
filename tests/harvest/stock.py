"""Output folders with real shards of mannequins, made in a moment."""

import json
from dataclasses import replace

from harvest.quality import measure
from skelcore import mannequin, shards
from skelcore.shards import Block


def track(number, seconds=1.0, fps=10.0):
    """The exact poses of a mannequin, as a kept track."""
    action = mannequin.ACTIONS[number % len(mannequin.ACTIONS)]
    sequence = mannequin.perform(action, number, number, seconds=seconds, fps=fps).sequence()
    return replace(sequence, meta={"start": 0.0}, label=None)


def shard(folder, number, blocks):
    """Write ``shards/NUMBER.tar`` with for each block (key, source) its two tracks, of 1 and 2 seconds."""
    made = []
    for place, (key, source) in enumerate(blocks):
        sequences = [track(place, 1.0), track(place + 1, 2.0)]
        made.append(Block(key, sequences, [measure(each) for each in sequences], source, {"harvest": "0123"}))
    return shards.write(folder / "shards" / f"{number:06d}.tar", made)


def rejected(folder, number, tracks):
    """Write ``rejected/NUMBER.jsonl`` of dicts."""
    path = folder / "rejected" / f"{number:06d}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in tracks))
