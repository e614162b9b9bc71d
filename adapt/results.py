"""The numbers of an evaluation and the schema of ``results.json``.

``results.json`` holds, all accuracies as fractions:

* ``schema`` 1; ``command`` that reproduces the folder; ``config`` resolved; ``versions`` of Python and libraries
* ``data``: ``uri``, ``fingerprint``, ``layout``, ``classes``, clips labelled in the ``support`` and ``query`` splits,
  ``persons`` of a clip that were used, and ``statistics``, which says whether whitening and calibration saw queries
* ``checkpoint``: null, or ``path``, ``sha256``, ``spec`` of the encoder, ``frames`` and ``stream``
* ``draws``: ``seeds``, and under ``sha256`` for each k the hash of each draw's sorted ids, one a line
* ``rows``: per ``representation``, ``method`` and ``k``: ``accuracy`` of each draw, their ``mean`` and ``half_width``
  of its 95 % t-interval, ``mean_class`` (the mean over classes), and ``inits``, the mean of each random initialisation
* ``all_labels``: per ``representation`` the accuracy, of the first initialisation, of the nearest neighbour (`knn`) and
  of a linear layer (`linear`) that are given every label of the support split
* ``differences``: per ``method``, ``k`` and ``minus``: ``mean`` and ``half_width`` of the paired difference between the
  pretrained encoder and that control on the same draws
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from skelcore.files import write_text

SCHEMA = 1


@dataclass(frozen=True)
class Row:
    """One representation, head and k over the draws."""

    representation: str
    method: str
    k: int
    accuracy: list[float]
    mean: float
    half_width: float
    mean_class: float
    inits: list[float]

    @property
    def name(self) -> str:
        return f"{self.representation}/{self.method}"


@dataclass(frozen=True)
class Difference:
    """Pretrained minus a control, paired by draw."""

    method: str
    k: int
    minus: str
    mean: float
    half_width: float


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Mean and half width of the two-sided Student t-interval of independent ``values`` (D,), D >= 2."""
    count = len(values)
    width = student.ppf((1 + level) / 2, count - 1) * values.std(ddof=1) / np.sqrt(count)
    return float(values.mean()), float(width)


def row(representation: str, method: str, k: int, accuracy: np.ndarray, mean_class: np.ndarray) -> Row:
    """A row from accuracies (I, D) of I initialisations: a draw's value is its mean over the initialisations."""
    values = accuracy.mean(0)
    mean, half_width = interval(values)
    return Row(representation, method, k, values.tolist(), mean, half_width, float(mean_class.mean()),
               accuracy.mean(1).tolist())


def differences(rows: list[Row]) -> list[Difference]:
    """Pretrained minus each control for every head and k."""
    found = {(each.representation, each.method, each.k): np.array(each.accuracy) for each in rows}
    return [Difference(method, k, minus, *interval(values - found[minus, method, k]))
            for minus in ("scratch", "uncalibrated", "statistics", "raw", "filled")
            for (representation, method, k), values in found.items()
            if representation == "pretrained" and (minus, method, k) in found]


def shown(rows: Sequence[Row]) -> Row:
    """The row whose confusion matrix is drawn, by a rule without accuracies, which would be a choice made on queries:
    at the largest k, ``pretrained`` (else the first representation) with ``ridge`` (else the first head)."""
    last = [each for each in rows if each.k == max(other.k for other in rows)]
    return min(last, key=lambda each: (each.representation != "pretrained", each.method != "ridge"))


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {"python": platform.python_version(),
            **{name: metadata.version(name) for name in ("skelshot", "torch", "numpy", "scipy")}}


def write(path: Path, command: str, config: dict[str, Any], data: dict[str, Any], checkpoint: dict[str, Any] | None,
          draws: dict[str, Any], rows: list[Row], all_labels: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Write ``results.json`` and return its content."""
    content = {"schema": SCHEMA, "command": command, "config": config, "versions": versions(), "data": data,
               "checkpoint": checkpoint, "draws": draws, "rows": [asdict(each) for each in rows],
               "all_labels": all_labels, "differences": [asdict(each) for each in differences(rows)]}
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return content
