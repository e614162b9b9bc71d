"""The numbers of an evaluation and the schema of ``results.json``.

``results.json`` holds, all accuracies as fractions:

* ``schema`` 2; ``command`` that reproduces the folder; ``config`` resolved; ``versions`` of Python and libraries
* ``benchmark``: ``name``, ``rule`` in words, and ``file`` beside the results that lists the split, with its ``sha256``
* ``data``: ``uri``, ``fingerprint``, ``layout``, ``classes``, clips labelled in the ``support`` and ``query`` splits or
  among the ``novel`` classes, and in the ``base``; ``persons`` of a clip that were used, and ``statistics``, which says
  whether whitening and calibration saw queries
* ``checkpoints``: of each ``path``, ``sha256``, ``spec`` of the encoder, ``frames`` and ``stream``
* ``draws``: ``seeds``, and under ``sha256`` for each k the hash of each draw's sorted ids, one a line; of N-way
  episodes the hash of all
* ``leakage``: null where a checkpoint does not say what it saw; else how many queries were ``checked``, how many of
  them are ``shared`` with the pretraining data, and some ``examples``
* ``selection``: how hyper-parameters were set
* ``rows``: per ``representation``, ``method`` and ``k`` (clips a class, or a share of the labels such as "1%"):
  ``accuracy`` of each draw or episode, averaged over initialisations; their ``mean`` and ``half_width`` of its 95 %
  t-interval (null for a single draw); ``mean_class``, the mean over classes; ``inits``, the mean of each training seed
  or random initialisation, and ``seeds_half_width`` of the t-interval over these (null for a single one);
  ``per_class``, the recall of each class over draws and initialisations (null for a class without queries, null as a
  whole for N-way episodes); ``transductive``, whether the method met the queries all at once
* ``differences``: per ``representation`` (`pretrained`, `fused`), ``method``, ``k`` and ``minus``, a control: ``mean``
  and ``half_width`` of the paired difference on the same draws
* ``all_labels``: per ``representation`` the accuracy, of the first initialisation, of the nearest neighbour (`knn`) and
  of a linear layer (`linear`) that are given every label of the support split
* ``published``: figures that others published on the benchmark, of other protocols and seeds, as adapt/published.py
  cites them
"""

from __future__ import annotations

import hashlib
import json
import platform
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy.stats import t as student

from adapt.published import Published
from skelcore.errors import InputError
from skelcore.files import write_text

CONTROLS = ("scratch", "uncalibrated", "statistics", "raw", "filled")
_LEARNT = ("pretrained", "fused")


@dataclass(frozen=True)
class Row:
    """One representation, head and k over the draws."""

    representation: str
    method: str
    k: int | str
    accuracy: list[float]
    mean: float
    half_width: float | None
    mean_class: float
    inits: list[float]
    seeds_half_width: float | None
    per_class: list[float | None] | None
    transductive: bool

    @property
    def name(self) -> str:
        return f"{self.representation}/{self.method}"

    @property
    def band(self) -> float | None:
        """The half width that is shown: over draws or, where the draw is a single, official one, over seeds."""
        return self.seeds_half_width if self.half_width is None else self.half_width


@dataclass(frozen=True)
class Difference:
    """A representation minus a control, paired by draw."""

    representation: str
    method: str
    k: int | str
    minus: str
    mean: float
    half_width: float | None


@dataclass(frozen=True)
class Benchmark:
    """The rule that was carried out, and the file beside the results that lists what it gave."""

    name: str
    rule: str
    file: str
    sha256: str

    @classmethod
    def of(cls, name: str, rule: str, path: Path) -> Benchmark:
        """The same of a file that is there."""
        return cls(name, rule, path.name, hashlib.sha256(path.read_bytes()).hexdigest())


@dataclass(frozen=True)
class Draws:
    """Seeds, and for each k the hash of each draw."""

    seeds: list[int]
    sha256: dict[str, list[str]]


@dataclass(frozen=True)
class Leakage:
    """How many of the queries that were checked are in the pretraining data."""

    checked: int
    shared: int
    examples: list[str]


