"""Board: what TensorBoard shows of a run."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from skelcore.config import flat
from skelcore.draw import contact_sheet, reconstruction_sheet, sprite_sheet
from skelcore.errors import InputError, RunError
from skelcore.files import atomic, write_text
from skelcore.folder import Folder
from skelcore.layouts import Layout
from skelcore.sequence import PoseSequence

_SPRITE = 64  # pixels of a skeleton in the projector
_MOST_POINTS = (8192 // _SPRITE) ** 2  # TensorBoard shows no larger sheet


class Board:
    """Writes events into ``output``, a folder or any fsspec URL, or nothing at all for None, as in all processes but
    the first.

    Events of ``purge_step`` and later that an interrupted run left behind are taken back. An events file can only be
    appended to on this machine: with a URL it grows in a temporary folder, and is copied by ``flush`` and ``close``.
    """

    def __init__(self, output: str | None, purge_step: int | None = None) -> None:
        self._writer: SummaryWriter | None = None
        self._here: tempfile.TemporaryDirectory[str] | None = None
        if output is None:
            return
        self._folder = Folder(output)
        if self._folder.local is None:
            self._here = tempfile.TemporaryDirectory()
        self._writer = SummaryWriter(self._here.name if self._here else str(self._folder.local), purge_step=purge_step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Points of curves, by tag; those that are not finite are left out."""
        if self._writer is not None:
            for tag, value in values.items():
                if math.isfinite(value):
                    self._writer.add_scalar(tag, value, step)

    def views(self, clips: Sequence[PoseSequence], titles: Sequence[str], step: int) -> None:
        """A figure of a clip and its views, a row each."""
        if self._writer is not None:
            self._writer.add_figure("views", contact_sheet(clips, titles), step)

    def reconstruction(self, points: Tensor, scores: Tensor, hidden: Tensor, predicted: Tensor, layout: Layout,
                       step: int) -> None:
        """A figure of one person's ``points`` (T, V, C) with ``scores`` (T, V), of which the ``hidden`` tokens (T', V)
        were ``predicted`` (T, V, C)."""
        if self._writer is not None:
            clip = PoseSequence(_array(points), _array(scores), layout)
            self._writer.add_figure("reconstruction", reconstruction_sheet(clip, _array(hidden), _array(predicted)),
                                    step)

    def projector(self, features: np.ndarray, names: Sequence[str], clips: Sequence[PoseSequence]) -> None:
        """The embedding projector: features (n, D), each with a name and shown as its clip's middle skeleton.

        It takes the place of an earlier one. Raises InputError for more clips than TensorBoard shows.
        """
        if self._writer is None:
            return
        if not len(features) == len(names) == len(clips) <= _MOST_POINTS:
            raise InputError(f"projector: {len(features)} features, {len(names)} names and {len(clips)} clips; "
                             f"their numbers must be equal, and at most {_MOST_POINTS}")
        rows = "".join("\t".join(f"{value:.6g}" for value in row) + "\n" for row in features.tolist())
        lines = "".join(" ".join(name.split()) + "\n" for name in names)  # a tab or a line's end would shift the rest
        image = cv2.imencode(".png", sprite_sheet(clips, _SPRITE)[..., ::-1])[1].tobytes()
        self._folder.write("projector.tsv", lambda path: write_text(path, rows))
        self._folder.write("projector_names.tsv", lambda path: write_text(path, lines))
        self._folder.write("projector.png", lambda path: _write_bytes(path, image))
        self._folder.write("projector_config.pbtxt", lambda path: write_text(path, _PROJECTOR))

    def hyperparameters(self, config: Mapping[str, Any], metrics: Iterable[str]) -> None:
        """The run's row in the table of hyper-parameters: its configuration, and the tags of its figures of merit."""
        if self._writer is not None and self._writer.file_writer is not None:
            # SummaryWriter.add_hparams would show it as a second run, in a folder of its own.
            experiment, start, _ = hparams(dict(flat(config)), dict.fromkeys(metrics, 0.0))
            for summary in (experiment, start):
                self._writer.file_writer.add_summary(summary)

    def flush(self) -> None:
        """Bring what was written to disk, and to the URL; raises RunError for one that fails."""
        if self._writer is not None:
            self._writer.flush()
            self._upload()

    def close(self) -> None:
        """Flush and end; what is written later is lost."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            try:
                self._upload()
            finally:
                if self._here is not None:
                    self._here.cleanup()

    def _upload(self) -> None:
        for path in sorted(Path(self._here.name).iterdir()) if self._here else ():
            self._folder.write(path.name, partial(_copy, path))

    def __enter__(self) -> Board:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        # Why a run ends early is said, rather than that its events could not be copied either.
        with suppress(*(() if kind is None else (InputError, RunError, OSError))):
            self.close()


_PROJECTOR = f"""embeddings {{
  tensor_name: "features"
  tensor_path: "projector.tsv"
  metadata_path: "projector_names.tsv"
  sprite {{ image_path: "projector.png" single_image_dim: {_SPRITE} single_image_dim: {_SPRITE} }}
}}
"""


def _array(x: Tensor) -> np.ndarray:
    """One person's tensor as an array (1, T, V, ...)."""
    array: np.ndarray = x.detach().cpu().numpy()[None]
    return array


def _copy(path: Path, to: Path) -> None:
    shutil.copyfile(path, to)


def _write_bytes(path: Path, content: bytes) -> None:
    with atomic(path) as file:
        file.write(content)
