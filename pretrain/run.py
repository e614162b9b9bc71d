"""Pretrain an encoder on pose sequences without labels: pretrain/run.py CONFIG data=... output=... [key=value ...]"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence

from pretrain import distributed, recipes, summary
from pretrain.checkpoints import writing
from pretrain.config import PretrainConfig
from pretrain.distributed import Group
from pretrain.trainer import Trainer
from skelcore import command
from skelcore.config import to_yaml
from skelcore.files import write_text


def plan(config: PretrainConfig) -> str:
    """What a run would do, in a few lines."""
    trainer = Trainer(config)
    parameters = sum(p.numel() for p in trainer.encoder.parameters())
    counts = " + ".join(f"{length} of {source.uri}" for length, source in
                        zip(trainer.dataset.lengths, config.data, strict=True))
    return (f"{len(trainer.dataset)} clips ({counts}) in layout {trainer.dataset.layout.name}, {config.frames} frames "
            f"each\n"
            f"{config.encoder.name}: {parameters:,} parameters, features of {trainer.encoder.dim}\n"
            f"{config.objective.name}: {trainer.total_steps} steps of {config.batch_size * config.accumulate} clips on "
            f"{trainer.device}, into {config.output}")


def train(config: PretrainConfig, group: Group) -> dict[str, float]:
    """Train in one of the processes; the first writes config.yaml and summary.md when the run has ended."""
    trainer = Trainer(config, group)
    metrics = trainer.run()
    if group.first:
        folder = trainer.checkpoints.folder
        with writing(config.output):
            # In it each source names its split and layout, and would else name none rather than the run's.
            resolved = config.model_copy(update={"data": config.sources})
            folder.write("config.yaml", lambda path: write_text(path, to_yaml(resolved)))
            summary.write(folder, _facts(trainer))
    return metrics


def _facts(trainer: Trainer) -> summary.Facts:
    config, data = trainer.config, trainer.dataset
    sources = [summary.Data(part.source.uri, len(part.store), part.store.fingerprint, part.source.weight)
               for part in trainer.data.parts]
    return summary.Facts(
        encoder=config.encoder.name, parameters=sum(p.numel() for p in trainer.encoder.parameters()),
        features=trainer.encoder.dim, objective=config.objective.name, layout=data.layout.name, stream=config.stream,
        frames=config.frames, data=sources, seed=config.seed, steps=trainer.step, epochs=config.epochs,
        batch_size=config.batch_size * config.accumulate, processes=trainer.group.world,
        distributed=config.distributed, device=trainer.device.type, precision=config.precision,
        seconds=trainer.meter.seconds, clips_seen=trainer.meter.clips, metrics=trainer.metrics, history=trainer.history)


def execute(config: PretrainConfig) -> None:
    """Train, and leave checkpoint.pt, config.yaml, summary.md and TensorBoard events in the output folder."""
    metrics = distributed.run(functools.partial(train, config), config.distributed, config.num_workers, config.device)
    if metrics is not None:
        shown = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        print(f"pretrained {config.encoder.name} by {config.objective.name} ({shown}) -> {config.output}")


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--list"]:
        return command.guarded(lambda: print(recipes.listing()))
    return command.run(words, PretrainConfig, __doc__ or "", plan, execute)


if __name__ == "__main__":
    sys.exit(main())
