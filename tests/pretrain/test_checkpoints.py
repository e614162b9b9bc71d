"""Checkpoints of a run: which stay, what is said of damaged ones, and disks that refuse."""

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.checkpoints import NAME, Checkpoints, check, start, writing
from skelcore import checkpoint
from skelcore.encoders import build
from skelcore.errors import InputError, RunError
from skelcore.folder import Folder

ENCODER = build("stgcn++", "coco17", width=8)
STATE: dict[str, Any] = {name: {} for name in (
    "data", "objective", "trained", "optimizer", "scaler", "sampler", "metrics", "history", "seconds", "clips_seen")}
STATE["parts"] = 2
CONFIG = {"seed": 0, "epochs": 3, "workers": 0}


def save(checkpoints: Checkpoints, step: int) -> None:
    checkpoints.save(ENCODER, 8, "joint", step, device="cpu", config=CONFIG, **STATE)


def steps(folder: str) -> dict[str, int]:
    """What is in the folder, each with the step that it was saved at."""
    place = Folder(folder)
    return {name: place.read(name, checkpoint.load)["step"] for name in place.names()}  # type: ignore[index]


@pytest.mark.parametrize("kind", ["local", "memory"])
@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_stay_and_each_holds_what_its_name_says(tmp_path: Path, kind: str, keep: int) -> None:
    folder = str(tmp_path) if kind == "local" else f"memory://rotation{keep}"
    Folder(folder).create()
    for saved in ((5, 10), (15, 15, 20)):  # a run, and the one that resumes it
        checkpoints = Checkpoints(Folder(folder), keep)
        found = checkpoints.load()
        assert (None if found is None else found["step"]) == (None if saved[0] == 5 else 10)
        for step in saved:
            save(checkpoints, step)
    kept = [20, 15, 10][:keep]
    assert steps(folder) == {NAME: 20, **{f"checkpoint-{step:09d}.pt": step for step in kept[1:]}}
    save(Checkpoints(Folder(folder), 1), 25)
    assert steps(folder) == {NAME: 25}


def test_a_damaged_checkpoint_is_refused_with_the_way_back(tmp_path: Path) -> None:
    checkpoints = Checkpoints(Folder(str(tmp_path)), 2)
    save(checkpoints, 5)
    whole = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(whole[:-1000])
    with pytest.raises(InputError, match=r"damaged or not a checkpoint[^;]*$"):
        checkpoints.load()
    (tmp_path / NAME).write_bytes(whole)
    save(checkpoints, 10)
    (tmp_path / NAME).write_bytes(whole[:2000] + b"\xff" + whole[2001:])
    with pytest.raises(InputError, match=r"put checkpoint-000000005.pt in its place to resume from there"):
        Checkpoints(Folder(str(tmp_path)), 2).load()
    os.replace(tmp_path / "checkpoint-000000005.pt", tmp_path / NAME)
    assert checkpoints.load()["step"] == 5  # type: ignore[index]


def test_only_a_run_of_the_same_meaning_goes_on() -> None:
    state = {**STATE, "step": 5, "device": "cpu", "config": CONFIG}
    check(state, {**CONFIG, "workers": 4}, "cpu", 2, "x")
    for changed, config, device, message in (
            ({}, {**CONFIG, "epochs": 4, "seed": 1}, "cpu", r"^x belongs to .* configuration \(seed, epochs\)"),
            ({}, {**CONFIG, "new": 1}, "cpu", r"\(new\)"), ({}, CONFIG, "cuda", "resume with device=cpu"),
            ({"parts": 4}, CONFIG, "cpu", "in 4 parts, this run would use 2; take view_parts=4"),
            ({"config": None}, CONFIG, "cpu", "not written by a pretraining run")):
        with pytest.raises(InputError, match=message):
            check({**state, **changed}, config, device, 2, "x")
    for part in STATE:
        with pytest.raises(InputError, match="not written by a pretraining run"):
            check({key: value for key, value in state.items() if key != part}, CONFIG, "cpu", 2, "x")


def test_a_failed_save_leaves_the_last_one_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(Folder(str(tmp_path)), 2)
    save(checkpoints, 5)

    def full(contents: object, file: Any) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(RunError, match=r"checkpoint.pt: cannot write the checkpoint: .*No space left"):
            save(checkpoints, 10)
    assert set(steps(str(tmp_path)).values()) == {5}
    save(checkpoints, 10)  # the same process may go on
    assert steps(str(tmp_path)) == {NAME: 10, "checkpoint-000000005.pt": 5}


def test_refusing_disks_are_one_line_and_silent_in_threads(capsys: pytest.CaptureFixture[str]) -> None:
    hook = threading.excepthook

    def fail(error: Exception) -> None:
        raise error

    for error in (OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EFBIG, "File too large")):
        with pytest.raises(RunError, match=rf"output=there: .*\({error.strerror}\).*which is whole") as caught, \
                writing("there"):
            thread = threading.Thread(target=fail, args=(error,))
            thread.start()
            thread.join()
            raise error
        assert "\n" not in str(caught.value) and capsys.readouterr().err == ""
    for other in (BrokenPipeError(), ValueError("mine"), InputError("mine")):
        with pytest.raises(type(other)), writing("there"):
            raise other
    assert threading.excepthook is hook


def test_a_start_copies_weights_that_fit(tmp_path: Path) -> None:
    checkpoint.save_encoder(tmp_path / "a.pt", ENCODER, 8, "joint")
    other = build("stgcn++", "coco17", width=8)
    start(other, str(tmp_path / "a.pt"))
    assert all(torch.equal(value, ENCODER.state_dict()[key]) for key, value in other.state_dict().items())
    for encoder in (build("stgcn++", "coco17", 4, 8), build("stgcn++", "penn13", width=8)):
        before = {key: value.clone() for key, value in encoder.state_dict().items()}
        with pytest.raises(InputError, match=r"a\.pt"):
            start(encoder, str(tmp_path / "a.pt"))
        assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
