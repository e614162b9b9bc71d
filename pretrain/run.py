"""Pretrain an encoder on pose sequences without labels: pretrain/run.py CONFIG data=... output=... [key=value ...]"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pretrain.config import PretrainConfig
from pretrain.trainer import Trainer
from skelcore import command
from skelcore.config import to_yaml
from skelcore.errors import InputError
from skelcore.files import write_text
from skelcore.store import Store, Subset, indices_of, open_store


def plan(config: PretrainConfig) -> str:
    """What a run would do, in a few lines."""
    trainer = _trainer(config)
    parameters = sum(p.numel() for p in trainer.encoder.parameters())
    return (f"{len(trainer.dataset)} clips of layout {trainer.layout.name}, {config.frames} frames each\n"
            f"{config.encoder.name}: {parameters:,} parameters, features of {trainer.encoder.dim}\n"
            f"{trainer.total_steps} steps of {config.batch_size} clips on {trainer.device}, into {config.output}")


def execute(config: PretrainConfig) -> None:
    """Train, and leave checkpoint.pt, config.yaml, summary.json and TensorBoard events in the output folder."""
    trainer = _trainer(config)
    output = Path(config.output)
    metrics = trainer.run()
    write_text(output / "config.yaml", to_yaml(config))
    summary = {"clips": len(trainer.dataset), "steps": trainer.step, **metrics}
    write_text(output / "summary.json", json.dumps(summary, indent=1) + "\n")
    shown = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    print(f"pretrained {config.encoder.name} for {trainer.step} steps ({shown}) -> {output / 'checkpoint.pt'}")


def _trainer(config: PretrainConfig) -> Trainer:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("WORLD_SIZE: this trains in one process; start it without torchrun")
    store = _open(config.data, config.data_layout, config.split)
    monitor = None
    if config.monitor.data is not None:
        monitor = _open(config.monitor.data, config.data_layout, config.monitor.split)
        if not (np.asarray(monitor.labels) >= 0).any():
            raise InputError(f"monitor.data={config.monitor.data}: no labels there; leave it out or give labels")
    return Trainer(config, store, monitor)


def _open(uri: str, layout: str | None, split: str | None) -> Store:
    store = open_store(uri, layout)
    found = store if split is None else Subset(store, indices_of(store, split))
    if len(found) == 0:
        raise InputError(f"data={uri}: holds no pose sequences" + (f" in split {split!r}" if split else ""))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(sys.argv[1:] if argv is None else argv, PretrainConfig, __doc__ or "", plan, execute)


if __name__ == "__main__":
    sys.exit(main())
