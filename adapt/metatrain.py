"""Meta-training: an encoder that has learnt from labelled clips of base classes to tell classes it has never seen.

adapt/metatrain.py CONFIG data=... checkpoint=... base_classes=[...] output=... [key=value ...]
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt, field_validator
from torch import Tensor, nn

from adapt import base_clips, checks, losses, represent, tasks
from adapt.features import Clips, encode, untrained
from adapt.source import Source, load
from adapt.tasks import Tasks
from adapt.tuning import schedule
from skelcore import checkpoint, command, layer_decay
from skelcore.config import Config, to_yaml
from skelcore.encoders import Encoder
from skelcore.errors import InputError, RunError
from skelcore.files import write_text
from skelcore.progress import Progress
from skelcore.seen import seen, together
from skelcore.store import open_store
from skelcore.views import ViewConfig, Views

NAME = "checkpoint.pt"
CLIP = 5.0  # largest norm of the gradient
_EPISODES, _QUERIES = 300, 10  # of a look at the validation classes; queries a class, at most


class MetatrainConfig(Config):
    """Which clips of which classes, from which encoder, and by which loss."""

    data: str = Field(description="labelled clips: PYSKL pickle, folder of .skeleton files, or pose shards")
    data_layout: str | None = Field(None, description="layout of a pickle whose joint count does not tell it")
    split: str | None = Field(None, description="split whose clips may be used; null: all")
    base_of: str | None = Field(None, description="splits.json of a few-shot evaluation: only its base clips are "
                                                  "trained on, and none of its other clips looked at")
    base_classes: list[str] | None = Field(None, description="classes that are trained on; null: all of those clips, "
                                                             "without validation_classes")
    validation_classes: list[str] = Field([], description="classes on which 1-shot accuracy is watched, and the best "
                                                          "step chosen; none: the last step is kept")
    checkpoint: str = Field(description="pretraining checkpoint")
    init: Literal["checkpoint", "random"] = Field("checkpoint", description="random: its architecture with random "
                                                                            "weights, as a control")
    output: str = Field("metatrained", description="folder for checkpoint.pt, which adapt/run.py reads, and "
                                                   "config.yaml")

    objective: Literal["supcon", "protonet"] = Field("supcon", description="supervised contrast of all clips of a "
                                                                           "batch, or queries against prototypes")
    temperature: float = Field(0.1, gt=0, description="supcon: temperature")
    way: int = Field(16, ge=2, description="classes of a batch")
    shot: PositiveInt = Field(1, description="clips a class that make its prototype; supcon: clips like the others")
    queries: PositiveInt = Field(1, description="further clips a class")
    views: ViewConfig = ViewConfig()
    steps: PositiveInt = Field(1000, description="steps, of one batch each: linear warm-up, cosine decay")
    lr: float = Field(1e-3, gt=0, description="peak learning rate of AdamW")
    weight_decay: float = Field(0.05, ge=0, description="not applied to biases and normalisation")
    look_every: PositiveInt = Field(100, description="steps between two looks at validation_classes")
    seed: int = Field(0, ge=0, description="seed of random weights, batches, views and looks")

    project: bool = Field(False, description="look at 3D poses from the camera, in 2D, for encoders of 2D poses")
    map_layout: bool = Field(False, description="convert the data to the checkpoint's layout when the two differ")
    batch_size: PositiveInt = Field(128, description="clips of a forward pass of a look; does not change the result")
    device: str = Field("auto", description="auto (GPU when there is one), cpu, cuda, cuda:0, ...")

    @field_validator("base_classes", "validation_classes", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        """Classes may be named by digits, which YAML takes for numbers."""
        return [str(each) if type(each) is int else each for each in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Work:
    """What is trained on what: ``members`` are rows of ``source.clips`` of each of the base ``classes``, ``validation``
    (n,) those of all validation classes, and ``looks`` episodes of positions in these (None: nothing is watched)."""

    source: Source
    classes: tuple[str, ...]
    members: tuple[np.ndarray, ...]
    validation: np.ndarray
    looks: Tasks | None


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(sys.argv[1:] if argv is None else argv, MetatrainConfig, __doc__ or "", plan, execute)


def plan(config: MetatrainConfig) -> str:
    """What the training would do, after the checks that it begins with."""
    work = prepare(config)
    clips = sum(map(len, work.members))
    return (f"{config.objective} on {clips} clips of {len(work.members)} base classes, {config.steps} steps of "
            f"{config.way} classes x {config.shot + config.queries} clips; {len(work.validation)} clips of "
            f"{len(config.validation_classes)} validation classes; writes {Path(config.output) / NAME}")


def execute(config: MetatrainConfig) -> None:
    """Train, and write the checkpoint last, so that a folder with one is complete."""
    work = prepare(config)
    if work.source.note:
        print(work.source.note)
    encoder, history, chosen = train(work, config)
    folder = Path(config.output)
    write_text(folder / "config.yaml", to_yaml(config))
    _save(folder / NAME, work, config, encoder, history, chosen)
    watched = [f"{100 * each['validation']:.1f} %" for each in (history[0], chosen) if "validation" in each]
    gained = f" (validation 1-shot accuracy {watched[0]} before, {watched[1]} at that step)" if watched else ""
    print(f"meta-trained by {config.objective}, step {chosen['step']:.0f}{gained} -> {folder / NAME}")


def prepare(config: MetatrainConfig) -> Work:
    """Open and check all that the training needs, and write nothing; raises InputError for what is wrong."""
    folder = Path(config.output)
    checks.writable("output", folder)
    given = Path(config.checkpoint)
    if given.exists() and (folder / NAME).exists() and given.samefile(folder / NAME):
        raise InputError(f"output={config.output} would overwrite checkpoint={config.checkpoint}; name another folder")
    store = open_store(config.data, config.data_layout)
    found = base_clips.choose(store, config.split, config.base_of, config.base_classes, config.validation_classes)
    used = represent.view(store, found.positions, config.project)
    source = load(config.checkpoint, used, map_layout=config.map_layout, batch_size=config.batch_size,
                  device=checks.device(config.device))
    members = found.members(config.shot + config.queries)
    if len(members) < config.way:
        raise InputError(f"way={config.way}: only {len(members)} base classes; lower way to at most that")
    return Work(source, found.base, members, found.validation_rows, found.looks(_EPISODES, _QUERIES, config.seed))


def train(work: Work, config: MetatrainConfig) -> tuple[Encoder, list[dict[str, float]], dict[str, float]]:
    """The encoder, what each look found, and the look whose weights are kept; bit for bit the same again on a CPU.

    Raises RunError for a loss or gradient that is not finite.
    """
    clips = work.source.clips
    encoder = _start(work.source, config)
    options = layer_decay.groups(((parameter, 1.0) for parameter in encoder.parameters()), config.weight_decay)
    optimizer = torch.optim.AdamW(options, config.lr)
    generator = torch.Generator(clips.device).manual_seed(config.seed)
    history = [_look(encoder, work, 0)]
    chosen, best = history[0], copy.deepcopy(encoder)
    with Progress(config.steps, "steps") as progress:
        for step in range(1, config.steps + 1):
            for group in optimizer.param_groups:
                group["lr"] = config.lr * schedule((step - 0.5) / config.steps)
            loss = _step(encoder.train(), optimizer, clips, draw(work.members, config, step), config, generator)
            if not math.isfinite(loss):
                raise RunError(f"the loss or its gradient is {loss} at step {step}: lower lr")
            if step == config.steps or (work.looks is not None and step % config.look_every == 0):
                history.append({**_look(encoder, work, step), "loss": loss})
                if history[-1].get("validation", math.inf) > chosen.get("validation", 0):
                    chosen, best = history[-1], copy.deepcopy(encoder)
            progress.update(1, loss=loss, **({"validation": history[-1]["validation"]} if work.looks else {}))
    return best.eval(), history, chosen


def draw(members: Sequence[np.ndarray], config: MetatrainConfig, step: int) -> np.ndarray:
    """Rows (way, shot + queries) of different clips of different classes, from the seed and the number of the step."""
    generator = np.random.default_rng([config.seed, step])
    classes = generator.choice(len(members), config.way, replace=False)
    return np.stack([generator.choice(members[each], config.shot + config.queries, replace=False) for each in classes])


def _start(source: Source, config: MetatrainConfig) -> Encoder:
    encoder = source.encoder if config.init == "checkpoint" else untrained(source.encoder, config.seed)
    return copy.deepcopy(encoder).requires_grad_(True)


def _step(encoder: Encoder, optimizer: torch.optim.Optimizer, clips: Clips, rows: np.ndarray, config: MetatrainConfig,
          generator: torch.Generator) -> float:
    """Train on one batch; returns its loss, or the norm of its gradient where that is not finite."""
    batch = clips.rows(rows.flatten())
    keypoints, scores = Views(config.views)(batch.keypoints, batch.scores, clips.layout, generator)
    loss = _loss(encoder(*encoder.inputs(keypoints, scores, clips.stream)), config)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(encoder.parameters(), CLIP)
    optimizer.step()
    return float(loss.detach()) if torch.isfinite(norm) else float(norm)


def _loss(features: Tensor, config: MetatrainConfig) -> Tensor:
    """Of the features (way * (shot + queries), F) of a batch, class by class."""
    each = features.unflatten(0, (config.way, -1))
    if config.objective == "protonet":
        return losses.prototypical(each[:, :config.shot], each[:, config.shot:])
    labels = torch.arange(config.way, device=features.device).repeat_interleave(each.shape[1])
    # Centred, as the heads see features: without, unit vectors of rectified features are all alike.
    return losses.supcon(features - features.mean(0), labels, config.temperature)


def _look(encoder: Encoder, work: Work, step: int) -> dict[str, float]:
    """1-shot accuracy on the validation classes, whose features are centred on their mean; nothing without them."""
    if work.looks is None:
        return {"step": step}
    clips = work.source.clips.only(work.validation)
    features = encode(encoder, clips.inputs(encoder))
    found = tasks.accuracy("prototype", work.looks, torch.from_numpy(features - features.mean(0)))
    return {"step": step, "validation": float(found.mean())}


def _save(path: Path, work: Work, config: MetatrainConfig, encoder: Encoder, history: list[dict[str, float]],
          chosen: dict[str, float]) -> None:
    meta, clips = work.source.meta, work.source.clips
    before = meta.get("seen") if config.init == "checkpoint" else torch.zeros(0, dtype=torch.int64)
    carried: dict[str, Any] = {key: meta[key] for key in ("coordinates",) if key in meta}
    selection = {"classes": config.validation_classes, **chosen} if config.validation_classes else None
    checkpoint.save_encoder(path, encoder, clips.frames, clips.stream, persons=clips.persons, fill=clips.fill,
                            step=int(chosen["step"]), base_classes=list(work.classes), selection=selection,
                            history=history, seen=together(before, seen(clips.store)),
                            config=config.model_dump(mode="json"), **carried)


if __name__ == "__main__":
    sys.exit(main())
