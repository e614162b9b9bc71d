"""The study's tables, from the results.json of its runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from skelcore.errors import InputError
from skelcore.files import write_text

BEGIN, END = "<!-- study: begin -->", "<!-- study: end -->"
HEAD = "rbf"  # fixed, not the best one on the queries
COORDINATES = ("raw", "filled", "statistics")


@dataclass(frozen=True)
class Line:
    """A row of a table: ``seeds`` training seeds, and for each column their values (S,) as fractions."""

    name: tuple[str, ...]
    seeds: int
    values: dict[str, list[float]]


def write(path: str | Path, output: Path, evaluations: Sequence[str], shots: Sequence[int]) -> None:
    """Put the tables between the marks of a Markdown file, or into a new one; raises InputError for a file without."""
    path = Path(path)
    text = path.read_text() if path.exists() else f"# Results\n\n{BEGIN}\n{END}\n"
    if BEGIN not in text or END not in text:
        raise InputError(f"table={path}: has no {BEGIN} and {END} between which the tables go")
    before, _, rest = text.partition(BEGIN)
    body = "\n\n".join(part for name in evaluations for part in _evaluation(output, name, shots))
    write_text(path, f"{before}{BEGIN}\n\n{body}\n\n{END}{rest.partition(END)[2]}")


def _evaluation(output: Path, name: str, shots: Sequence[int]) -> list[str]:
    parts = [f"## {name}"]
    controls = _controls(output, name, shots)
    if controls:
        parts += ["Controls.", _table(("control", "encoder"), controls, shots)]
    for condition, words in (("clean", "the corpus as it is"), ("noisy", "the corpus with a detector's errors")):
        for kind, what in (("pretrained", "frozen features"), ("fused", "frozen features beside the statistics")):
            lines = _pretrained(output, name, condition, kind, shots)
            if lines:
                parts += [f"Pretrained on {words}: {what}.", _table(("objective", "encoder"), lines, shots)]
    return parts


def _pretrained(output: Path, name: str, condition: str, kind: str, shots: Sequence[int]) -> list[Line]:
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for path in sorted((output / condition).glob(f"*/{name}/results.json")):
        objective, _, rest = path.parents[1].name.partition("-")
        found.setdefault((objective, rest.rpartition("-")[0]), []).append(_read(path))
    return [Line(key, len(each), _columns(each, kind, HEAD, shots)) for key, each in found.items()]


def _controls(output: Path, name: str, shots: Sequence[int]) -> list[Line]:
    paths = sorted((output / "controls").glob(f"*/{name}/results.json"))
    read = {path.parents[1].name: _read(path) for path in paths}
    lines = [Line((kind, "-"), 1, _columns([next(iter(read.values()))], kind, HEAD, shots))
             for kind in COORDINATES if read]
    for encoder, result in read.items():
        for kind, head, label in (("scratch", HEAD, "random, calibrated"),
                                  ("uncalibrated", HEAD, "random, as initialised"),
                                  ("scratch", "finetune", "trained on the k shots")):
            values = _columns([result], kind, head, shots)
            if any(values[str(k)] for k in shots):
                lines.append(Line((label, encoder), 1, values))
    return lines


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def _columns(results: Sequence[dict[str, Any]], kind: str, head: str, shots: Sequence[int]) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {}
    for each in ("knn", "linear"):
        values[each] = [found[each] for result in results if head == HEAD and (found := result["all_labels"].get(kind))]
    for k in shots:
        values[str(k)] = [row["mean"] for result in results for row in result["rows"]
                          if (row["representation"], row["method"], row["k"]) == (kind, head, k)]
    return values


def _table(names: tuple[str, ...], lines: Sequence[Line], shots: Sequence[int]) -> str:
    columns = ["knn", "linear", *map(str, shots)]
    header = [*names, "seeds", "kNN", "linear", *(f"{k}-shot" for k in shots)]
    rule = [*["---"] * len(names), *["---:"] * (len(header) - len(names))]
    rows = [[*line.name, str(line.seeds), *(_cell(line.values[column]) for column in columns)] for line in lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def _cell(values: Sequence[float]) -> str:
    """Percent; with the half width of the 95 % t-interval over training seeds, where there are several."""
    if not values:
        return ""
    mean = 100 * float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.1f}"
    width = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{mean:.1f} ± {100 * width:.1f}"
