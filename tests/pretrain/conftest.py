"""A small labelled set of exact mannequin poses, as a PYSKL pickle."""

from pathlib import Path

import pytest

from skelcore import mannequin
from skelcore.annotations import write_pyskl
from skelcore.store import Store, open_store


@pytest.fixture(scope="session")
def poses(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 clips of 5 actions; ``train`` and ``test`` hold different people."""
    from dataclasses import replace

    path = tmp_path_factory.mktemp("poses") / "mannequin.pkl"
    sequences, splits = [], {"train": [], "test": []}
    for label, action in enumerate(mannequin.ACTIONS[:5]):
        for person in range(4):
            for take in range(2):
                # A take of its own for every clip: views then tell nothing about the class.
                clip = mannequin.perform(action, person, 8 * label + 2 * person + take, seconds=2, fps=10)
                sequence = clip.sequence()
                sequences.append(replace(sequence, label=label))
                splits["train" if person < 3 else "test"].append(sequence.id)
    write_pyskl(path, sequences, splits, classes=list(mannequin.ACTIONS[:5]))
    return path


@pytest.fixture(scope="session")
def store(poses: Path) -> Store:
    return open_store(str(poses))