class Results(BaseModel):
    """What ``results.json`` holds; see the module's docstring."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_: Literal[2] = Field(2, alias="schema")
    command: str
    config: dict[str, Any]
    versions: dict[str, str]
    benchmark: Benchmark
    data: dict[str, Any]
    checkpoints: list[dict[str, Any]]
    draws: Draws
    leakage: Leakage | None
    selection: str
    rows: list[Row] = Field(min_length=1)
    differences: list[Difference]
    all_labels: dict[str, dict[str, float]]
    published: list[Published]

    @property
    def classes(self) -> list[str]:
        return list(self.data["classes"])


def order(k: int | str) -> tuple[bool, int]:
    """Sort key: clips a class, ascending, then shares of the labels such as "5%"."""
    return isinstance(k, str), int(str(k).removesuffix("%"))


def column(k: int | str) -> str:
    """What a table's column is called."""
    return f"{k}-shot" if isinstance(k, int) else f"{k.removesuffix('%')} % of labels"


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Mean and half width of the two-sided Student t-interval of independent ``values`` (D,), D >= 2."""
    count = len(values)
    width = student.ppf((1 + level) / 2, count - 1) * values.std(ddof=1) / np.sqrt(count)
    return float(values.mean()), float(width)


def half_width(values: np.ndarray) -> float | None:
    """Half width of the 95 % t-interval of ``values`` (D,); None for a single one, which says nothing of its spread."""
    return interval(values)[1] if len(values) > 1 else None


def row(representation: str, method: str, k: int | str, accuracy: np.ndarray, mean_class: np.ndarray,
        per_class: np.ndarray | None = None, transductive: bool = False) -> Row:
    """A row from accuracies (I, D) of I initialisations or training seeds: a draw's value is its mean over these.

    ``mean_class`` (I, D) are means over classes; ``per_class`` (I, D, W) recalls, NaN for classes without queries.
    """
    values, inits = accuracy.mean(0), accuracy.mean(1)
    return Row(representation, method, k, values.tolist(), float(values.mean()), half_width(values),
               float(mean_class.mean()), inits.tolist(), half_width(inits),
               None if per_class is None else _recalls(per_class), transductive)


def _recalls(per_class: np.ndarray) -> list[float | None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        means = np.nanmean(per_class, (0, 1))
    return [None if np.isnan(each) else float(each) for each in means]


def differences(rows: Sequence[Row]) -> list[Difference]:
    """`pretrained` and `fused` minus each control, for every head and k."""
    found = {(each.representation, each.method, each.k): np.array(each.accuracy) for each in rows}
    return [Difference(representation, method, k, minus, float(paired.mean()), half_width(paired))
            for minus in CONTROLS for (representation, method, k), values in found.items()
            if representation in _LEARNT and (minus, method, k) in found
            for paired in [values - found[minus, method, k]]]


def shown(rows: Sequence[Row]) -> Row:
    """The row whose classes are looked at, by a rule without accuracies, which would be a choice made on queries: at
    the largest k, ``pretrained`` (else the first representation) with ``ridge`` (else the first inductive head)."""
    last = max((each.k for each in rows), key=order)
    return min((each for each in rows if each.k == last),
               key=lambda each: (each.representation != "pretrained", each.method != "ridge", each.transductive))


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {"python": platform.python_version(),
            **{name: metadata.version(name) for name in ("skelshot", "torch", "numpy", "scipy")}}


def write(path: Path, results: Results) -> None:
    """Write ``results.json``, an item of a list a line."""
    parts = [f"{json.dumps(key)}: {_lines(value)}" for key, value in results.model_dump(by_alias=True).items()]
    write_text(path, "{\n" + ",\n".join(parts) + "\n}\n")


def _lines(value: Any) -> str:
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(json.dumps(each, allow_nan=False) for each in value) + "\n]"
    return json.dumps(value, allow_nan=False)


def read(path: Path) -> Results:
    """The results of a file, or of the folder that holds it; raises InputError, in one line, for anything else."""
    file = path / "results.json" if path.is_dir() else path
    try:
        return Results.model_validate_json(file.read_bytes())
    except OSError as error:
        raise InputError(f"{file}: cannot read the results: {error.strerror}; skelshot adapt writes them") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(f"{file}: {where}: {first['msg']}; this is not a results.json of schema 2, which "
                         "skelshot adapt writes") from None
