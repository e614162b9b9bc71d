"""Few-shot evaluation: k labelled clips a class, frozen features, and what pretraining bought over its controls."""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch

from adapt import cache, episodes, evaluate, features, finetune, kinematics, probe, report, results
from adapt.config import COORDINATES, TUNED, AdaptConfig
from skelcore import checkpoint, command
from skelcore import config as configs
from skelcore.encoders import Encoder
from skelcore.errors import InputError
from skelcore.files import write_text
from skelcore.layouts import Layout
from skelcore.progress import Progress
from skelcore.sources import FrontView
from skelcore.store import Store, Subset, open_store

Probed = dict[str, dict[str, float]]  # representation -> method -> accuracy


@dataclass(frozen=True)
class Source:
    """A pretrained encoder, and the pool's and the queries' clips as it wants them."""

    encoder: Encoder
    sha256: str
    clips: features.Clips
    note: str


@dataclass(frozen=True)
class Task:
    """What is evaluated, opened and checked: ``used`` holds the pool's and the queries' clips, each once."""

    store: Store
    drawn: episodes.Episodes
    used: Store
    kinds: list[str]
    source: Source | None
    persons: int
    device: torch.device


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(sys.argv[1:] if argv is None else argv, AdaptConfig, __doc__ or "", plan, execute)


def plan(config: AdaptConfig) -> str:
    """What the evaluation would do, after the checks that it begins with."""
    task = prepare(config)
    drawn = task.drawn
    return "\n".join([
        f"{config.draws} nested draws of {_list(config.k_shot)} clips a class from {config.data}:{config.support} "
        f"({len(drawn.pool)} clips, {len(drawn.classes)} classes), classifying {config.query} "
        f"({len(drawn.queries)} clips); persons a clip: {task.persons}; features: {', '.join(task.kinds)}; "
        f"heads: {', '.join(config.methods)}; writes {config.output}/results.json, results.md, accuracy.png, "
        "confusion.png", *_notes(config, task)])


def execute(config: AdaptConfig) -> None:
    """Run the evaluation and write its folder."""
    task = prepare(config)
    for note in _notes(config, task):
        print(note)
    rows, predictions, all_labels = _evaluate(config, task)
    _write(config, task, rows, predictions, all_labels)


def prepare(config: AdaptConfig) -> Task:
    """Open and check all that an evaluation needs, and write nothing; raises InputError for what is wrong."""
    _check_writable("output", Path(config.output))
    _check_writable("cache", _cache_folder(config))
    kinds = _representations(config)
    if not kinds:
        raise InputError("checkpoint=null leaves no representation: name a checkpoint or add raw to representations")
    device = _device(config.device)
    store = open_store(config.data, config.data_layout)
    drawn = episodes.draw(store, config.support, config.query, config.k_shot, config.draws, config.seed)
    if config.project and store.channels != 3:
        raise InputError(f"project=true is for 3D poses; those of data={config.data} are 2D: leave it out")
    used = FrontView(store, drawn.used) if config.project else Subset(store, drawn.used)
    source = None if config.checkpoint is None else _source(config, used, device)
    persons = source.clips.persons if source else config.persons or 1
    return Task(store, drawn, used, kinds, source, persons, device)


def _check_writable(field: str, folder: Path) -> None:
    """Try a nameless file in the folder, or in the nearest one that is there."""
    nearest = folder
    try:
        while not nearest.exists():
            nearest = nearest.parent
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise InputError(f"{field}={folder}: cannot be written to ({error.strerror}); name another folder") from None


def _cache_folder(config: AdaptConfig) -> Path:
    return Path(config.cache or Path(config.output) / "cache")


def _notes(config: AdaptConfig, task: Task) -> list[str]:
    notes = [task.source.note] if task.source and task.source.note else []
    if len(task.kinds) < len(config.representations):
        notes.append("note: no checkpoint was given, so only coordinates are evaluated (checkpoint=PATH adds the "
                     "encoder)")
    return notes


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
    note = _check_layout(config, store.layout, encoder.layout)
    frames, persons, stream = meta.get("frames"), meta.get("persons", 1), meta.get("stream")
    fill = meta.get("fill", 0.0)
    if not (_positive(frames) and _positive(persons) and isinstance(stream, str) and _fraction(fill)):
        raise InputError(f"checkpoint={path}: must hold `frames` and `persons` (positive numbers), `stream` (its name) "
                         f"and `fill` (a score below 1, or nothing), got {frames!r}, {persons!r}, {stream!r} and "
                         f"{fill!r}")
    try:
        accepted = encoder.accepts(store.channels, stream)
    except InputError as error:
        raise InputError(f"checkpoint={path}: {error}") from None
    # Imported weights may read coordinates alone; 3 channels are then not x, y and a score.
    coordinates = meta.get("coordinates", store.channels)
    accepted = accepted or ("coordinates" in meta and encoder.in_channels == coordinates)
    if not accepted or coordinates != store.channels:
        raise InputError(f"checkpoint={path}: its encoder reads {encoder.in_channels} channels, which the "
                         f"{store.channels}D poses of {config.data} do not give; use a checkpoint pretrained on such "
                         "data")
    clips = features.Clips(store, config.frames or frames, config.persons or persons, encoder.layout, stream,
                           fill, config.batch_size, config.workers, device)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Source(features.freeze(encoder).to(device), digest, clips, note)


