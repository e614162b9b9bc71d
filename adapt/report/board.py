"""The run's row in TensorBoard's table of hyper-parameters."""

from __future__ import annotations

from pathlib import Path

from adapt.results import Results
from skelcore.config import flat


def write(folder: Path, results: Results) -> None:
    """Write the configuration and every accuracy as events, in place of those of an earlier evaluation."""
    # It takes seconds to import, which other commands need not wait for.
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    metrics = {f"{row.name}/{row.k}": row.mean for row in results.rows}
    with SummaryWriter(str(folder)) as writer:
        # SummaryWriter.add_hparams would show it as a second run, in a folder of its own.
        for summary in hparams({"benchmark": results.benchmark.name, **dict(flat(results.config))}, metrics):
            writer._get_file_writer().add_summary(summary)
        for tag, value in metrics.items():
            writer.add_scalar(tag, value, 0)
