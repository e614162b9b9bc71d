"""The checkpoints of a run: the newest is checkpoint.pt, older ones are checkpoint-STEP.pt."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from skelcore import checkpoint
from skelcore.encoders import Encoder
from skelcore.errors import InputError, RunError
from skelcore.folder import Folder

NAME = "checkpoint.pt"
# What may change between a run and its resumption without changing its result; the data's content is checked itself.
FREE_TO_CHANGE = {"data", "monitor", "output", "device", "workers", "distributed", "num_workers", "save_every_epochs",
                  "keep", "log_every_steps"}
_PARTS = {"step", "device", "data", "objective", "trained", "optimizer", "scaler", "sampler", "metrics", "history",
          "seconds", "clips_seen", "parts"}


class Checkpoints:
    """The checkpoints in ``folder``, of which ``keep`` stay."""

    def __init__(self, folder: Folder, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self._newest: int | None = None  # step of the newest one

    def load(self) -> dict[str, Any] | None:
        """The newest checkpoint, or None; raises InputError for one that is damaged, with the way back."""
        names = self.folder.names()
        older = self._older(names)
        if NAME not in names:
            return None
        try:
            found = self.folder.read(NAME, checkpoint.load)
        except InputError as error:
            raise InputError(f"{error}; put {older[-1]} in its place to resume from there" if older else
                             str(error)) from None
        assert isinstance(found, dict)
        self._newest = found.get("step")
        return found

    def save(self, encoder: Encoder, frames: int, stream: str, step: int, **state: Any) -> None:
        """Write the newest one, keep the one before under its step, and delete the oldest."""
        if self.keep > 1 and self._newest not in (None, step):
            self.folder.copy(NAME, f"checkpoint-{self._newest:09d}.pt")
        self.folder.write(NAME, lambda path: checkpoint.save_encoder(path, encoder, frames, stream, step=step, **state))
        self._newest = step
        older = self._older(self.folder.names())
        for name in older[:max(0, len(older) - (self.keep - 1))]:
            self.folder.remove(name)

    def save_partner(self, name: str, encoder: Encoder, frames: int, stream: str, **state: Any) -> None:
        """Write another encoder that the run has trained as NAME.pt, for adaptation."""
        self.folder.write(f"{name}.pt", lambda path: checkpoint.save_encoder(path, encoder, frames, stream, **state))

    @property
    def place(self) -> str:
        """Where the newest one is, for people to read."""
        return self.folder.place(NAME)

    def _older(self, names: list[str]) -> list[str]:
        return [name for name in names if re.fullmatch(r"checkpoint-\d+\.pt", name)]


def check(state: dict[str, Any], config: dict[str, Any], device: str, parts: int, where: str) -> None:
    """Raise InputError unless a run of ``config`` on ``device`` with views in ``parts`` may go on from ``state``."""
    old = state.get("config")
    if not isinstance(old, dict) or _PARTS.difference(state):
        raise InputError(f"{where} was not written by a pretraining run; choose another output= or remove it")
    differing = [key for key in config if key not in FREE_TO_CHANGE and old.get(key) != config[key]]
    if differing:
        raise InputError(f"{where} belongs to a run with another configuration ({', '.join(differing)}); "
                         "choose another output= or remove it")
    if state["parts"] != parts:
        raise InputError(f"{where} was trained with views drawn in {state['parts']} parts, this run would use {parts}; "
                         f"take view_parts={state['parts']} or as many processes, or choose another output=")
    if state["device"] != device:
        raise InputError(f"{where} was trained on {state['device']}, whose random numbers {device} cannot go on with; "
                         f"resume with device={state['device']}, or choose another output=")


def start(encoder: Encoder, path: str) -> Tensor | None:
    """Copy the weights of another run's checkpoint into ``encoder``; returns which clips they have seen, None: unknown.

    Raises InputError where they do not fit.
    """
    where = Path(path)
    other, meta = checkpoint.load_encoder(where, encoder.name, encoder.layout)
    if other.spec != encoder.spec:
        raise InputError(f"init={path}: its encoder is {other.spec}, this run's {encoder.spec}")
    encoder.load_state_dict(other.state_dict())
    return meta.get("seen")


@contextmanager
def writing(output: str) -> Iterator[None]:
    """Say in a RunError that a disk refuses: nothing that was written before is harmed."""
    previous = threading.excepthook
    # TensorBoard's thread keeps its error for whoever writes next, which is enough.
    threading.excepthook = lambda args: None if isinstance(args.exc_value, OSError) else previous(args)
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RunError(f"output={output}: cannot be written to ({error.strerror or error}); free some space and start "
                       "the same command again: it goes on from the last checkpoint, which is whole") from None
    finally:
        threading.excepthook = previous
