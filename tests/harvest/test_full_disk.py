"""A disk that fills up at any moment: one line, nothing half-written, and the same command completes what was begun."""

import errno
import io
import os
import re
import stat
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from harvest import plan, scratch, worker
from harvest.ledger import Ledger
from tests.harvest import calm, web
from tests.harvest.test_resume import World

NUMBERS = [0, 1, 2, 3, 5, 6, 9]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("calm"))
    world.add(0, NUMBERS)
    world.mended = True
    assert world.harvest(world.output) == 0
    return calm.handed_on(world.output)


def full(*name):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *name)


@contextmanager
def filling_up(after, once):
    """A disk on which the call number ``after`` that needs room finds none, nor (unless ``once``) do those after it."""
    left = [after]

    def short(call, partial=None):
        def deed(*words, **how):
            left[0] -= 1
            if left[0] == -1 or (left[0] < 0 and not once):
                if partial:
                    partial(*words, **how)
                full()
            return call(*words, **how)
        return deed

    class Short(io.FileIO):
        def write(self, data):
            left[0] -= 1
            if left[0] == -1 or (left[0] < 0 and not once):
                super().write(bytes(data)[:len(data) // 2])
                full()
            return super().write(data)

    real = os.write

    def opened(handle, mode):
        return io.BufferedWriter(Short(handle, mode))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", short(os.write, lambda file, data: real(file, bytes(data)[:len(data) // 2])))
        patch.setattr(os, "fdopen", opened)
        patch.setattr(tempfile, "mkstemp", short(tempfile.mkstemp, lambda dir, **_: full(str(dir))))
        room = short(lambda file: None)
        # Not of folders: what cannot sync them goes without.
        patch.setattr(os, "fsync", lambda file: stat.S_ISDIR(os.fstat(file).st_mode) or room(file))
        patch.setattr(os, "replace", short(os.replace))
        yield left


def check_failure(world, status, err):
    """One line, and an output folder that is whole."""
    said = [line for line in err.splitlines() if not re.match(r"\d+/\d+ videos \(", line)]
    assert status == 1 and len(said) == 1 and said[0].startswith("failed: "), err
    assert str(world.output) in err and "No space left on device" in err, err
    assert not list(world.output.rglob("*.tmp"))
    if (path := world.output / "plan.jsonl").exists():
        planned = plan.read(path)
        assert sum(1 for _ in Ledger(world.output / "ledger.jsonl", planned).rows()) <= len(planned)


@pytest.mark.slow
@pytest.mark.parametrize("once", [True, False])
def test_a_full_disk_ends_the_run_in_one_line_and_the_next_completes_it(tmp_path, capsys, undisturbed, once):
    """At each call that needs room: files that begin, the middle of one, its sync and renaming, lines of the ledger."""
    after = failures = 0
    while True:
        world = World(tmp_path / str(after))
        world.root.mkdir()
        world.add(0, NUMBERS[:2])
        world.mended = True
        with filling_up(1 << 30, once):
            assert world.harvest(world.output) == 0
        world.add(0, NUMBERS[2:])
        capsys.readouterr()
        with filling_up(after, once) as left:
            status = world.harvest(world.output)
        if left[0] >= 0:
            break
        err = capsys.readouterr().err
        if status or not once:
            check_failure(world, status, err)
            failures += 1
        # Else it was a description of tracks, which only saves time and is made again.
        assert world.harvest(world.output) == 0
        assert not calm.left_over(world.output)
        world.settled(world.output)
        if after == 0:
            first = calm.handed_on(world.output)
        assert calm.handed_on(world.output) == first
        after += 1 if after < 10 else 11
    assert failures > 12


@pytest.mark.parametrize("blocks", range(0, 40, 5))
def test_a_disk_that_is_really_full(tmp_path, capsys, undisturbed, blocks):
    """A small one of its own, with room for so many blocks of 4 KiB."""
    world = World(tmp_path)
    world.add(0, NUMBERS)
    world.mended = True
    world.output.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(world.output)]
    try:
        if subprocess.run(words, capture_output=True).returncode:
            pytest.skip("no small disk can be mounted here")
    except FileNotFoundError:
        pytest.skip("no command mount")
    try:
        for name in ("shards", "rejected", "work"):
            (world.output / name).mkdir()
        ballast, room = world.output / "ballast", os.statvfs(world.output)
        ballast.write_bytes(bytes(4096 * (room.f_bavail * room.f_frsize // 4096 - blocks)))
        capsys.readouterr()
        status = world.harvest(world.output)
        check_failure(world, status, capsys.readouterr().err)
        ballast.unlink()
        assert world.harvest(world.output) == 0
        assert calm.handed_on(world.output) == undisturbed and not calm.left_over(world.output)
    finally:
        subprocess.run(["umount", "-l", str(world.output)], check=True)


def a_full(folder, patch, kind):
    """Every file below ``folder`` finds the disk full when something is written to it, or when it is made."""
    real = io.open

    class Full(io.FileIO):
        def write(self, data):
            full()

    def opened(file, mode="r", *rest, **how):
        if isinstance(file, str | os.PathLike) and str(file).startswith(str(folder)) and "r" not in mode:
            return io.BufferedWriter(Full(file, mode.replace("b", "")))
        return real(file, mode, *rest, **how)

    if kind == "folder":
        patch.setattr(os, "mkdir", lambda *_, **__: full())
    else:
        patch.setattr("builtins.open", opened)
        patch.setattr("io.open", opened)
        patch.setattr(os, "fdopen", lambda handle, mode, *_, **__: io.BufferedWriter(Full(handle, mode)))


@pytest.mark.parametrize("kind", ["folder", "file"])
@pytest.mark.parametrize("path", ["/good.mp4", "/player.html"])
def test_a_download_without_room_is_told_as_that_and_leaves_nothing(server, tmp_path, monkeypatch, path, kind):
    web.alone(server, tmp_path, monkeypatch)
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    config = web.config().model_copy(update={"estimator": "tests.harvest.fakes:Blobs"})
    hand, source = worker.Worker(config), web.source(server.url + path)
    assert calm.outcome(hand, 0, source).status == "ok"
    with monkeypatch.context() as patch:
        a_full(tmp_path / "temp", patch, kind)
        found = calm.outcome(hand, 1, source)
    assert (found.status, found.reason) == ("failed", "disk"), found
    assert calm.outcome(hand, 2, source).status == "ok"
    assert not list((tmp_path / "temp").iterdir())


def test_a_folder_that_cannot_be_deleted_is_no_fault_of_its_video(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with monkeypatch.context() as patch, scratch.folder() as path:
        (Path(path) / "video").write_bytes(b"x")
        patch.setattr(os, "unlink", lambda *_, **__: full())
        patch.setattr(os, "rmdir", lambda *_, **__: full())
    monkeypatch.setattr(scratch, "_alive", lambda pid: False)
    scratch.sweep()
    assert not list(tmp_path.iterdir())
