"""Folder: the same files at a path and at a URL, whole or not at all."""

import uuid
from pathlib import Path

import fsspec
import pytest

from skelcore.errors import InputError, RunError
from skelcore.files import write_text
from skelcore.folder import Folder


@pytest.fixture(params=["path", "file URL", "memory URL"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    place = {"path": str(tmp_path / "a/b"), "file URL": f"file://{tmp_path}/a/b",
             "memory URL": f"memory://{uuid.uuid4().hex}/b"}
    return Folder(place[request.param])


def put(folder: Folder, name: str, text: str) -> None:
    folder.write(name, lambda path: write_text(path, text))


def test_files_are_written_listed_copied_read_and_removed(folder: Folder) -> None:
    assert folder.names() == []
    folder.create()
    folder.create()
    put(folder, "b.txt", "one")
    put(folder, "a.txt", "two")
    folder.copy("b.txt", "c.txt")
    put(folder, "b.txt", "three")
    assert folder.names() == ["a.txt", "b.txt", "c.txt"]
    assert [folder.read(name, Path.read_text) for name in folder.names()] == ["two", "three", "one"]
    folder.copy("b.txt", "c.txt")
    assert folder.read("c.txt", Path.read_text) == "three"
    folder.remove("a.txt")
    assert folder.names() == ["b.txt", "c.txt"]
    assert folder.place("b.txt") == f"{folder.uri}/b.txt"


def test_a_writer_that_fails_leaves_nothing_or_the_old_file(folder: Folder) -> None:
    def fail(path: Path) -> None:
        path.write_text("half") if folder.local is None else None
        raise RunError("no room")

    folder.create()
    for before in ([], ["a.txt"]):
        with pytest.raises(RunError, match="no room"):
            folder.write("a.txt", fail)
        assert folder.names() == before
        put(folder, "a.txt", "old")
    assert folder.read("a.txt", Path.read_text) == "old"


def test_others_see_a_remote_file_only_when_it_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder("memory://seen")
    folder.create()
    files = fsspec.filesystem("memory")
    seen: list[list[str]] = []
    move = type(files).mv

    def looking(self: object, *arguments: object, **options: object) -> None:
        seen.append(folder.names())
        move(self, *arguments, **options)

    monkeypatch.setattr(type(files), "mv", looking)
    put(folder, "a.txt", "whole")
    (during,) = seen
    assert "a.txt" not in during and folder.names() == ["a.txt"]


def test_only_paths_and_file_urls_are_local(tmp_path: Path) -> None:
    assert Folder(str(tmp_path)).local == Folder(f"file://{tmp_path}").local == tmp_path
    assert Folder("memory://x").local is None


def test_places_that_cannot_be_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"output=.*file/below: cannot be written: Not a directory"):
        Folder(str(tmp_path / "file/below")).create()
    with pytest.raises(InputError, match="output=nosuch://x: cannot be reached"):
        Folder("nosuch://x")
    with pytest.raises(InputError, match="shards=nosuch://x"):
        Folder("nosuch://x", "shards")
    with pytest.raises(InputError, match=r"memory://gone/a.txt: no such file"):
        Folder("memory://gone").read("a.txt", Path.read_text)
    with pytest.raises(InputError, match=r"memory://gone/a.txt: no such file"):
        Folder("memory://gone").remove("a.txt")


def test_a_copy_needs_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError("no links on this drive")

    folder = Folder(str(tmp_path))
    put(folder, "a.txt", "one")
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    folder.copy("a.txt", "b.txt")
    put(folder, "a.txt", "two")
    assert folder.read("b.txt", Path.read_text) == "one"
