"""Few-shot evaluation: k labelled clips a class, frozen features, and what pretraining bought over its controls."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapt import benchmarks, checks, evaluate, published, report, represent, results, table
from adapt.benchmarks import Trial
from adapt.config import AdaptConfig
from adapt.episodes import Episodes
from adapt.results import Benchmark, Draws, Leakage, Results
from adapt.splits import record
from adapt.table import Outcome, Task
from skelcore import command
from skelcore import config as configs
from skelcore.errors import InputError
from skelcore.files import write_text
from skelcore.seen import shared
from skelcore.store import open_store

SELECTION = ("Constants of methods were set on training splits, for the most part of Penn Action, and are the same for "
             "all data; schedules are fixed; no query chose anything.")


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    if list(words) == ["--list"]:
        print(benchmarks.listing())
        return 0
    return command.run(words, AdaptConfig, f"{__doc__}\n\n--list tells of the benchmarks.", plan, execute)


def plan(config: AdaptConfig) -> str:
    """What the evaluation would do, after the checks that it begins with."""
    task = prepare(config)
    return "\n".join([f"{_asked(task)}; persons a clip: {task.clips.persons}; features: {', '.join(task.kinds)}; "
                      f"heads: {', '.join(config.methods)}; writes {config.output}/results.json and what shows it",
                      *_notes(config, task)])


def execute(config: AdaptConfig) -> None:
    """Run the evaluation and write its folder."""
    task = prepare(config)
    for note in _notes(config, task):
        print(note)
    _write(config, task, table.fill(config, task))


def prepare(config: AdaptConfig) -> Task:
    """Open and check all that an evaluation needs, and write nothing; raises InputError for what is wrong."""
    checks.writable("output", Path(config.output))
    checks.writable("cache", represent.cache_folder(config))
    kinds = represent.kinds(config)
    store = open_store(config.data, config.data_layout)
    trial = benchmarks.prepare(store, config)
    if config.same_splits_as is not None:
        _check_same(config.same_splits_as, trial, store.ids)
    used = represent.view(store, trial.asked.used, config.project)
    task = Task(store, trial, represent.open_clips(config, used, len(trial.asked.learned)), kinds)
    if not any(table.applicable(config, task, kind) for kind in kinds):
        raise InputError(f"methods={config.methods}: none takes {', '.join(kinds)} on benchmark {trial.name}; add one, "
                         "such as prototype")
    return task


def _check_same(path: str, trial: Trial, present: Sequence[str]) -> None:
    """Raise InputError unless the trial has the very splits of an earlier run."""
    for kept in record.read(path):
        record.verify(kept, present)
        new = next((split for split in trial.splits if split.name == kept.name), None)
        if new is None:
            raise InputError(f"same_splits_as={path}: of benchmark {kept.name!r}, this run is of "
                             f"{trial.name!r}")
        wrong = [part for part, digest in kept.sha256.items() if new.sha256.get(part) != digest]
        if wrong:
            raise InputError(f"same_splits_as={path}: part {wrong[0]!r} of {kept.name} has other clips here; give the "
                             "same data, seed, draws and k_shot")
        if kept.rule != new.rule:
            raise InputError(f"same_splits_as={path}: its rule is {kept.rule!r}, this run's {new.rule!r}")
        if isinstance(trial.asked, Episodes) and not trial.asked.asked.all() and set(new.parts) != set(kept.parts):
            raise InputError(f"same_splits_as={path}: where support and query share a split the largest k decides "
                             "which clips are asked; give the same k_shot")


def _notes(config: AdaptConfig, task: Task) -> list[str]:
    notes = [*dict.fromkeys(each.note for each in task.clips.sources if each.note), *task.trial.notes]
    idle = set(config.methods).difference(*(table.applicable(config, task, kind) for kind in task.kinds))
    if idle:
        notes.append(f"note: nothing here takes {', '.join(sorted(idle))}, so it is left out")
    if len(task.kinds) < len(config.representations):
        notes.append("note: no checkpoint was given, so only coordinates are evaluated (checkpoint=PATH adds the "
                     "encoder)")
    leaked = _leakage(task)
    if leaked and leaked.shared:
        notes.append(f"note: {leaked.shared} of the {leaked.checked} queries were in the pretraining data, such as "
                     f"{leaked.examples[0]}")
    return notes


def _asked(task: Task) -> str:
    config, asked = task.clips.config, task.trial.asked
    shots = ", ".join(map(str, task.trial.budgets))
    if not isinstance(asked, Episodes):
        return (f"{config.episodes} {config.way}-way episodes of {shots} clips a class on {len(asked.classes)} novel "
                f"classes ({len(asked.clips)} clips; {len(asked.base)} of base classes)")
    return (f"{len(asked.draws)} nested draws of {shots} clips a class from {config.data}:{asked.parts[0]} "
            f"({len(asked.pool)} clips, {len(asked.classes)} classes), classifying {asked.parts[1]} "
            f"({len(asked.queries)} clips)")


def _write(config: AdaptConfig, task: Task, outcome: Outcome) -> None:
    """Everything but the table's JSON first, and an older one away, so that a folder with ``results.json`` is whole."""
    folder = Path(config.output)
    for name in ("results.json", *report.OPTIONAL):
        (folder / name).unlink(missing_ok=True)
    write_text(folder / "config.yaml", configs.to_yaml(config))
    record.write(folder / "splits.json", task.trial.splits)
    leaked = _leakage(task)
    found = Results(
        command=f"python adapt/run.py {shlex.quote(os.path.join(config.output, 'config.yaml'))}",
        config=config.model_dump(mode="json"), versions=results.versions(),
        benchmark=Benchmark.of(task.trial.name, task.trial.rule, folder / "splits.json"), data=_data(config, task),
        checkpoints=_checkpoints(task), draws=_draws(task), leakage=leaked, selection=SELECTION, rows=outcome.rows,
        differences=results.differences(outcome.rows), all_labels=outcome.all_labels,
        published=published.of(task.trial.name))
    print(report.write(folder, found, _facts(config, task, leaked), _pictures(task, outcome)))
    results.write(folder / "results.json", found)
    print(f"\nwrote {folder / 'results.json'}, results.md, results.tex, report.html and the pictures")