def _fraction(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and 0 <= value < 1


def _positive(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and value >= 1


def _check_layout(config: AdaptConfig, data: Layout, wanted: Layout) -> str:
    """What to tell the user about a conversion, if there is one."""
    if data == wanted:
        return ""
    if not config.map_layout:
        raise InputError(f"checkpoint={config.checkpoint} was pretrained on layout {wanted.name}, but {config.data} "
                         f"has layout {data.name}; map_layout=true converts the data")
    absent = [joint for joint, row in zip(wanted.joints, data.matrix_to(wanted), strict=True) if not row.any()]
    if len(absent) == len(wanted):
        raise InputError(f"{config.data}: layout {data.name} gives no joint of the checkpoint's layout {wanted.name}")
    return (f"note: the data's layout {data.name} is mapped to the checkpoint's {wanted.name}; "
            f"joints it cannot give: {', '.join(absent) or 'none'}")


def _evaluate(config: AdaptConfig, task: Task) -> tuple[list[results.Row], dict[tuple[str, int], np.ndarray], Probed]:
    """The table's rows, each row's predictions (D, Q) by name and k (of the first initialisation), and what all labels
    give."""
    rows: list[results.Row] = []
    all_labels: Probed = {}
    predictions: dict[tuple[str, int], np.ndarray] = {}
    tuned = task.drawn.first(config.finetune_draws)
    for kind in task.kinds:
        variants = [(torch.from_numpy(pool).to(task.device), torch.from_numpy(queries).to(task.device))
                    for pool, queries in _features(config, task, kind)]
        if found := probe.accuracies(task.drawn, *variants[0]):
            all_labels[kind] = found
        for method in config.methods:
            if method == "finetune" and (kind not in TUNED or task.source is None):
                continue
            drawn = tuned if method == "finetune" else task.drawn
            for k in sorted(config.k_shot):
                if method == "finetune" and task.source is not None:
                    predicted = [_tuned(config, task.source, kind, drawn, k)]
                else:
                    predicted = [evaluate.predict(method, drawn, *pair, k) for pair in variants]
                overall, by_class = map(np.stack, zip(*(evaluate.accuracies(each, drawn) for each in predicted),
                                                      strict=True))
                rows.append(results.row(kind, method, k, overall, by_class))
                predictions[rows[-1].name, k] = predicted[0]
    return rows, predictions, all_labels


def _tuned(config: AdaptConfig, source: Source, kind: str, drawn: episodes.Episodes, k: int) -> np.ndarray:
    encoder = source.encoder if kind == "pretrained" else features.untrained(source.encoder, config.seed)
    return finetune.predict(encoder, source.clips, drawn, k, config.finetune_steps, config.seed)


def _features(config: AdaptConfig, task: Task, kind: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pool (P, F) and query (Q, F) features, centred and rescaled, of each initialisation of a representation."""
    count = len(task.drawn.pool)
    if kind in ("statistics", "fused"):
        found = kinematics.statistics(_coordinates(config, task))
        blocks = [features.rescale(block, block[:count], "none") for block in found]
        if kind == "fused":
            learned, = _found(config, task, "pretrained")
            blocks.append(features.rescale(learned, learned[:count], config.whiten))
        scaled = [features.fuse(blocks, count)]
    else:
        scaled = [features.rescale(each, each[:count], config.whiten) for each in _found(config, task, kind)]
    return [(each[:count], each[task.drawn.query_rows]) for each in scaled]


def _found(config: AdaptConfig, task: Task, kind: str) -> list[np.ndarray]:
    """Features (P + Q, F) of each initialisation, as they are."""
    if kind in COORDINATES or task.source is None:
        clips = _coordinates(config, task)
        return [_cached(config, clips, {"kind": kind}, lambda: features.coordinates(clips, fill=kind == "filled"))]
    inits = 1 if kind == "pretrained" else config.scratch_inits
    return [_encoded(config, task.source, kind, config.seed + init, len(task.drawn.pool)) for init in range(inits)]


def _coordinates(config: AdaptConfig, task: Task) -> features.Clips:
    return features.Clips(task.used, config.raw_frames, task.persons, task.used.layout)


def _encoded(config: AdaptConfig, source: Source, kind: str, seed: int, pool: int) -> np.ndarray:
    pooling = (config.pool, config.segments if config.pool == "segments" else 1)
    random = {"spec": source.encoder.spec, "seed": seed, "pool": pool}
    key = {"kind": kind, "pooling": pooling, "encoder": source.sha256 if kind == "pretrained" else random}

    def compute() -> np.ndarray:
        encoder = source.encoder
        if kind != "pretrained":
            calibration = source.clips.mixed_inputs(source.encoder, pool) if kind == "scratch" else None
            encoder = features.untrained(encoder, seed, calibration)
        return features.encode(encoder, _counted(source.clips, encoder), *pooling)

    return _cached(config, source.clips, key, compute)


def _counted(clips: features.Clips, encoder: Encoder) -> Iterator[features.Input]:
    with Progress(len(clips.store), "clips") as progress:
        for x, valid in clips.inputs(encoder):
            yield x, valid
            progress.update(len(x))


def _cached(config: AdaptConfig, clips: features.Clips, key: dict[str, Any],
            compute: Callable[[], np.ndarray]) -> np.ndarray:
    ids = hashlib.sha256("\n".join(clips.store.ids).encode()).hexdigest()
    key = key | {"version": 3, "data": clips.store.fingerprint, "ids": ids, "frames": clips.frames,
                 "persons": clips.persons, "layout": clips.layout.name, "stream": clips.stream, "fill": clips.fill,
                 "channels": clips.store.channels}
    return cache.cached(_cache_folder(config), key, compute)


def _write(config: AdaptConfig, task: Task, rows: list[results.Row],
           predictions: dict[tuple[str, int], np.ndarray], all_labels: Probed) -> None:
    """Everything but the table's JSON first, so that a folder with ``results.json`` is complete."""
    drawn, source = task.drawn, task.source
    folder = Path(config.output)
    again = f"python adapt/run.py {shlex.quote(os.path.join(config.output, 'config.yaml'))}"
    write_text(folder / "config.yaml", configs.to_yaml(config))
    facts = [f"data: `{config.data}`, layout {task.store.layout.name}, {len(drawn.classes)} classes, "
             f"{len(drawn.pool)} clips in `{config.support}`, {len(drawn.queries)} in `{config.query}`",
             f"checkpoint: `{config.checkpoint}`, sha256 {source.sha256[:16]}" if source else "checkpoint: none",
             f"statistics: {_statistics(drawn)}"]
    compared = results.differences(rows)
    write_text(folder / "results.md", report.page(rows, compared, all_labels, facts, again))
    report.plot_accuracy(folder / "accuracy.png", rows)
    row = results.shown(rows)
    predicted = predictions[row.name, row.k]
    report.plot_confusion(folder / "confusion.png", evaluate.confusion(predicted, drawn.first(len(predicted))),
                          drawn.classes, f"{row.name}, {row.k}-shot: {100 * row.mean:.1f} %")
    results.write(folder / "results.json", again, config.model_dump(mode="json"), _data(config, task),
                  _checkpoint(config, source), _draws(config, drawn), rows, all_labels)
    print("\n".join(facts) + "\n\n" + report.text(report.table(rows)))
    if compared:
        print("\n" + report.text(report.difference_table(compared)))
    print(f"\nwrote {folder / 'results.json'}, results.md, accuracy.png, confusion.png")


def _statistics(drawn: episodes.Episodes) -> str:
    queries = "which holds the queries: transductive" if drawn.transductive else "which holds no query: inductive"
    return f"whitening and batch-norm calibration are taken from the unlabelled pool, {queries}"


def _data(config: AdaptConfig, task: Task) -> dict[str, Any]:
    drawn = task.drawn
    return {"uri": config.data, "fingerprint": task.store.fingerprint, "layout": task.store.layout.name,
            "classes": list(drawn.classes), "support": {"split": config.support, "clips": len(drawn.pool)},
            "query": {"split": config.query, "clips": len(drawn.queries)}, "persons": task.persons,
            "statistics": _statistics(drawn)}


def _checkpoint(config: AdaptConfig, source: Source | None) -> dict[str, Any] | None:
    if source is None:
        return None
    return {"path": config.checkpoint, "sha256": source.sha256, "spec": source.encoder.spec,
            "frames": source.clips.frames, "stream": source.clips.stream}


def _draws(config: AdaptConfig, drawn: episodes.Episodes) -> dict[str, Any]:
    return {"seeds": list(drawn.seeds), "sha256": {str(k): drawn.hashes(k) for k in sorted(config.k_shot)}}


if __name__ == "__main__":
    sys.exit(main())
