"""What tests of whole runs share: tiny configurations, stops on the way, and what a checkpoint holds."""

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from pretrain.config import PretrainConfig
from pretrain.trainer import Interrupted, Trainer
from skelcore import checkpoint, shards
from skelcore.batches import Batch
from skelcore.config import build
from skelcore.store import Store

# One of each objective, on an encoder for which it makes sense, small enough for a few steps a second.
OBJECTIVES: dict[str, dict[str, Any]] = {
    "moco": {"objective": {"name": "moco", "queue": 16, "projection": 8, "mining_from": 0.5}},
    "vicreg": {"objective": {"name": "vicreg", "expander": 16, "partial": 1.0}},
    "barlow": {"objective": {"name": "barlow", "expander": 16, "confidence": True}},
    "distill": {"objective": {"name": "distill", "queue": 16, "projection": 8, "partners": [
        {"name": "x3d-shallow", "width": 8}, {"name": "stgcn++", "stream": "joint_motion", "width": 8}]}},
    "masked_motion": {"objective": {"name": "masked_motion"}, "encoder": {"name": "transformer", "width": 16}},
    "latent": {"objective": {"name": "latent", "predictor": 16}},
    "latent of tokens": {"objective": {"name": "latent"}, "encoder": {"name": "transformer", "width": 16}},
    "nnclr": {"objective": {"name": "nnclr", "hidden": 16, "projection": 8, "support": 16}},
    "supervised": {"objective": {"name": "supervised", "smoothing": 0.1}},
}


def config(data: object, output: object, **changes: Any) -> PretrainConfig:
    """Five steps an epoch on the mannequin's 40 clips."""
    values = {"data": data if isinstance(data, list) else str(data), "output": str(output), "frames": 8, "epochs": 2,
              "batch_size": 8, "encoder": {"width": 8}, "objective": {"expander": 16}, "device": "cpu",
              "log_every_steps": 1, "monitor": {"every_epochs": 99}, "save_every_epochs": 1}
    return build(PretrainConfig, {**values, **changes}, "test")


def state(folder: Path) -> dict[str, Any]:
    """The checkpoint less the clock, flat."""
    found = checkpoint.load(folder / "checkpoint.pt")
    del found["seconds"], found["config"]
    return dict(_flat(found))


def assert_equal(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Bit for bit."""
    assert first.keys() == second.keys()
    assert [key for key, value in first.items() if not _same(value, second[key])] == []


def interrupt_at(config: PretrainConfig, step: int) -> None:
    """Start or resume a run, to which a signal comes in ``step``."""
    with after_step(step, lambda: os.kill(os.getpid(), signal.SIGTERM)), pytest.raises(Interrupted) as caught:
        Trainer(config).run()
    assert caught.value.signal == signal.SIGTERM


def after_step(step: int, act: Callable[[], object]) -> Any:
    """A context in which trainers call ``act`` in that step."""
    train_step = Trainer.train_step

    def then_act(self: Trainer, batches: Sequence[Batch]) -> dict[str, torch.Tensor]:
        shown = train_step(self, batches)
        if self.step == step:
            act()
        return shown

    return mock.patch.object(Trainer, "train_step", then_act)


def write_shard(path: Path, store: Store, positions: Sequence[int]) -> None:
    """A shard of those clips, each a video of its own."""
    path.parent.mkdir(exist_ok=True)
    shards.write(path, [shards.Block(f"clip-{i}", [store[i]], [{}], {}, {}) for i in positions])


def _flat(value: Any, name: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [leaf for key, inner in items for leaf in _flat(inner, f"{name}.{key}")]
    return [(name, value)]


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    return bool(first == second or (first != first and second != second))