def _pictures(task: Task, outcome: Outcome) -> report.Pictures:
    asked = task.trial.asked
    if not isinstance(asked, Episodes):
        return report.Pictures(None, outcome.shown[asked.rows], asked.labels,
                               lambda label: task.store[int(asked.clips[asked.labels == label][0])])
    row = results.shown(outcome.rows)
    predicted = outcome.predictions[row.name, row.k]
    return report.Pictures(evaluate.confusion(predicted, asked.first(len(predicted))), outcome.shown[asked.query_rows],
                           asked.query_labels, lambda label: task.store[int(asked.pool[asked.draws[0, label, 0]])])


def _facts(config: AdaptConfig, task: Task, leaked: Leakage | None) -> list[str]:
    checkpoints = [f"`{each.path}`, sha256 {each.sha256[:16]}" for each in task.clips.sources]
    overlap = ("unknown: a checkpoint does not say what it saw" if leaked is None else
               f"{leaked.shared} of {leaked.checked} queries were in the pretraining data")
    return [f"data: `{config.data}`, layout {task.store.layout.name}; benchmark {task.trial.name}: {_asked(task)}",
            f"rule: {task.trial.rule}",
            f"checkpoint: {'; '.join(checkpoints)}" if checkpoints else "checkpoint: none",
            *([f"overlap with pretraining: {overlap}"] if checkpoints else []),
            f"statistics: {_statistics(task)}"]


def _leakage(task: Task) -> Leakage | None:
    """How many of the queries were seen in pretraining; None where a checkpoint does not say."""
    asked = task.trial.asked
    ids = [asked.ids[i] for i in (asked.queries if isinstance(asked, Episodes) else asked.clips)]
    found: set[str] = set()
    for each in task.clips.sources:
        overlap = shared(each.meta.get("seen"), ids)
        if overlap is None:
            return None
        found.update(overlap)
    return Leakage(len(ids), len(found), sorted(found)[:3]) if task.clips.sources else None


def _statistics(task: Task) -> str:
    asked = task.trial.asked
    if len(asked.base):
        return "whitening and batch-norm calibration are taken from the unlabelled base classes: inductive"
    queries = ("which holds the queries: transductive" if isinstance(asked, Episodes) and asked.transductive
               else "which holds no query: inductive")
    return f"whitening and batch-norm calibration are taken from the unlabelled pool, {queries}"


def _data(config: AdaptConfig, task: Task) -> dict[str, Any]:
    asked = task.trial.asked
    clips = {"support": {"split": asked.parts[0], "clips": len(asked.pool)},
             "query": {"split": asked.parts[1], "clips": len(asked.queries)}} if isinstance(asked, Episodes) else {
                 "novel": {"clips": len(asked.clips)}}
    return {"uri": config.data, "fingerprint": task.store.fingerprint, "layout": task.store.layout.name,
            "classes": list(asked.classes), **clips, "base": {"clips": len(asked.base)},
            "persons": task.clips.persons, "statistics": _statistics(task)}


def _checkpoints(task: Task) -> list[dict[str, Any]]:
    return [{"path": each.path, "sha256": each.sha256, "spec": each.encoder.spec, "frames": each.clips.frames,
             "stream": each.clips.stream} for each in task.clips.sources]


def _draws(task: Task) -> Draws:
    asked = task.trial.asked
    if isinstance(asked, Episodes):
        return Draws(list(asked.seeds), {str(k): asked.hashes(k) for k in task.trial.budgets})
    return Draws([task.clips.config.seed], {str(k): [drawn.sha256] for k, drawn in asked.tasks.items()})


if __name__ == "__main__":
    sys.exit(main())
