"""Few-shot evaluation: k labelled clips a class, frozen features, and what pretraining bought over its controls."""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adapt import cache, episodes, evaluate, features, report, results
from adapt.config import COORDINATES, AdaptConfig
from skelcore import checkpoint, command, views
from skelcore import config as configs
from skelcore.encoders import Encoder
from skelcore.errors import InputError
from skelcore.files import write_text
from skelcore.layouts import Layout
from skelcore.progress import Progress
from skelcore.store import Store, Subset, open_store


@dataclass(frozen=True)
class Source:
    """A pretrained encoder, and the pool's and the queries' clips as it wants them."""

    encoder: Encoder
    sha256: str
    clips: features.Clips


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(sys.argv[1:] if argv is None else argv, AdaptConfig, __doc__ or "", plan, execute)


def plan(config: AdaptConfig) -> str:
    """What the evaluation would do."""
    kinds = ", ".join(_representations(config))
    return (f"{config.draws} nested draws of {_list(config.k_shot)} clips a class from {config.data}:{config.support}, "
            f"classifying {config.query}; features: {kinds}; heads: {', '.join(config.methods)}; "
            f"writes {config.output}/results.json, results.md, accuracy.png, confusion.png")


def execute(config: AdaptConfig) -> None:
    """Run the evaluation and write its folder."""
    store = open_store(config.data, config.data_layout)
    drawn = episodes.draw(store, config.support, config.query, config.k_shot, config.draws, config.seed)
    kinds = _representations(config)
    if not kinds:
        raise InputError("checkpoint=null leaves no representation: name a checkpoint or add raw to representations")
    if config.checkpoint is None and len(kinds) < len(config.representations):
        print("note: no checkpoint was given, so only coordinates are evaluated (checkpoint=PATH adds the encoder)")
    device = _device(config.device)
    both = Subset(store, np.concatenate([drawn.pool, drawn.queries]))
    source = None if COORDINATES.issuperset(kinds) else _source(config, both, device)
    rows, predictions = _evaluate(config, both, drawn, kinds, source, device)
    _write(config, store, drawn, source, rows, predictions)


def _representations(config: AdaptConfig) -> list[str]:
    return [name for name in config.representations if config.checkpoint is not None or name in COORDINATES]


def _list(values: Sequence[int]) -> str:
    return ", ".join(map(str, sorted(values)))


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device={name}: not available here ({str(error).splitlines()[0]}); use device=auto") from None
    return torch.device(name)


def _source(config: AdaptConfig, store: Store, device: torch.device) -> Source:
    """The checkpoint's encoder; raises InputError when it does not fit the data."""
    path = Path(config.checkpoint or "")
    if not path.is_file():
        raise InputError(f"checkpoint={path}: no such file; pretrain/run.py writes one, checkpoint=null does without")
    encoder, meta = checkpoint.load_encoder(path)
    _check_layout(config, store.layout, encoder.layout)
    if encoder.in_channels != store.channels + 1:
        raise InputError(f"checkpoint={path}: its encoder reads {encoder.in_channels - 1}D coordinates and a score, "
                         f"but {config.data} has {store.channels}D poses; use a checkpoint pretrained on such data")
    frames, stream = meta.get("frames"), meta.get("stream")
    if not isinstance(frames, int) or frames < 1 or stream not in views.STREAMS:
        raise InputError(f"checkpoint={path}: must hold `frames` (a positive number) and `stream` (one of "
                         f"{', '.join(views.STREAMS)}), got {frames!r} and {stream!r}")
    clips = features.Clips(store, config.frames or frames, config.persons, encoder.layout, stream, config.batch_size,
                           config.workers, device)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Source(features.freeze(encoder).to(device), digest, clips)


def _check_layout(config: AdaptConfig, data: Layout, wanted: Layout) -> None:
    if data == wanted:
        return
    if not config.map_layout:
        raise InputError(f"checkpoint={config.checkpoint} was pretrained on layout {wanted.name}, but {config.data} "
                         f"has layout {data.name}; map_layout=true converts the data")
    absent = [joint for joint, row in zip(wanted.joints, data.matrix_to(wanted), strict=True) if not row.any()]
    if len(absent) == len(wanted):
        raise InputError(f"{config.data}: layout {data.name} gives no joint of the checkpoint's layout {wanted.name}")
    print(f"note: the data's layout {data.name} is mapped to the checkpoint's {wanted.name}; "
          f"joints it cannot give: {', '.join(absent) or 'none'}")


def _evaluate(config: AdaptConfig, both: Store, drawn: episodes.Episodes, kinds: Sequence[str], source: Source | None,
              device: torch.device) -> tuple[list[results.Row], dict[tuple[str, int], np.ndarray]]:
    """The table's rows, and each row's predictions (D, Q) by name and k (of the first initialisation)."""
    rows: list[results.Row] = []
    predictions: dict[tuple[str, int], np.ndarray] = {}
    shots = sorted(config.k_shot)
    for kind in kinds:
        variants = [(torch.from_numpy(pool).to(device), torch.from_numpy(queries).to(device))
                    for pool, queries in _features(config, both, drawn, kind, source)]
        for method in config.methods:
            for k in shots:
                predicted = [evaluate.predict(method, drawn, *pair, k) for pair in variants]
                overall, by_class = map(np.stack, zip(*(evaluate.accuracies(each, drawn) for each in predicted),
                                                      strict=True))
                rows.append(results.row(kind, method, k, overall, by_class))
                predictions[rows[-1].name, k] = predicted[0]
    return rows, predictions


