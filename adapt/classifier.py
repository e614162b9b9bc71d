"""Classifier: what a few clips of each class taught, as one file that needs nothing else.

The rule, fixed beforehand on the training splits of Penn Action and JHMDB (tasks of 3 to 10 classes, 1 to 10 clips):

* features of the frozen encoder beside kinematic statistics, each block of the same share of the distance (``fused`` of
  adapt/run.py); up to four clips a class the encoder's mean over the body, from five on its mean and deviation over
  time by part of the body, which then are ahead;
* every block centred on the support's own mean. The encoder's features are also divided by their spread over the
  support, which is drawn towards the mean spread as if five more clips had that: with few clips, spreads are noise;
* kernel ridge regression (``methods/rbf.py``) at every k. Its scores have the share of each class in the support
  subtracted, without which classes of few clips lose to those of many (10 points with 1 clip against 5);
* unknown is what lies further from every support clip than clips of known classes do, measured by how far that support
  clip is from other classes: one class far from the rest then does not make everything near to the others look known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from adapt import features, kinematics, source
from adapt.calibration import Answers, Calibration, calibrate
from adapt.library import Poses
from adapt.memory import Memory
from adapt.methods import rbf
from adapt.source import Source
from skelcore import checkpoint, layouts
from skelcore import config as configs
from skelcore.errors import InputError
from skelcore.layouts import Layout
from skelcore.sequence import PoseSequence

_VERSION = 1
_FRAMES = 32  # of the statistics, as in adapt/run.py
_SHRINKAGE = 5.0  # clips of mean spread
_MANY = 5  # clips a class from which parts of the body are told apart


@dataclass(frozen=True)
class Head:
    """Rescaling and kernel ridge regression: blocks of features (n, F_i) -> scores (n, W) and novelties (n,).

    ``means`` and ``scales`` (F_i,) are those of each block, ``support`` (S, F) the rescaled support, ``targets``
    (S, W) one-hot. A novelty is the least, over support clips, of the squared distance to one over the median squared
    distance from that one to those of other classes.
    """

    means: tuple[Tensor, ...]
    scales: tuple[Tensor, ...]
    support: Tensor
    targets: Tensor

    @classmethod
    def fit(cls, blocks: Sequence[Tensor], targets: Tensor) -> Head:
        """Learn from a support of at least two clips; the last block is the encoder's."""
        means = tuple(block.mean(0) for block in blocks)
        scales = []
        for number, (block, mean) in enumerate(zip(blocks, means, strict=True)):
            scale = _spread(block).reciprocal() if number == len(blocks) - 1 else torch.ones_like(mean)
            norm = ((block - mean) * scale).square().sum(1).mean().sqrt().clamp(min=1e-12)
            scales.append(scale / norm)
        return cls(means, tuple(scales), _joined(blocks, means, scales), targets)

    def __call__(self, blocks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        queries = _joined(blocks, self.means, self.scales)
        scores = rbf.fit(self.support[None], self.targets)(queries)[0] - self.targets.mean(0)
        return scores, (_squared(queries, self.support) / self._apart()).min(1).values

    def _apart(self) -> Tensor:
        """Median squared distance (S,) from each support clip to those of other classes."""
        others = self.targets @ self.targets.T == 0
        distances = torch.where(others, _squared(self.support, self.support), torch.nan)
        return distances.nanmedian(1).values.clamp(min=1e-12)


@dataclass(frozen=True)
class Classifier:
    """A frozen encoder, a head on it, and what its answers are worth.

    ``poses`` says how videos were read, ``window`` is the length of a support clip in seconds (median), ``pool`` how
    features are averaged, ``support`` names the clips: class, file name and sha256 of each.
    """

    source: Source
    classes: tuple[str, ...]
    head: Head
    calibration: Calibration
    poses: Poses
    window: float
    pool: str
    support: tuple[dict[str, str], ...] = ()

    @classmethod
    def learn(cls, path: str, clips: Sequence[PoseSequence], labels: Sequence[int], classes: Sequence[str],
              poses: Poses, support: Sequence[dict[str, str]] = (), device: torch.device | str = "cpu") -> Classifier:
        """Learn from one-person clips with ``labels`` (S,), some of every class, with a checkpoint's encoder.

        Raises InputError for a checkpoint that does not fit the poses.
        """
        encoder = _open(path, layouts.get(poses.layout), device)
        known = torch.tensor(labels)
        pool = "parts" if int(torch.bincount(known).min()) >= _MANY else "mean"
        blocks, targets = _blocks(encoder, clips, pool), one_hot(known, len(classes)).float()

        def fit(rows: Tensor) -> Answers:
            head = Head.fit([block[rows] for block in blocks], targets[rows])
            return lambda asked: head([block[asked] for block in blocks])

        window = float(torch.tensor([seconds(clip) for clip in clips]).quantile(0.5))
        return cls(encoder, tuple(classes), Head.fit(blocks, targets), calibrate(known, fit), poses, window, pool,
                   tuple(support))

    def __call__(self, clips: Sequence[PoseSequence]) -> tuple[Tensor, Tensor]:
        """Probabilities (n, W) of one-person clips, and novelties (n,) of which those above 1 are unknown."""
        scores, novelty = self.head(_blocks(self.source, clips, self.pool))
        return torch.softmax(scores / self.calibration.temperature, 1), novelty / self.calibration.threshold

    def save(self, path: str | Path) -> None:
        """Write the file: a checkpoint of the encoder (see ``checkpoint.save_encoder``) with the rest beside it."""
        meta = {name: self.source.meta[name] for name in ("fill", "coordinates") if name in self.source.meta}
        head = {"means": list(self.head.means), "scales": list(self.head.scales), "support": self.head.support,
                "targets": self.head.targets}
        encoder = self.source.encoder
        checkpoint.save_encoder(path, encoder, self.source.clips.frames, self.source.clips.stream, persons=1, **meta,
                                classifier={"version": _VERSION, "classes": list(self.classes), "head": head,
                                            "calibration": asdict(self.calibration), "poses": self.poses.record(),
                                            "window": self.window, "pool": self.pool, "support": list(self.support)})

    @classmethod
    def load(cls, path: str, device: torch.device | str = "cpu") -> Classifier:
        """Read what ``save`` wrote; raises InputError for any other file."""
        kept = checkpoint.load(path).get("classifier")
        if not isinstance(kept, dict) or kept.get("version") != _VERSION:
            raise InputError(f"model={path}: no model of `skelshot predict`, version {_VERSION}; a checkpoint of "
                             "pretrain goes with support=DIR and checkpoint=")
        try:
            poses = configs.build(Poses, kept["poses"], f"model={path}: poses")
            head = Head(tuple(kept["head"]["means"]), tuple(kept["head"]["scales"]), kept["head"]["support"],
                        kept["head"]["targets"])
            model = cls(_open(path, layouts.get(poses.layout), device), tuple(kept["classes"]), head,
                        Calibration(**kept["calibration"]), poses, kept["window"], kept["pool"],
                        tuple(kept["support"]))
            sane = model._is_sane()
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            raise InputError(f"model={path}: damaged: {type(error).__name__}: {error}") from None
        if not sane:
            raise InputError(f"model={path}: damaged: its parts do not fit together")
        return model

    def _is_sane(self) -> bool:
        """Whether the parts fit together, and numbers are numbers; tried on a clip in which nothing is seen."""
        head, joints = self.head, len(layouts.get(self.poses.layout))
        blank = PoseSequence(np.zeros((1, 2, joints, 2)), np.zeros((1, 2, joints)), layouts.get(self.poses.layout))
        sizes = [block.shape[1] for block in _blocks(self.source, [blank], self.pool)]
        return (self.pool in ("mean", "parts") and 0 < self.window < float("inf")
                and [len(mean) for mean in head.means] == [len(scale) for scale in head.scales] == sizes
                and head.support.shape == (len(head.targets), sum(sizes))
                and head.targets.shape[1] == len(set(self.classes)) == len(self.classes)
                and all(bool(each.isfinite().all()) for each in (*head.means, *head.scales, head.support, head.targets))
                and self.calibration.temperature > 0 and self.calibration.threshold > 0)


def seconds(clip: PoseSequence) -> float:
    """Length of a clip in time."""
    return clip.frames / (clip.fps or 1.0)


def check(path: str, poses: Poses) -> str:
    """What there is to say of a checkpoint for poses that are read like this; raises InputError for a misfit."""
    return _open(path, layouts.get(poses.layout), "cpu").note


def _open(path: str, layout: Layout, device: torch.device | str) -> Source:
    return source.load(path, Memory((), layout), persons=1, map_layout=True, device=device)


def _blocks(encoder: Source, clips: Sequence[PoseSequence], pool: str) -> list[Tensor]:
    """Features (n, F_i): three blocks of statistics in the clips' layout, then the encoder's."""
    store = Memory(clips, encoder.clips.store.layout)
    found = kinematics.statistics(features.Clips(store, _FRAMES, 1, store.layout))
    found.append(features.encode(encoder.encoder, encoder.of(store).clips.inputs(encoder.encoder), pool))
    return [torch.from_numpy(block) for block in found]


def _spread(block: Tensor) -> Tensor:
    """Standard deviation (F,) of each feature over the support (S, F), drawn towards the mean one."""
    variance = block.var(0, correction=0)
    mean = variance.mean()
    return ((len(block) * variance + _SHRINKAGE * mean) / (len(block) + _SHRINKAGE)).sqrt().clamp(min=1e-12)


def _squared(left: Tensor, right: Tensor) -> Tensor:
    """Squared distances (A, B), without the products of whole batches that make them depend on the other rows."""
    return torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist").square()


def _joined(blocks: Sequence[Tensor], means: Sequence[Tensor], scales: Sequence[Tensor]) -> Tensor:
    return torch.cat([(block - mean) * scale for block, mean, scale in zip(blocks, means, scales, strict=True)], 1)
