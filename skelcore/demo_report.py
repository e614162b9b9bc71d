"""The demonstration's report: one self-contained HTML page on what was harvested, learnt and recognised."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from skelcore import shards
from skelcore.draw import viewer_html
from skelcore.files import write_text
from skelcore.pck import correct_keypoints
from skelcore.sequence import PoseSequence
from skelcore.shard_store import ShardStore

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; max-width: 1100px; margin: 2rem auto; padding: 0 1rem }
h1 { margin-bottom: 0 } h2 { margin-top: 2.5rem; border-bottom: 1px solid #d8dee4 }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #eaeef2 }
th:first-child, td:first-child { text-align: left } tr.pretrained td { font-weight: 600 } img { max-width: 100% }
.note { color: #57606a } code { background: #f3f5f7; padding: .1rem .3rem }
"""


def write(path: Path, stages: Mapping[str, Path], truth: Mapping[str, PoseSequence],
          seconds: Mapping[str, float]) -> None:
    """Write the page from the stages' output folders; ``truth`` maps a clip's file stem to its exact poses."""
    summary = json.loads((stages["harvest"] / "summary.json").read_text())
    results = json.loads((stages["adapt"] / "results.json").read_text())
    store = shards.read(stages["harvest"] / "shards")
    parts = [
        "<h1>SkelShot</h1>",
        '<p class="note">Rendered people, served over HTTP, harvested by a real pose model; an encoder pretrained on '
        "the poses without labels; k-shot recognition of other people in other views.</p>",
        "<h2>Harvested</h2>", _counts(summary), _agreement(store, truth), _gallery(store),
        "<h2>Pretrained</h2>", _picture(training_curves(stages["pretrain"]), "training curves"),
        "<h2>Recognised from k clips an action</h2>", _table(results),
        *(_picture((stages["adapt"] / name).read_bytes(), what)
          for name, what in (("accuracy.png", "accuracy against k"), ("confusion.png", "confusion matrix"))),
        f"<h2>Reproduce</h2><p><code>{html.escape(results['command'])}</code></p>",
        _grid(["stage", "seconds"], [[name, f"{value:.0f}"] for name, value in seconds.items()]),
    ]
    write_text(path, '<!doctype html><html lang="en"><meta charset="utf-8"><title>SkelShot demonstration</title>'
                     f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n")


def agreement(store: ShardStore, truth: Mapping[str, PoseSequence]) -> tuple[float, int]:
    """PCK@0.2 of the visible limb joints over the harvested tracks whose truth is known, and the number of those."""
    right, count, tracks = 0, 0, 0
    for index in range(len(store)):
        name = Path(str(store.document(index).source.get("url"))).stem
        if name in truth:
            correct, counts = correct_keypoints(store[index], truth[name])
            right, count, tracks = right + int(correct[counts].sum()), count + int(counts.sum()), tracks + 1
    return right / max(count, 1), tracks


def training_curves(folder: Path) -> bytes:
    """Loss terms, feature health and kNN accuracy against the step, as PNG, from the TensorBoard events of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()["scalars"]
    panels = [("loss terms", [tag for tag in tags if tag.startswith("loss/") and tag != "loss/total"]),
              ("effective rank of the features", ["features/effective_rank"]),
              ("kNN accuracy (labels only report)", ["knn/accuracy"])]
    figure = Figure(figsize=(11, 3), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for name in names:
            if name in tags:
                points = events.Scalars(name)
                axes.plot([p.step for p in points], [p.value for p in points], label=name.partition("/")[2])
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.25)
        if len(names) > 1:
            axes.set_yscale("log")
            axes.legend(frameon=False)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _counts(summary: Mapping[str, Any]) -> str:
    reasons = [[f"{state}: {reason}", str(count)] for state in ("rejected", "failed")
               for reason, count in summary[f"{state}_by_reason"].items()]
    rows = [[name, str(summary[name])]
            for name in ("sources", "ok", "rejected", "failed", "pending", "tracks", "frames")]
    return _grid(["", "count"], [*rows, *reasons])


def _agreement(store: ShardStore, truth: Mapping[str, PoseSequence]) -> str:
    share, tracks = agreement(store, truth)
    return (f"<p>PCK@0.2 of the harvested limb joints against the exact poses: <b>{share:.3f}</b> "
            f"({tracks} tracks; threshold 0.2 torso lengths; joints truly in view).</p>")


def _gallery(store: ShardStore, most: int = 24) -> str:
    """Animated skeletons spread over the store, so that every class has its turn."""
    order = np.argsort(store.labels, kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, min(most, len(order))).astype(int)]
    names = [store.classes[store.labels[i]] if store.labels[i] >= 0 else "unlabelled" for i in chosen]
    return viewer_html([store[int(i)] for i in chosen], [name.replace("_", " ") for name in names])


def _table(results: Mapping[str, Any]) -> str:
    shots = sorted({row["k"] for row in results["rows"]})
    cells = {(row["representation"], row["method"], row["k"]):
             f"{100 * row['mean']:.1f} ± {100 * row['half_width']:.1f}" for row in results["rows"]}
    names = dict.fromkeys((row["representation"], row["method"]) for row in results["rows"])
    rows = [[f"{representation} / {method}", *(cells[representation, method, k] for k in shots)]
            for representation, method in names]
    draws = len(results["rows"][0]["accuracy"])
    note = (f'<p class="note">Accuracy in percent, mean ± 95 % t-interval over {draws} nested draws; '
            "<i>scratch</i> is the same encoder at random weights with calibrated batch norm, "
            "<i>uncalibrated</i> that with batch norm as initialised, <i>raw</i> the resampled coordinates.</p>")
    return _grid(["features / head", *(f"{k}-shot" for k in shots)], rows) + note


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(f'<tr class="{html.escape(row[0].split()[0])}">'
                   + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _picture(png: bytes, what: str) -> str:
    return f'<img alt="{html.escape(what)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
