"""Summary: what a run was, how long it took and what came out, for people (Markdown) and programs (JSON)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from pretrain.provenance import provenance
from skelcore.files import write_text
from skelcore.folder import Folder


@dataclass(frozen=True)
class Data:
    """One source of clips, as it was used: ``weight`` is how often an epoch shows each clip."""

    uri: str
    clips: int
    fingerprint: str
    weight: float = 1.0


@dataclass(frozen=True)
class Facts:
    """What ``write`` tells of a run.

    ``batch_size`` is that of a step over all ``processes``; ``seconds`` and ``clips_seen`` are totals of training;
    ``metrics`` are the last ones, and ``history`` those of each look, with its ``step``.
    """

    encoder: str
    parameters: int
    features: int
    objective: str
    layout: str
    stream: str
    frames: int
    data: Sequence[Data]
    seed: int
    steps: int
    epochs: int
    batch_size: int
    processes: int
    distributed: str
    device: str
    precision: str
    seconds: float
    clips_seen: int
    metrics: Mapping[str, float]
    history: Sequence[Mapping[str, float]]

    @property
    def clips(self) -> int:
        return sum(source.clips for source in self.data)

    @property
    def clips_per_second(self) -> float:
        return self.clips_seen / self.seconds if self.seconds > 0 else 0.0

    @property
    def command(self) -> str:
        """What repeats the run from the config.yaml beside its summary."""
        if self.processes > 1 and self.distributed != "ray":
            return f"torchrun --nproc-per-node={self.processes} -m pretrain.run config.yaml output=FOLDER"
        return "skelshot pretrain config.yaml output=FOLDER"


def write(folder: Folder, facts: Facts) -> None:
    """Put ``summary.md`` and ``summary.json`` into the folder, each whole or not at all."""
    folder.write("summary.md", lambda path: write_text(path, markdown(facts)))
    folder.write("summary.json", lambda path: write_text(path, json.dumps(_plain(facts), indent=1) + "\n"))


def markdown(facts: Facts) -> str:
    """The page for people."""
    made = provenance()
    run = [("encoder", f"{facts.encoder}: {facts.parameters:,} parameters, features of {facts.features}"),
           ("input", f"layout {facts.layout}, stream {facts.stream}, {facts.frames} frames"),
           ("data", f"{facts.clips:,} clips, sources: {len(facts.data)}"),
           ("training", f"{facts.steps:,} steps of {facts.batch_size:,} clips, {facts.epochs:,} epochs, "
                        f"seed {facts.seed}"),
           ("time", f"{_duration(facts.seconds)}, {facts.clips_per_second:,.0f} clips/s"),
           ("machine", f"{facts.device}, {facts.precision}, processes: {facts.processes}"),
           ("code", ", ".join(f"{name} {value or 'unknown'}" for name, value in made.items()))]
    sources = [(source.uri, f"{source.clips:,}", f"{source.weight:g}", source.fingerprint) for source in facts.data]
    columns = list(dict.fromkeys(["step", *(name for row in facts.history for name in row)]))
    history = [[_number(row.get(name)) for name in columns] for row in facts.history]
    parts = [f"# Pretraining {facts.encoder} by {facts.objective}", _table(("", ""), run),
             "## Last metrics", _table(("metric", "value"), [(n, _number(v)) for n, v in facts.metrics.items()]),
             *(["## At each look", _table(columns, history)] if history else []),
             "## Data", _table(("source", "clips", "weight", "sha256"), sources),
             "## To repeat it", f"    {facts.command}"]
    return "\n\n".join(parts) + "\n"


def _plain(facts: Facts) -> dict[str, object]:
    """The same for JSON, which has no words for infinite and undefined numbers."""
    def finite(values: Mapping[str, float]) -> dict[str, float | None]:
        return {name: value if math.isfinite(value) else None for name, value in values.items()}

    return {**asdict(facts), "metrics": finite(facts.metrics), "history": [finite(row) for row in facts.history],
            "clips": facts.clips, "clips_per_second": facts.clips_per_second, "command": facts.command,
            "provenance": provenance()}


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    """Text from outside may hold what Markdown takes for the end of a cell, or a tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {left} s" if minutes else f"{seconds:.1f} s"