def _features(config: AdaptConfig, both: Store, drawn: episodes.Episodes, kind: str,
              source: Source | None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pool (P, F) and query (Q, F) features, centred and rescaled, of each initialisation of a representation."""
    if kind in COORDINATES or source is None:
        clips = features.Clips(both, config.raw_frames, config.persons, both.layout)
        found = [_cached(config, clips, {"kind": kind}, lambda: features.coordinates(clips, fill=kind == "filled"))]
    else:
        found = [_encoded(config, source, kind, config.seed + init, len(drawn.pool))
                 for init in range(1 if kind == "pretrained" else config.scratch_inits)]
    count = len(drawn.pool)
    scaled = [features.rescale(each, each[:count], config.whiten) for each in found]
    return [(each[:count], each[count:]) for each in scaled]


def _encoded(config: AdaptConfig, source: Source, kind: str, seed: int, pool: int) -> np.ndarray:
    segments = config.segments if config.pool == "segments" else None
    random = {"spec": source.encoder.spec, "seed": seed, "pool": pool}
    key = {"kind": kind, "segments": segments, "encoder": source.sha256 if kind == "pretrained" else random}

    def compute() -> np.ndarray:
        encoder = source.encoder
        if kind != "pretrained":
            calibration = source.clips.mixed_inputs(pool) if kind == "scratch" else None
            encoder = features.untrained(encoder, seed, calibration)
        return features.encode(encoder, _counted(source.clips), segments)

    return _cached(config, source.clips, key, compute)


def _counted(clips: features.Clips) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    with Progress(len(clips.store), "clips") as progress:
        for x, valid in clips.inputs():
            yield x, valid
            progress.update(len(x))


def _cached(config: AdaptConfig, clips: features.Clips, key: dict[str, Any],
            compute: Callable[[], np.ndarray]) -> np.ndarray:
    ids = hashlib.sha256("\n".join(clips.store.ids).encode()).hexdigest()
    key = key | {"version": 1, "data": clips.store.fingerprint, "ids": ids, "frames": clips.frames,
                 "persons": clips.persons, "layout": clips.layout.name, "stream": clips.stream}
    return cache.cached(Path(config.cache or Path(config.output) / "cache"), key, compute)


def _write(config: AdaptConfig, store: Store, drawn: episodes.Episodes, source: Source | None,
           rows: list[results.Row], predictions: dict[tuple[str, int], np.ndarray]) -> None:
    """Everything but the table's JSON first, so that a folder with ``results.json`` is complete."""
    folder = Path(config.output)
    again = f"python adapt/run.py {shlex.quote(os.path.join(config.output, 'config.yaml'))}"
    write_text(folder / "config.yaml", configs.to_yaml(config))
    facts = [f"data: `{config.data}`, layout {store.layout.name}, {len(drawn.classes)} classes, "
             f"{len(drawn.pool)} clips in `{config.support}`, {len(drawn.queries)} in `{config.query}`",
             f"checkpoint: `{config.checkpoint}`, sha256 {source.sha256[:16]}" if source else "checkpoint: none"]
    compared = results.differences(rows)
    write_text(folder / "results.md", report.page(rows, compared, facts, again))
    report.plot_accuracy(folder / "accuracy.png", rows)
    best = results.best(rows)
    report.plot_confusion(folder / "confusion.png", evaluate.confusion(predictions[best.name, best.k], drawn),
                          drawn.classes, f"{best.name}, {best.k}-shot: {100 * best.mean:.1f} %")
    results.write(folder / "results.json", again, config.model_dump(mode="json"), _data(config, store, drawn),
                  _checkpoint(config, source), _draws(config, drawn), rows)
    print("\n".join(facts) + "\n\n" + report.text(report.table(rows)))
    if compared:
        print("\n" + report.text(report.difference_table(compared)))
    print(f"\nwrote {folder / 'results.json'}, results.md, accuracy.png, confusion.png")


def _data(config: AdaptConfig, store: Store, drawn: episodes.Episodes) -> dict[str, Any]:
    return {"uri": config.data, "fingerprint": store.fingerprint, "layout": store.layout.name,
            "classes": list(drawn.classes), "support": {"split": config.support, "clips": len(drawn.pool)},
            "query": {"split": config.query, "clips": len(drawn.queries)}}


def _checkpoint(config: AdaptConfig, source: Source | None) -> dict[str, Any] | None:
    if source is None:
        return None
    return {"path": config.checkpoint, "sha256": source.sha256, "spec": source.encoder.spec,
            "frames": source.clips.frames, "stream": source.clips.stream}


def _draws(config: AdaptConfig, drawn: episodes.Episodes) -> dict[str, Any]:
    return {"seeds": list(drawn.seeds), "sha256": {str(k): drawn.hashes(k) for k in sorted(config.k_shot)}}


if __name__ == "__main__":
    sys.exit(main())
