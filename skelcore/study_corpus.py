"""The study's unlabelled corpus: pickles and harvested videos, as they are and corrupted by a detector's errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from skelcore import demo
from skelcore.annotations import write_pyskl
from skelcore.config import Config
from skelcore.errors import RunError
from skelcore.files import write_text
from skelcore.sequence import PoseSequence
from skelcore.sources import Source, Sources, open_part
from skelcore.store import Store
from skelcore.views.detector import DETECTORS, corrupt
from skelcore.views.normalise import body_scale

Condition = Literal["clean", "noisy"]


class Corpus(Config):
    """What the study's encoders are pretrained on, without labels."""

    sources: Sources = Field(description="sets of clips")
    videos: list[str] = Field([], description="videos and folders of them that are harvested first")
    mannequin: bool = Field(False, description="render the demonstration's people and harvest those, too")
    layout: str = Field("penn13", description="layout that all are trained in")
    seed: int = Field(0, ge=0, description="seed of the corruption")


def prepare(corpus: Corpus, folder: Path) -> None:
    """Make ``FOLDER/CONDITION/sources.json`` for both conditions; what is there is not made again."""
    sources = [*corpus.sources, *(Source(uri=str(path)) for path in _harvested(corpus, folder))]
    if not (folder / "clean/sources.json").exists():
        _list(folder / "clean", sources)
    if not (folder / "noisy/sources.json").exists():
        noisy = []
        for number, source in enumerate(sources):
            path = folder / f"noisy/{number}.pkl"
            part = open_part(source)
            write_pyskl(path, list(corrupted(part.store, corpus.seed + number)), {}, classes=list(part.store.classes))
            noisy.append(Source(uri=str(path), data_layout=part.store.layout.name, weight=source.weight))
        _list(folder / "noisy", noisy)


def corrupted(store: Store, seed: int) -> Iterator[PoseSequence]:
    """The clips with the errors, gaps and scores of a BlazePose detector, each by a generator of its own."""
    for number in range(len(store)):
        clip = store[number]
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        points = torch.from_numpy(clip.keypoints)[None]
        scores = torch.from_numpy(clip.scores)[None]
        size = body_scale(points, scores)
        moved, seen = corrupt(points.movedim(-1, 1), scores, store.layout, DETECTORS["blazepose"], size,
                              torch.ones(1, dtype=torch.bool), 0.1, generator)
        yield replace(clip, keypoints=np.ascontiguousarray(moved.movedim(1, -1)[0].numpy()), scores=seen[0].numpy())


def _list(folder: Path, sources: list[Source]) -> None:
    write_text(folder / "sources.json", json.dumps([source.model_dump(mode="json") for source in sources], indent=1))


def _harvested(corpus: Corpus, folder: Path) -> list[Path]:
    """Folders of shards of the corpus' videos."""
    found = []
    settings = demo.DemoConfig()
    for name, wanted in (("videos", bool(corpus.videos)), ("mannequin", corpus.mannequin)):
        if not wanted:
            continue
        output = folder / name
        found.append(output)
        if (output / "summary.json").exists():
            continue
        sources = corpus.videos
        if name == "mannequin":
            demo.render(settings, folder / "rendered")
            sources = [str(folder / "rendered")]
        status = import_module("harvest.run").main([str(demo.CONFIGS / "harvest.yaml"), f"output={output}",
                                                    f"sources={json.dumps(sources)}"])
        if status:
            raise RunError(f"the harvest of {', '.join(sources)} ended with status {status}")
    return found
